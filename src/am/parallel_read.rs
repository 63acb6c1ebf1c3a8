//! Parallel workers read the table of a build: they fetch the rows, detoast them and bring them into their stored form; the process that
//! builds assigns them to lists.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use omen_ivf::Tid;
use omen_ivf::form::RowForm;
use omen_ivf::row_batch::RowBatch;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::entry_sink::EntrySink;
use super::heap_rows::HeapRows;
use super::parallel::{self, Member, Queue, SEND_BYTES};
use super::{progress, sample};
use crate::error::Result;

/// What workers are told, and what they tell.
#[repr(C)]
struct Reading {
    form: RowForm,
    /// Rows of the table, NULLs included, of workers that have ended.
    n_rows: AtomicU64,
    /// Blocks begun.
    n_blocks: AtomicU64,
}

/// Reads the table with up to `n_workers` workers. Returns the number of its rows, NULLs included, and of workers; `None` if no worker could be started. Errors: those
/// of reading, and of `sink`.
///
/// # Safety
/// `rows` is what `ambuild` was called with.
pub(super) unsafe fn read_table(
    rows: &HeapRows,
    n_workers: usize,
    sink: &mut EntrySink,
) -> Result<Option<(f64, usize)>> {
    let told = Reading {
        form: *sink.form(),
        n_rows: AtomicU64::new(0),
        n_blocks: AtomicU64::new(0),
    };
    let mut receive = |told: &Reading, batch: Option<&[u8]>| {
        if let Some(batch) = batch {
            return sink.put_stored(batch);
        }
        progress::blocks_done(told.n_blocks.load(Ordering::Relaxed));
        Ok(())
    };
    // SAFETY: by this function's contract.
    let read = unsafe { parallel::run(rows, n_workers, c"omen_build_worker", told, &mut receive)? };
    Ok(read.map(|(n_launched, told)| {
        // Blocks without rows for the index count too.
        progress::blocks_done(u64::from(rows.n_blocks()));
        (told.n_rows.into_inner() as f64, n_launched)
    }))
}

/// A worker's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn omen_build_worker(
    seg: *mut pg_sys::dsm_segment,
    toc: *mut pg_sys::shm_toc,
) {
    // SAFETY: Postgres calls this in a worker that `read_table` has launched, with the memory it has filled.
    let outcome = unsafe { parallel::serve(seg, toc, work) };
    if let Err(error) = outcome {
        error.raise();
    }
}

/// Reads a worker's part of the table.
fn work(member: &mut Member<Reading>) -> Result<()> {
    let scan = member.begin_scan();
    let (rows, told) = (&member.rows, member.told);
    let mut sender = Sender {
        queue: &mut member.queue,
        form: told.form,
        batch: RowBatch::new(told.form.row_words() as usize),
        bytes: Vec::new(),
    };
    let mut block = pg_sys::InvalidBlockNumber;
    let mut visit = |tid: Tid, value: &super::heap_rows::HeapValue| {
        if tid.block != block {
            block = tid.block;
            told.n_blocks.fetch_add(1, Ordering::Relaxed);
        }
        value.with(|v| sender.put(tid, v))?
    };
    // SAFETY: a part of a parallel scan, begun above.
    let n_rows = unsafe { rows.for_each_of(scan, &mut visit) };
    sender.send()?;
    told.n_rows.fetch_add(n_rows as u64, Ordering::Relaxed);
    Ok(())
}

/// A worker's rows on their way.
struct Sender<'a> {
    queue: &'a mut Queue,
    form: RowForm,
    batch: RowBatch,
    bytes: Vec<u8>,
}

impl Sender<'_> {
    fn put(&mut self, tid: Tid, v: &[f32]) -> Result<()> {
        sample::check_dim(self.form.kind(), self.form.dim(), v)?;
        // Zero vectors under cosine are not indexed.
        if let Some(stored) = self.form.to_stored(v)? {
            self.batch.push(tid, &stored);
            if self.batch.n_bytes() >= SEND_BYTES {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch.encode(&mut self.bytes);
        self.batch.clear();
        self.queue.send(&self.bytes)
    }
}
