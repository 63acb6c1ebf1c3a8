//! Entries of a build that memory does not hold: runs of them, sorted, in a file, and merged as they are read.
//!
//! A record: list, block, offset, u32, err, f32, row `[f16; dim]`, in the machine's order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use half::f16;

use crate::build_entries::{EntriesInMemory, EntryBlock, EntrySource};
use crate::row_batch::RowBatch;
use crate::{Result, Tid};

const HEAD_BYTES: usize = 16;
/// Bytes written at a time, about.
const WRITE_BYTES: usize = 64 << 10;
/// Least bytes of a run read at a time.
const MIN_READ_BYTES: usize = 64 << 10;
/// Entries between two looks for interrupts.
const LOOK_ENTRIES: usize = 1024;

/// A file written from start to end, then read anywhere.
pub trait RunFile {
    /// Appends bytes.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Fills `out` from offset `at`.
    fn read_at(&mut self, at: u64, out: &mut [u8]) -> Result<()>;
}

/// A file in memory.
impl RunFile for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn read_at(&mut self, at: u64, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self[at as usize..][..out.len()]);
        Ok(())
    }
}

/// Runs in a file.
#[derive(Debug)]
pub struct Spilled<F> {
    file: F,
    record_bytes: usize,
    n_bytes: u64,
    /// Offset and end of each.
    runs: Vec<(u64, u64)>,
}

impl<F: RunFile> Spilled<F> {
    /// No runs, of entries of `dim` dimensions, in an empty file.
    pub fn new(file: F, dim: usize) -> Self {
        Self {
            file,
            record_bytes: HEAD_BYTES + dim * size_of::<f16>(),
            n_bytes: 0,
            runs: Vec::new(),
        }
    }

    /// Runs so far.
    pub fn n_runs(&self) -> usize {
        self.runs.len()
    }

    /// Writes entries as a run; `look` is called now and then, and may end it by an error.
    pub fn add_run(
        &mut self,
        mut entries: EntriesInMemory,
        look: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let start = self.n_bytes;
        let mut bytes = Vec::with_capacity(WRITE_BYTES + self.record_bytes);
        while let Some(block) = entries.next(LOOK_ENTRIES)? {
            look()?;
            for i in 0..block.len() {
                let (tid, err) = block.head(i);
                let head = [block.list(), tid.block, tid.offset, err.to_bits()];
                bytes.extend_from_slice(bytemuck::cast_slice(&head));
                bytes.extend_from_slice(bytemuck::cast_slice(block.row(i)));
                if bytes.len() >= WRITE_BYTES {
                    self.append(&mut bytes)?;
                }
            }
        }
        self.append(&mut bytes)?;
        self.runs.push((start, self.n_bytes));
        Ok(())
    }

    fn append(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.file.append(bytes)?;
        self.n_bytes += bytes.len() as u64;
        bytes.clear();
        Ok(())
    }

    /// Ends the writing; the result gives the entries of all runs in order, with about `max_bytes` of memory.
    pub fn merge(self, max_bytes: usize) -> Merge<F> {
        let read_bytes = (max_bytes / self.runs.len().max(1)).max(MIN_READ_BYTES);
        let run = |(at, end)| Run {
            at,
            end,
            words: Vec::new(),
            n_read: 0,
            pos: 0,
        };
        Merge {
            file: self.file,
            runs: self.runs.into_iter().map(run).collect(),
            read_bytes: (read_bytes / self.record_bytes).max(1) * self.record_bytes,
            record_bytes: self.record_bytes,
            heap: BinaryHeap::new(),
            has_begun: false,
        }
    }
}

/// What is left of a run.
#[derive(Debug)]
struct Run {
    /// Read from the file so far.
    at: u64,
    end: u64,
    /// What was read last: whole records. (Of words, because a row of numbers lies in it.)
    words: Vec<u16>,
    /// Its bytes, and those that were given.
    n_read: usize,
    pos: usize,
}

/// Merges runs.
#[derive(Debug)]
pub struct Merge<F> {
    file: F,
    runs: Vec<Run>,
    read_bytes: usize,
    record_bytes: usize,
    /// List and tid of each run's next record, and the run.
    heap: BinaryHeap<Reverse<(u32, u64, usize)>>,
    has_begun: bool,
}

impl<F: RunFile> Merge<F> {
    /// The file.
    pub fn into_file(self) -> F {
        self.file
    }

    /// Puts the next record of a run, if there is one, on the heap.
    fn advance(&mut self, run_no: usize) -> Result<()> {
        let run = &mut self.runs[run_no];
        if run.pos == run.n_read {
            let n = (run.end - run.at).min(self.read_bytes as u64) as usize;
            if n == 0 {
                return Ok(());
            }
            run.words.resize(n / 2, 0);
            self.file
                .read_at(run.at, bytemuck::cast_slice_mut(&mut run.words))?;
            run.at += n as u64;
            run.n_read = n;
            run.pos = 0;
        }
        let (list, tid, _) = head_of(&run.words[run.pos / 2..]);
        self.heap.push(Reverse((list, tid.as_u64(), run_no)));
        Ok(())
    }
}

