//! Sorts the entries of a build by list, within `maintenance_work_mem`: chunks in memory, spilled to a temporary file as a sorted run when they
//! do not fit, and merged. The order is (list, block, offset), so that a list's entries follow the table.

use std::sync::Arc;

use omen_ivf::build_entries::{Chunk, EntriesInMemory, EntryBlock, EntrySource, Key, sorted_keys};
use omen_ivf::spilled::{Merge, RunFile, Spilled};

use crate::error::Result;
use crate::storage::TempFile;
use crate::threads;

/// Takes entries in any order, gives them back by list.
pub(super) struct EntrySort {
    dim: usize,
    max_bytes: usize,
    pool: Arc<rayon::ThreadPool>,
    chunks: Vec<Chunk>,
    /// Of the chunks.
    n_bytes: usize,
    spilled: Option<Spilled<TempFile>>,
    n_entries: u64,
    /// Of each list.
    sizes: Vec<u32>,
}

impl EntrySort {
    /// A sort of entries of `lists` lists, with rows of `dim` words, that keeps about `max_bytes` in memory. The threads of `pool` sort.
    pub(super) fn new(
        dim: usize,
        lists: u32,
        max_bytes: usize,
        pool: &Arc<rayon::ThreadPool>,
    ) -> Self {
        Self {
            dim,
            max_bytes,
            pool: pool.clone(),
            chunks: Vec::new(),
            n_bytes: 0,
            spilled: None,
            n_entries: 0,
            sizes: vec![0; lists as usize],
        }
    }

    /// Entries taken so far.
    pub(super) fn n_entries(&self) -> u64 {
        self.n_entries
    }

    /// Entries of each list; once all were taken.
    pub(super) fn take_sizes(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.sizes)
    }

    /// Takes entries. Errors: the temporary file.
    pub(super) fn put(&mut self, chunk: Chunk) -> Result<()> {
        for &list in &chunk.lists {
            // Who writes refuses another.
            if let Some(n) = self.sizes.get_mut(list as usize) {
                *n += 1;
            }
        }
        self.n_entries += chunk.lists.len() as u64;
        let n_bytes = chunk.n_bytes();
        if self.n_bytes + n_bytes > self.max_bytes && !self.chunks.is_empty() {
            self.spill()?;
        }
        self.n_bytes += n_bytes;
        self.chunks.push(chunk);
        Ok(())
    }

    fn sorted(&mut self) -> Result<EntriesInMemory> {
        let chunks = std::mem::take(&mut self.chunks);
        self.n_bytes = 0;
        let keys: Vec<Key> = threads::on_pool(&self.pool, || sorted_keys(&chunks))?;
        Ok(EntriesInMemory::new(chunks, keys))
    }

    fn spill(&mut self) -> Result<()> {
        let entries = self.sorted()?;
        let new = || Spilled::new(TempFile::create(), self.dim);
        let spilled = self.spilled.get_or_insert_with(new);
        spilled.add_run(entries, &mut || {
            pgrx::check_for_interrupts!();
            Ok(())
        })?;
        // The chunks came from the heaps of many threads, which keep what was freed, and what comes next may not fit there.
        threads::give_back_memory();
        Ok(())
    }

    /// Ends the input; the result gives the entries by list.
    pub(super) fn finish(mut self) -> Result<SortedEntries> {
        if self.spilled.is_none() {
            return Ok(SortedEntries::Memory(self.sorted()?));
        }
        if !self.chunks.is_empty() {
            self.spill()?;
        }
        let spilled = self.spilled.take().expect("looked at above");
        Ok(SortedEntries::File(spilled.merge(self.max_bytes)))
    }
}

/// The entries in order.
pub(super) enum SortedEntries {
    /// All fit in memory.
    Memory(EntriesInMemory),
    /// Runs of a file.
    File(Merge<TempFile>),
}

impl SortedEntries {
    /// Gives the temporary file back.
    pub(super) fn close(self) {
        if let Self::File(merge) = self {
            merge.into_file().close();
        }
    }
}

impl EntrySource for SortedEntries {
    fn next(&mut self, most: usize) -> omen_ivf::Result<Option<EntryBlock>> {
        match self {
            Self::Memory(entries) => entries.next(most),
            Self::File(merge) => merge.next(most),
        }
    }
}

impl RunFile for TempFile {
    fn append(&mut self, bytes: &[u8]) -> omen_ivf::Result<()> {
        TempFile::append(self, bytes);
        Ok(())
    }

    fn read_at(&mut self, at: u64, out: &mut [u8]) -> omen_ivf::Result<()> {
        TempFile::read_at(self, at, out).map_err(|e| omen_ivf::IvfError::Store(e.to_string()))
    }
}
