//! [`RingPages`]: a new index whose pages parallel workers write and log, all but the first few.

use std::time::{Duration, Instant};

use omen_ivf::Result;
use omen_ivf::store::{BulkWriter, PAGE_BYTES};
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::BulkPages;
use super::page_ring::{BATCH_PAGES, PageRing};
use crate::error::PgError;

/// As [`BulkPages`], through a ring.
pub(crate) struct RingPages<'a> {
    /// What this process writes and logs: the reserved pages.
    reserved: BulkPages,
    ring: &'a PageRing,
    n_blocks: u32,
    /// Number of the batch that is filled, and its pages so far.
    batch: u64,
    n_pages: usize,
    waited: Duration,
}

impl<'a> RingPages<'a> {
    /// `reserved` is of the main fork of an index without pages; workers empty the ring.
    pub(crate) fn new(reserved: BulkPages, ring: &'a PageRing) -> Self {
        Self {
            reserved,
            ring,
            n_blocks: 0,
            batch: 0,
            n_pages: 0,
            waited: Duration::ZERO,
        }
    }

    fn hand_over(&mut self) {
        if self.n_pages > 0 {
            self.ring.hand_over(self.batch, self.n_pages, self.n_blocks);
            self.batch += 1;
            self.n_pages = 0;
        }
    }

    /// Waits until all pages are in buffers; the reserved ones are logged then, of the others workers may still have to log some.
    pub(crate) fn finish(mut self) {
        self.hand_over();
        let began = Instant::now();
        self.ring.close();
        self.reserved.log_all();
        PgError::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("omen index has {} pages", self.n_blocks),
        )
        .with_detail(format!(
            "Handed to workers with {:.2} s of waiting for them, {:.2} s more until all were put into buffers.",
            self.waited.as_secs_f64(),
            began.elapsed().as_secs_f64()
        ))
        .report(PgLogLevel::DEBUG1);
    }
}

impl BulkWriter for RingPages<'_> {
    fn reserve(&mut self, n: u32) -> Result<u32> {
        assert_eq!(
            self.n_blocks,
            self.reserved.n_blocks(),
            "pages are reserved before others are written"
        );
        let first = self.reserved.reserve(n)?;
        self.n_blocks = self.reserved.n_blocks();
        Ok(first)
    }

    fn append(&mut self, page: &[u8]) -> Result<u32> {
        self.append_all(page)
    }

    #[allow(unsafe_code)]
    fn append_all(&mut self, pages: &[u8]) -> Result<u32> {
        let first = self.n_blocks;
        if first == self.reserved.n_blocks() {
            self.ring.begin(first, self.reserved.is_logged());
        }
        let (mut rest, _) = pages.as_chunks::<PAGE_BYTES>();
        while !rest.is_empty() {
            let began = Instant::now();
            // SAFETY: this process fills the ring; the memory is used within this turn, before the batch is handed over.
            let memory = unsafe { self.ring.memory(self.batch) };
            self.waited += began.elapsed();
            let n = rest.len().min(BATCH_PAGES - self.n_pages);
            memory[self.n_pages..self.n_pages + n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            self.n_pages += n;
            self.n_blocks += n as u32;
            if self.n_pages == BATCH_PAGES {
                self.hand_over();
            }
        }
        Ok(first)
    }

    fn write_at(&mut self, block: u32, page: &[u8]) -> Result<()> {
        self.reserved.write_at(block, page)
    }

    fn check_interrupts(&mut self) -> Result<()> {
        self.reserved.check_interrupts()
    }
}
