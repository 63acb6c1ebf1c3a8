//! Takes rows of the table, as the user's vectors or as stored rows, has them assigned to lists chunk by chunk by a thread, and sorts them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use omen_ivf::assign::Assign;
use omen_ivf::build_entries::MAX_CHUNK_ROWS;
use omen_ivf::form::RowForm;
use omen_ivf::row_batch::RowBatch;
use omen_ivf::{Tid, VectorKind};

use super::assign_thread::{AssignThread, Rows};
use super::entry_sort::EntrySort;
use super::{progress, sample};
use crate::error::Result;

/// Chunks that are with the thread at most: it works on one, and finds the next when it is done.
const MAX_OUT: usize = 2;
/// Empty chunks that are made ready.
const N_READY: usize = 2;
/// Most bytes and rows of a chunk: enough for all threads of the largest machines, and few enough that progress shows.
const MAX_CHUNK_BYTES: usize = 16 << 20;
const MAX_ROWS: usize = 16_384;
/// Most products of a chunk for each thread, some tenths of a second: a build that is ended waits for the chunk under way.
const MAX_WORK: usize = 8_000_000_000;
const _: () = assert!(MAX_ROWS <= MAX_CHUNK_ROWS);

/// Where the rows of a build go.
pub(super) struct EntrySink {
    form: RowForm,
    thread: AssignThread,
    sort: EntrySort,
    /// Rows of a full chunk.
    full: usize,
    /// Inputs, `[n, input_words]`.
    vectors: Vec<f32>,
    tids: Vec<Tid>,
    stored: RowBatch,
    ready: Ready,
}

/// Empty chunks, made by threads: that the system gives fresh memory takes longer than filling it.
struct Ready {
    pool: Arc<rayon::ThreadPool>,
    sender: Sender<RowBatch>,
    chunks: Receiver<RowBatch>,
    n_made: usize,
}

impl Ready {
    fn new(pool: &Arc<rayon::ThreadPool>) -> Self {
        let (sender, chunks) = channel();
        Self {
            pool: pool.clone(),
            sender,
            chunks,
            n_made: 0,
        }
    }

    /// An empty chunk for `n` rows.
    fn take(&mut self, dim: usize, n: usize) -> RowBatch {
        let ready = self.chunks.try_recv().ok();
        self.n_made -= usize::from(ready.is_some());
        while self.n_made < N_READY {
            self.n_made += 1;
            let sender = self.sender.clone();
            self.pool.spawn(move || {
                // Nobody takes it when all rows are there.
                let _ = sender.send(RowBatch::ready(dim, n));
            });
        }
        ready.unwrap_or_else(|| RowBatch::with_capacity(dim, n))
    }
}

impl EntrySink {
    /// Assigns by `assign`, and sorts by `sort`, rows that `form` stores to `lists` lists; `pool` does the storing. Chunks on their way take about `max_bytes`.
    pub(super) fn new(
        form: RowForm,
        assign: Box<dyn Assign>,
        pool: &Arc<rayon::ThreadPool>,
        sort: EntrySort,
        lists: u32,
        max_bytes: usize,
    ) -> Result<Self> {
        let (words, coarse_dim) = (form.row_words() as usize, form.coarse_dim() as usize);
        let row_work = lists as usize * coarse_dim;
        let by_work = MAX_WORK * pool.current_num_threads() / row_work;
        let chunk_bytes = (max_bytes / (MAX_OUT + N_READY + 1)).min(MAX_CHUNK_BYTES);
        // Coarse vectors are made of a whole chunk, and inputs of it are there, at two words a number.
        let widest = match form.kind() {
            VectorKind::Half => words,
            _ => words.max(coarse_dim).max(2 * form.input_words()),
        };
        let full = RowBatch::new(widest).rows_of_bytes(chunk_bytes);
        Ok(Self {
            form,
            thread: AssignThread::start(form, assign, pool.clone())?,
            sort,
            full: full.min(by_work).clamp(32, MAX_ROWS),
            vectors: Vec::new(),
            tids: Vec::new(),
            stored: RowBatch::new(words),
            ready: Ready::new(pool),
        })
    }

    /// How rows are stored.
    pub(super) fn form(&self) -> &RowForm {
        &self.form
    }

    /// Takes a row. Errors: it has another dimension.
    pub(super) fn put(&mut self, tid: Tid, v: &[f32]) -> Result<()> {
        sample::check_dim(self.form.kind(), self.form.dim(), v)?;
        self.vectors.extend_from_slice(v);
        self.tids.push(tid);
        if self.tids.len() >= self.full {
            self.assign_vectors()?;
        }
        Ok(())
    }

    /// Takes rows that are stored already: the bytes of a [`RowBatch`].
    pub(super) fn put_stored(&mut self, batch: &[u8]) -> Result<()> {
        let n = self.stored.rows_of_bytes(batch.len());
        if self.stored.len() + n > self.full {
            self.assign_stored()?;
        }
        if self.stored.is_empty() {
            self.stored = self.ready.take(self.form.row_words() as usize, self.full);
        }
        self.stored.append(batch)?;
        Ok(())
    }

    /// Ends the input.
    pub(super) fn finish(mut self) -> Result<EntrySort> {
        self.assign_vectors()?;
        self.assign_stored()?;
        while self.thread.n_out() > 0 {
            self.take(true)?;
        }
        Ok(self.sort)
    }

    fn assign_vectors(&mut self) -> Result<()> {
        if self.tids.is_empty() {
            return Ok(());
        }
        let n = self.full;
        let tids = std::mem::replace(&mut self.tids, Vec::with_capacity(n));
        let next = Vec::with_capacity(n * self.form.input_words());
        let vectors = std::mem::replace(&mut self.vectors, next);
        self.assign(Rows::Vectors(vectors, tids))
    }

    fn assign_stored(&mut self) -> Result<()> {
        if self.stored.is_empty() {
            return Ok(());
        }
        let next = RowBatch::new(self.form.row_words() as usize);
        let rows = std::mem::replace(&mut self.stored, next);
        self.assign(Rows::Stored(rows))
    }

    /// Gives rows to the thread, when it has room for them, and takes what it has done.
    fn assign(&mut self, rows: Rows) -> Result<()> {
        while self.thread.n_out() >= MAX_OUT {
            self.take(true)?;
        }
        self.thread.give(rows);
        while self.take(false)? {}
        pgrx::check_for_interrupts!();
        Ok(())
    }

    /// Takes a chunk back from the thread; whether there was one.
    fn take(&mut self, waits: bool) -> Result<bool> {
        let Some(chunk) = self.thread.take(waits)? else {
            return Ok(false);
        };
        self.sort.put(chunk)?;
        progress::done(self.sort.n_entries());
        Ok(true)
    }
}
