//! The thread that finds the lists of rows while the process that builds goes on receiving others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use omen_ivf::Tid;
use omen_ivf::assign::Assign;
use omen_ivf::build_entries::Chunk;
use omen_ivf::form::RowForm;
use omen_ivf::row_batch::RowBatch;
use omen_ivf::stored::StoredVector;
use pgrx::PgSqlErrorCode;
use rayon::prelude::*;

use crate::error::{PgError, Result};
use crate::threads::{self, InDriver};

/// What the thread is given.
pub(super) enum Rows {
    /// Rows in their stored form.
    Stored(RowBatch),
    /// Inputs, `[n, input_words]`, and where they are from, `[n]`.
    Vectors(Vec<f32>, Vec<Tid>),
}

/// The thread. Dropping it ends it: what it has begun it brings to an end, what waits it leaves.
pub(super) struct AssignThread {
    /// `None` only while it is dropped.
    rows: Option<Sender<Rows>>,
    chunks: Receiver<omen_ivf::Result<Chunk>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    n_out: usize,
}

impl AssignThread {
    /// Starts it. `pool` stores the user's vectors. Errors: the system has no thread left.
    pub(super) fn start(
        form: RowForm,
        mut assign: Box<dyn Assign>,
        pool: Arc<rayon::ThreadPool>,
    ) -> Result<Self> {
        threads::mind_driver_at_exit();
        let (rows, given) = channel::<Rows>();
        let (done, chunks) = channel();
        let ends = Arc::new(AtomicBool::new(false));
        let seen = ends.clone();
        let work = move || {
            for rows in given {
                if seen.load(Ordering::Relaxed) {
                    return;
                }
                let stored = match rows {
                    Rows::Stored(rows) => Ok(rows),
                    Rows::Vectors(vectors, tids) => pool.install(|| store(form, &vectors, &tids)),
                };
                let in_driver = assign.uses_driver().then(InDriver::enter);
                if let Some(None) = in_driver {
                    // Giving device memory back is a call of the driver too.
                    std::mem::forget(assign);
                    return;
                }
                let chunk = stored.map(|rows| {
                    let coarse = pool.install(|| form.coarse_rows(rows.rows()));
                    let lists = assign.assign(&coarse);
                    Chunk { rows, lists }
                });
                drop(in_driver);
                if done.send(chunk).is_err() {
                    return;
                }
            }
        };
        let thread = threads::start("omen assign", work).map_err(|e| threads::not_started(&e))?;
        Ok(Self {
            rows: Some(rows),
            chunks,
            ends,
            thread: Some(thread),
            n_out: 0,
        })
    }

    /// What it was given and has not given back.
    pub(super) fn n_out(&self) -> usize {
        self.n_out
    }

    /// Gives it rows; does not wait.
    pub(super) fn give(&mut self, rows: Rows) {
        self.n_out += 1;
        if let Some(sender) = &self.rows {
            // One that has ended shows when its result is waited for.
            let _ = sender.send(rows);
        }
    }

    /// The next chunk, in the order in which they were given; `None` if none is out. Waits for it if `waits`, looking for interrupts; else `None` too if
    /// none is ready. Errors: the thread has panicked.
    pub(super) fn take(&mut self, waits: bool) -> Result<Option<Chunk>> {
        if self.n_out == 0 {
            return Ok(None);
        }
        let chunk = if waits {
            threads::receive(&self.chunks)
        } else {
            match self.chunks.try_recv() {
                Err(TryRecvError::Empty) => return Ok(None),
                chunk => chunk.ok(),
            }
        };
        let chunk = chunk.ok_or_else(|| self.panicked())?;
        self.n_out -= 1;
        Ok(Some(chunk?))
    }

    fn panicked(&mut self) -> PgError {
        let panic = self.thread.take().and_then(|thread| thread.join().err());
        let text = panic.as_ref().and_then(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied())
        });
        PgError::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "the thread that assigns rows to lists has ended",
        )
        .with_detail(text.unwrap_or("It did not say why.").to_owned())
    }
}

/// Also while an error unwinds: calls nothing of Postgres.
impl Drop for AssignThread {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.rows = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Brings vectors into their stored form, on the pool of the thread that calls.
fn store(form: RowForm, vectors: &[f32], tids: &[Tid]) -> omen_ivf::Result<RowBatch> {
    let stored: Vec<Option<StoredVector>> = vectors
        .par_chunks_exact(form.input_words())
        .map(|v| form.to_stored(v))
        .collect::<omen_ivf::Result<_>>()?;
    let mut rows = RowBatch::with_capacity(form.row_words() as usize, tids.len());
    for (tid, stored) in tids.iter().zip(&stored) {
        // Zero vectors under cosine are not indexed.
        if let Some(stored) = stored {
            rows.push(*tid, stored);
        }
    }
    Ok(rows)
}
