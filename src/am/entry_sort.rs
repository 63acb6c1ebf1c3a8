//! Sorts the entries of a build by list, within `maintenance_work_mem`: runs sorted in memory, spilled to a temporary
//! file when they do not fit, and merged.
//!
//! A record: list u32, block u32, offset u16 and two zero bytes, err f32, row `[f16; dim]`. The order is (list, block, offset), so
//! that a list's entries follow the table.

use half::f16;
use omen_ivf::Tid;
use omen_ivf::write_index::BuildEntry;

use crate::error::Result;
use crate::storage::TempFile;

const HEAD_BYTES: usize = 16;
/// Least bytes of a run read at a time.
const MIN_CHUNK_BYTES: usize = 64 << 10;

/// Takes entries in any order, gives them back by list.
pub(super) struct EntrySort {
    dim: usize,
    record_bytes: usize,
    max_bytes: usize,
    arena: Vec<u8>,
    file: Option<TempFile>,
    /// Runs in the file: offset and end.
    runs: Vec<(u64, u64)>,
    n_entries: u64,
}

impl EntrySort {
    /// A sort of entries of `dim` dimensions that keeps about `max_bytes` in memory.
    pub(super) fn new(dim: usize, max_bytes: usize) -> Self {
        let record_bytes = HEAD_BYTES + dim * size_of::<f16>();
        Self {
            dim,
            record_bytes,
            max_bytes: max_bytes.max(64 * record_bytes),
            arena: Vec::new(),
            file: None,
            runs: Vec::new(),
            n_entries: 0,
        }
    }

    /// Entries taken so far.
    pub(super) fn n_entries(&self) -> u64 {
        self.n_entries
    }

    /// Takes an entry.
    pub(super) fn put(&mut self, list: u32, tid: Tid, err: f32, row: &[f16]) {
        debug_assert_eq!(row.len(), self.dim);
        if self.arena.len() + self.record_bytes > self.max_bytes {
            self.spill();
        }
        self.arena.extend_from_slice(&list.to_ne_bytes());
        self.arena.extend_from_slice(&tid.block.to_ne_bytes());
        self.arena.extend_from_slice(&tid.offset.to_ne_bytes());
        self.arena.extend_from_slice(&err.to_ne_bytes());
        for x in row {
            self.arena.extend_from_slice(&x.to_ne_bytes());
        }
        self.n_entries += 1;
    }

    /// Record numbers of the arena, in order.
    fn sorted(&self) -> Vec<u32> {
        let n = self.arena.len() / self.record_bytes;
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_unstable_by_key(|&i| sort_key(self.record(i)));
        order
    }

    fn record(&self, i: u32) -> &[u8] {
        let at = i as usize * self.record_bytes;
        &self.arena[at..at + self.record_bytes]
    }

    fn spill(&mut self) {
        let order = self.sorted();
        let mut file = self.file.take().unwrap_or_else(TempFile::create);
        let start = file.n_bytes();
        for i in order {
            file.append(self.record(i));
        }
        self.runs.push((start, file.n_bytes()));
        self.file = Some(file);
        self.arena.clear();
    }

    /// Ends the input; the result gives the entries by list.
    pub(super) fn finish(mut self) -> SortedEntries {
        if self.file.is_none() {
            let order = self.sorted();
            return SortedEntries::Memory {
                order: order.into_iter(),
                sort: self,
            };
        }
        self.spill();
        self.arena = Vec::new();
        let chunk = (self.max_bytes / self.runs.len()).max(MIN_CHUNK_BYTES);
        let chunk = (chunk / self.record_bytes).max(1) * self.record_bytes;
        let runs = self
            .runs
            .iter()
            .map(|&(at, end)| Run {
                at,
                end,
                chunk: Vec::new(),
                pos: 0,
            })
            .collect();
        let file = self.file.take().expect("spilled above");
        SortedEntries::Merge(Merge::new(file, runs, chunk, self.record_bytes))
    }
}

/// (list, tid) as one number.
fn sort_key(record: &[u8]) -> (u32, u64) {
    (
        word(record, 0),
        u64::from(word(record, 4)) << 32 | u64::from(word(record, 8)),
    )
}

fn word(record: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(record[at..at + 4].try_into().expect("four bytes"))
}

fn entry_of(record: &[u8]) -> BuildEntry {
    BuildEntry {
        list: word(record, 0),
        tid: Tid {
            block: word(record, 4),
            offset: word(record, 8),
        },
        err: f32::from_bits(word(record, 12)),
        row: record[HEAD_BYTES..]
            .chunks_exact(2)
            .map(|b| f16::from_ne_bytes([b[0], b[1]]))
            .collect(),
    }
}

/// The entries in order.
pub(super) enum SortedEntries {
    /// All fit in memory.
    Memory {
        /// Record numbers left.
        order: std::vec::IntoIter<u32>,
        /// Owner of the records.
        sort: EntrySort,
    },
    /// Runs of a file.
    Merge(Merge),
}

impl SortedEntries {
    /// The next entry; `None` at the end. Errors: the temporary file.
    pub(super) fn next(&mut self) -> Result<Option<BuildEntry>> {
        match self {
            Self::Memory { order, sort } => Ok(order.next().map(|i| entry_of(sort.record(i)))),
            Self::Merge(merge) => merge.next(),
        }
    }

    /// Gives the temporary file back.
    pub(super) fn close(self) {
        if let Self::Merge(merge) = self {
            merge.file.close();
        }
    }
}

struct Run {
    at: u64,
    end: u64,
    chunk: Vec<u8>,
    pos: usize,
}

/// Merges runs; the heap holds the next key of each.
pub(super) struct Merge {
    file: TempFile,
    runs: Vec<Run>,
    chunk_bytes: usize,
    record_bytes: usize,
    heap: std::collections::BinaryHeap<std::cmp::Reverse<((u32, u64), usize)>>,
    started: bool,
}

impl Merge {
    fn new(file: TempFile, runs: Vec<Run>, chunk_bytes: usize, record_bytes: usize) -> Self {
        Self {
            file,
            runs,
            chunk_bytes,
            record_bytes,
            heap: Default::default(),
            started: false,
        }
    }

    /// Makes the next record of `run` current and puts it on the heap.
    fn advance(&mut self, run_no: usize) -> Result<()> {
        let run = &mut self.runs[run_no];
        if run.pos == run.chunk.len() {
            let n = (run.end - run.at).min(self.chunk_bytes as u64) as usize;
            if n == 0 {
                return Ok(());
            }
            run.chunk.resize(n, 0);
            self.file.read_at(run.at, &mut run.chunk)?;
            run.at += n as u64;
            run.pos = 0;
        }
        let key = sort_key(&run.chunk[run.pos..run.pos + self.record_bytes]);
        self.heap.push(std::cmp::Reverse((key, run_no)));
        Ok(())
    }

    fn next(&mut self) -> Result<Option<BuildEntry>> {
        if !self.started {
            self.started = true;
            for run_no in 0..self.runs.len() {
                self.advance(run_no)?;
            }
        }
        let Some(std::cmp::Reverse((_, run_no))) = self.heap.pop() else {
            return Ok(None);
        };
        let run = &mut self.runs[run_no];
        let entry = entry_of(&run.chunk[run.pos..run.pos + self.record_bytes]);
        run.pos += self.record_bytes;
        self.advance(run_no)?;
        Ok(Some(entry))
    }
}
