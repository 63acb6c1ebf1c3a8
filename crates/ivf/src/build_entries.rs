//! Entries of a new index between assigning and writing: rows stay in the chunks in which they came; what is sorted, and handed
//! to threads, is where they lie.

use std::ops::Range;
use std::sync::Arc;

use half::f16;
use rayon::prelude::*;

use crate::row_batch::RowBatch;
use crate::write_index::BuildEntry;
use crate::{IvfError, Result, Tid};

/// Most rows of a chunk.
pub const MAX_CHUNK_ROWS: usize = 1 << 16;

/// Rows and the list of each, `[n]`.
#[derive(Debug)]
pub struct Chunk {
    /// At most [`MAX_CHUNK_ROWS`].
    pub rows: RowBatch,
    /// As many.
    pub lists: Vec<u32>,
}

impl Chunk {
    /// Bytes of memory it takes, with the keys of its rows.
    pub fn n_bytes(&self) -> usize {
        self.rows.capacity_bytes() + self.lists.len() * (size_of::<u32>() + size_of::<Key>())
    }
}

/// An entry of some chunks; they order as an index has its entries: by list, then as in the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    list: u32,
    block: u32,
    offset: u16,
    row: u16,
    chunk: u32,
}

impl Key {
    /// Its list.
    pub fn list(&self) -> u32 {
        self.list
    }

    /// What it orders by: list and heap row.
    pub fn order(&self) -> (u32, u64) {
        let offset = u32::from(self.offset);
        let block = self.block;
        (self.list, Tid { block, offset }.as_u64())
    }
}

/// The entries of `chunks`, in order. Runs on the pool of the thread that calls.
pub fn sorted_keys(chunks: &[Chunk]) -> Vec<Key> {
    // No memory beside that of the keys: there may be as many as that allows.
    let n_keys = chunks.iter().map(|chunk| chunk.lists.len()).sum();
    let mut sorted = vec![Key::default(); n_keys];
    let mut rest = &mut sorted[..];
    let mut parts = Vec::with_capacity(chunks.len());
    for (no, chunk) in (0..).zip(chunks) {
        let part;
        (part, rest) = rest.split_at_mut(chunk.lists.len());
        parts.push((part, no, chunk));
    }
    parts.into_par_iter().for_each(|(part, no, chunk)| {
        for (to, key) in part.iter_mut().zip(keys(no, chunk)) {
            *to = key;
        }
    });
    sorted.par_sort_unstable();
    sorted
}

/// The entries of a chunk as they lie.
fn keys(no: u32, chunk: &Chunk) -> impl Iterator<Item = Key> {
    assert!(
        chunk.lists.len() == chunk.rows.len() && chunk.rows.len() <= MAX_CHUNK_ROWS,
        "{} lists of {} rows",
        chunk.lists.len(),
        chunk.rows.len()
    );
    let heads = chunk.rows.heads().iter().zip(&chunk.lists).enumerate();
    heads.map(move |(row, ((tid, _), &list))| Key {
        list,
        block: tid.block,
        offset: tid.offset as u16,
        row: row as u16,
        chunk: no,
    })
}

/// Some entries, which any thread can read.
#[derive(Debug, Clone)]
pub struct EntryBlock {
    chunks: Arc<Vec<Chunk>>,
    keys: Arc<Vec<Key>>,
    range: Range<usize>,
}

impl EntryBlock {
    /// Of rows that lie in their order: at least one, of one list.
    pub fn of_list(list: u32, rows: RowBatch) -> Self {
        let lists = vec![list; rows.len()];
        let chunk = Chunk { rows, lists };
        let keys: Vec<Key> = keys(0, &chunk).collect();
        Self {
            range: 0..keys.len(),
            keys: Arc::new(keys),
            chunks: Arc::new(vec![chunk]),
        }
    }

    /// Entries.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// The list of its first entry.
    pub fn list(&self) -> u32 {
        self.keys[self.range.start].list
    }

    /// Heap row and radius of an entry.
    pub fn head(&self, i: usize) -> (Tid, f32) {
        let key = self.key(i);
        self.chunks[key.chunk as usize].rows.heads()[key.row as usize]
    }

    /// The stored row of an entry, `[row_words]`.
    pub fn row(&self, i: usize) -> &[f16] {
        let key = self.key(i);
        self.chunks[key.chunk as usize].rows.row(key.row as usize)
    }

    fn key(&self, i: usize) -> &Key {
        &self.keys[self.range.start + i]
    }
}

/// Gives the entries of a new index.
pub trait EntrySource {
    /// The next entries, in ascending order of lists: of one list, as many as `most` if it has them; `None` at the end.
    fn next(&mut self, most: usize) -> Result<Option<EntryBlock>>;
}

/// All entries in memory.
#[derive(Debug)]
pub struct EntriesInMemory {
    chunks: Arc<Vec<Chunk>>,
    keys: Arc<Vec<Key>>,
    at: usize,
}

impl EntriesInMemory {
    /// Of chunks and their [`sorted_keys`].
    pub fn new(chunks: Vec<Chunk>, keys: Vec<Key>) -> Self {
        Self {
            chunks: Arc::new(chunks),
            keys: Arc::new(keys),
            at: 0,
        }
    }
}

impl EntrySource for EntriesInMemory {
    fn next(&mut self, most: usize) -> Result<Option<EntryBlock>> {
        let rest = &self.keys[self.at..];
        let Some(first) = rest.first() else {
            return Ok(None);
        };
        let rest = &rest[..most.min(rest.len())];
        let n = rest.partition_point(|key| key.list == first.list);
        let range = self.at..self.at + n;
        self.at = range.end;
        Ok(Some(EntryBlock {
            chunks: self.chunks.clone(),
            keys: self.keys.clone(),
            range,
        }))
    }
}

/// Entries that come one by one.
pub struct OneByOne<'a> {
    dim: usize,
    entries: &'a mut dyn FnMut() -> Result<Option<BuildEntry>>,
    /// Looked at, not yet given.
    next: Option<BuildEntry>,
    has_begun: bool,
}

impl<'a> OneByOne<'a> {
    /// Of rows of `dim` words: what `entries` returns until `None`.
    pub fn new(dim: usize, entries: &'a mut dyn FnMut() -> Result<Option<BuildEntry>>) -> Self {
        Self {
            dim,
            entries,
            next: None,
            has_begun: false,
        }
    }
}

impl EntrySource for OneByOne<'_> {
    fn next(&mut self, most: usize) -> Result<Option<EntryBlock>> {
        if !self.has_begun {
            self.has_begun = true;
            self.next = (self.entries)()?;
        }
        let Some(list) = self.next.as_ref().map(|entry| entry.list) else {
            return Ok(None);
        };
        let mut rows = RowBatch::new(self.dim);
        while rows.len() < most
            && let Some(entry) = self.next.take_if(|entry| entry.list == list)
        {
            if entry.row.len() != self.dim {
                return Err(IvfError::Dimension {
                    expected: self.dim as u32,
                    found: entry.row.len() as u32,
                });
            }
            rows.push_row(entry.tid, entry.err, &entry.row);
            self.next = (self.entries)()?;
        }
        Ok(Some(EntryBlock::of_list(list, rows)))
    }
}