/// List, heap row and radius of a record.
fn head_of(record: &[u16]) -> (u32, Tid, f32) {
    let bytes: &[u8] = bytemuck::cast_slice(&record[..HEAD_BYTES / 2]);
    let [list, block, offset, err]: [u32; 4] = bytemuck::pod_read_unaligned(bytes);
    (list, Tid { block, offset }, f32::from_bits(err))
}

impl<F: RunFile> EntrySource for Merge<F> {
    fn next(&mut self, most: usize) -> Result<Option<EntryBlock>> {
        if !self.has_begun {
            self.has_begun = true;
            for run_no in 0..self.runs.len() {
                self.advance(run_no)?;
            }
        }
        let Some(&Reverse((list, ..))) = self.heap.peek() else {
            return Ok(None);
        };
        let dim = (self.record_bytes - HEAD_BYTES) / size_of::<f16>();
        // Without room ahead: most lists may be short.
        let mut rows = RowBatch::new(dim);
        while rows.len() < most
            && let Some(&Reverse((next, _, run_no))) = self.heap.peek()
            && next == list
        {
            self.heap.pop();
            let run = &mut self.runs[run_no];
            let record = &run.words[run.pos / 2..][..self.record_bytes / 2];
            let (_, tid, err) = head_of(record);
            rows.push_row(tid, err, bytemuck::cast_slice(&record[HEAD_BYTES / 2..]));
            run.pos += self.record_bytes;
            self.advance(run_no)?;
        }
        Ok(Some(EntryBlock::of_list(list, rows)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IvfError;
    use crate::build_entries::{Chunk, sorted_keys};
    use proptest::prelude::*;

    /// One chunk of entries (list, tid), whose radius and row say which they are.
    fn chunk(dim: usize, entries: &[(u32, u32)]) -> Chunk {
        let mut rows = RowBatch::new(dim);
        for &(_, tid) in entries {
            let row: Vec<f16> = (0..dim as u32)
                .map(|i| f16::from_bits((tid + i) as u16))
                .collect();
            let tid = Tid::new(tid / 7, (tid % 7) as u16 + 1);
            rows.push_row(tid, tid.block as f32, &row);
        }
        let lists = entries.iter().map(|entry| entry.0).collect();
        Chunk { rows, lists }
    }

    /// All that a source gives, row by row, and the lengths of what it gave.
    fn all(source: &mut dyn EntrySource, most: usize) -> Vec<(u32, usize, Tid, f32, Vec<u16>)> {
        let mut all = Vec::new();
        while let Some(block) = source.next(most).unwrap() {
            for i in 0..block.len() {
                let (tid, err) = block.head(i);
                let row = block.row(i).iter().map(|x| x.to_bits()).collect();
                all.push((block.list(), block.len(), tid, err, row));
            }
        }
        all
    }

    proptest! {
        #[test]
        fn runs_merge_as_if_they_had_not_been_spilled(
            dim in 1usize..40,
            lists in proptest::collection::vec(0u32..5, 0..400),
            cut in 1usize..90,
            most in 1usize..50,
            max_bytes in 0usize..(1 << 20),
        ) {
            let entries: Vec<(u32, u32)> = lists.into_iter().zip((0..).map(|i: u32| i * 37 % 401)).collect();
            let chunks = || entries.chunks(cut).map(|part| chunk(dim, part)).collect::<Vec<_>>();
            let keys = sorted_keys(&chunks());
            let wanted = all(&mut EntriesInMemory::new(chunks(), keys), most);
            prop_assert_eq!(wanted.len(), entries.len());
            prop_assert!(wanted.is_sorted_by_key(|entry| (entry.0, entry.2)));
            let mut spilled = Spilled::new(Vec::<u8>::new(), dim);
            for chunk in chunks() {
                let chunk = vec![chunk];
                let keys = sorted_keys(&chunk);
                spilled.add_run(EntriesInMemory::new(chunk, keys), &mut || Ok(())).unwrap();
            }
            prop_assert_eq!(spilled.n_runs(), entries.len().div_ceil(cut));
            let mut merge = spilled.merge(max_bytes);
            prop_assert_eq!(all(&mut merge, most), wanted);
        }
    }

    #[test]
    fn writing_a_run_can_be_ended() {
        let chunks = vec![chunk(3, &[(1, 2), (0, 1)])];
        let keys = sorted_keys(&chunks);
        let mut spilled = Spilled::new(Vec::<u8>::new(), 3);
        let stop = || Err(IvfError::Store("stop".into()));
        let outcome = spilled.add_run(EntriesInMemory::new(chunks, keys), &mut { stop });
        assert!(outcome.is_err() && spilled.n_runs() == 0);
    }
}
