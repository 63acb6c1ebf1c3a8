//! Parallel workers write the pages of a new index and log them, while the process that builds makes the next and calibrates.
#![allow(unsafe_code)]

use pgrx::prelude::*;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

use super::build_workers;
use super::heap_rows::HeapRows;
use super::parallel::{self, Member, Plan, Team};
use crate::error::{PgError, Result};
use crate::storage::{BulkPages, PageRing, RingPages, empty_ring};

/// They send nothing; that their queue closes tells of their end.
const QUEUE_BYTES: usize = 1 << 10;

/// Workers that wait for pages.
pub(super) struct Writers<'a> {
    team: Team<'a, ()>,
    ring: &'a PageRing,
}

impl<'a> Writers<'a> {
    /// Starts workers for an index of so many pages, if that pays and they can be had.
    ///
    /// # Safety
    /// `rows` is what `ambuild` was called with; the index has no pages yet.
    pub(super) unsafe fn start(rows: &'a HeapRows, n_pages: u64) -> Option<Self> {
        // SAFETY: by this function's contract. The ring lives as long as the team.
        unsafe {
            let n_workers = build_workers::planned_writers(rows, n_pages);
            if n_workers == 0 {
                return None;
            }
            let plan = Plan {
                n_workers,
                worker: c"omen_write_worker",
                told: (),
                queue_bytes: QUEUE_BYTES,
                memory_bytes: PageRing::bytes(n_workers),
            };
            let team = Team::start(rows, plan, |memory| {
                PageRing::init(memory, n_workers, rows.index);
            })?;
            let ring = PageRing::at(team.memory());
            Some(Self { team, ring })
        }
    }

    /// Where pages are to be put; `reserved` takes the first ones. Errors: a worker could not be started.
    pub(super) fn pages(&self, reserved: BulkPages) -> RingPages<'a> {
        self.team.wait_for_start();
        RingPages::new(reserved, self.ring)
    }

    /// Waits until all pages are logged. Returns the number of workers. Errors: theirs.
    pub(super) fn finish(self) -> Result<usize> {
        let n_workers = self.team.n_workers();
        let mut summary = String::new();
        let ring = self.ring;
        self.team.finish(&mut |(), _| {
            // The ring goes with the team.
            summary = ring.summary();
            Ok(())
        })?;
        PgError::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("omen index written by {n_workers} parallel workers"),
        )
        .with_detail(summary)
        .report(PgLogLevel::DEBUG1);
        Ok(n_workers)
    }
}

/// A worker's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn omen_write_worker(
    seg: *mut pg_sys::dsm_segment,
    toc: *mut pg_sys::shm_toc,
) {
    // SAFETY: Postgres calls this in a worker that `Writers::start` has launched, with the memory it has filled.
    let outcome = unsafe { parallel::serve(seg, toc, work) };
    if let Err(error) = outcome {
        error.raise();
    }
}

fn work(member: &mut Member<()>) -> Result<()> {
    // SAFETY: the process that builds has put the ring there, and keeps it until all workers have ended; the index is open.
    unsafe { empty_ring(PageRing::at(member.memory), member.rows.index) }
}
