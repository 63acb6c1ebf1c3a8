//! Takes rows of the table, as the user's vectors or as stored rows; assigns them to lists in batches, and sorts them.

use omen_gpu::assign::RowAssigner;
use omen_ivf::Tid;
use omen_ivf::row_batch::RowBatch;
use omen_ivf::stored::{Scaling, StoredVector};
use rayon::prelude::*;

use super::entry_sort::EntrySort;
use super::{progress, sample};
use crate::error::Result;

/// Most rows handed to the threads at once, and the bytes they may have.
const BATCH_ROWS: usize = 4096;
const BATCH_BYTES: usize = 16 << 20;

/// Where the rows of a build go.
pub(super) struct EntrySink<'a> {
    scaling: Scaling,
    assigner: RowAssigner,
    pool: &'a rayon::ThreadPool,
    sort: EntrySort,
    full: usize,
    /// `[n, dim]`, the user's numbers.
    vectors: Vec<f32>,
    tids: Vec<Tid>,
    stored: RowBatch,
}

impl<'a> EntrySink<'a> {
    /// Assigns by `assigner` on `pool`, and sorts by `sort`, rows that `scaling` stores.
    pub(super) fn new(
        scaling: Scaling,
        assigner: RowAssigner,
        pool: &'a rayon::ThreadPool,
        sort: EntrySort,
    ) -> Self {
        let dim = scaling.dim as usize;
        Self {
            scaling,
            assigner,
            pool,
            sort,
            full: (BATCH_BYTES / (dim * size_of::<f32>())).clamp(32, BATCH_ROWS),
            vectors: Vec::new(),
            tids: Vec::new(),
            stored: RowBatch::new(dim),
        }
    }

    /// How rows are stored.
    pub(super) fn scaling(&self) -> &Scaling {
        &self.scaling
    }

    /// Takes a row. Errors: it has another dimension.
    pub(super) fn put(&mut self, tid: Tid, v: &[f32]) -> Result<()> {
        sample::check_dim(self.scaling.dim as usize, v.len())?;
        self.vectors.extend_from_slice(v);
        self.tids.push(tid);
        if self.tids.len() >= self.full {
            self.store()?;
            self.assign();
        }
        Ok(())
    }

    /// Takes rows that are stored already: the bytes of a [`RowBatch`].
    pub(super) fn put_stored(&mut self, batch: &[u8]) -> Result<()> {
        self.stored.append(batch)?;
        if self.stored.len() >= self.full {
            self.assign();
        }
        Ok(())
    }

    /// Ends the input.
    pub(super) fn finish(mut self) -> Result<EntrySort> {
        self.store()?;
        self.assign();
        Ok(self.sort)
    }

    /// Brings vectors into their stored form.
    fn store(&mut self) -> Result<()> {
        let (dim, scaling) = (self.scaling.dim as usize, &self.scaling);
        let stored: Vec<Option<StoredVector>> = self.pool.install(|| {
            self.vectors
                .par_chunks_exact(dim)
                .map(|v| scaling.to_stored(v))
                .collect::<omen_ivf::Result<_>>()
        })?;
        for (tid, stored) in self.tids.iter().zip(&stored) {
            // Zero vectors under cosine are not indexed.
            if let Some(stored) = stored {
                self.stored.push(*tid, stored);
            }
        }
        self.vectors.clear();
        self.tids.clear();
        Ok(())
    }

    /// Assigns the stored rows.
    fn assign(&mut self) {
        let (rows, dim) = (self.stored.rows(), self.scaling.dim as usize);
        let lists = self.assigner.assign(rows, self.pool);
        let heads = self.stored.heads().iter().zip(rows.chunks_exact(dim));
        for ((&(tid, err), row), list) in heads.zip(lists) {
            self.sort.put(list, tid, err, row);
        }
        self.stored.clear();
        progress::done(self.sort.n_entries());
        pgrx::check_for_interrupts!();
    }
}
