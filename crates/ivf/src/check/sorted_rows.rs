//! Heap rows of all entries, in order, whatever their number: in memory, or in a file of sorted runs that are merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::spilled::RunFile;
use crate::{Result, Tid};

/// A heap row (as [`Tid::as_u64`]), its list, the fingerprint of what the index has of it.
pub(super) type Record = [u64; 3];

/// Least records of a run that are read at a time.
const MIN_READ: usize = 1024;
/// Records that are written at a time.
const WRITE: usize = 4096;

/// Takes rows in any order.
pub(super) struct SortedRows<F> {
    most: usize,
    records: Vec<Record>,
    file: Option<F>,
    n_written: u64,
    /// First and end of each run in the file, in records.
    runs: Vec<(u64, u64)>,
}

impl<F: RunFile> SortedRows<F> {
    /// None yet; so many bytes of them stay in memory.
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            most: (most_bytes / size_of::<Record>()).max(MIN_READ),
            records: Vec::new(),
            file: None,
            n_written: 0,
            runs: Vec::new(),
        }
    }

    /// Takes a row.
    pub(super) fn push(
        &mut self,
        tid: Tid,
        list: u32,
        fingerprint: u64,
        new_file: &mut dyn FnMut() -> Result<F>,
    ) -> Result<()> {
        if self.records.len() == self.most {
            self.spill(new_file)?;
        }
        self.records
            .push([tid.as_u64(), u64::from(list), fingerprint]);
        Ok(())
    }

    fn spill(&mut self, new_file: &mut dyn FnMut() -> Result<F>) -> Result<()> {
        self.records.sort_unstable();
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(new_file()?),
        };
        for some in self.records.chunks(WRITE) {
            file.append(bytemuck::cast_slice(some))?;
        }
        let first = self.n_written;
        self.n_written += self.records.len() as u64;
        self.runs.push((first, self.n_written));
        self.records.clear();
        Ok(())
    }

    /// All rows in order.
    pub(super) fn into_order(mut self) -> Ordered<F> {
        self.records.sort_unstable();
        let each = (self.most / (self.runs.len() + 1)).max(MIN_READ);
        let run = |(at, end)| Run {
            at,
            end,
            read: Vec::new(),
            pos: 0,
        };
        let mut runs: Vec<Run> = self.runs.into_iter().map(run).collect();
        // What is left in memory is a run that has been read.
        runs.push(Run {
            at: 0,
            end: 0,
            read: self.records,
            pos: 0,
        });
        Ordered {
            file: self.file,
            runs,
            each,
            heap: BinaryHeap::new(),
            has_begun: false,
        }
    }
}

struct Run {
    /// What is left in the file, in records.
    at: u64,
    end: u64,
    read: Vec<Record>,
    pos: usize,
}

/// Gives rows in order.
pub(super) struct Ordered<F> {
    file: Option<F>,
    runs: Vec<Run>,
    /// Records that are read of a run at a time.
    each: usize,
    heap: BinaryHeap<Reverse<(Record, usize)>>,
    has_begun: bool,
}

impl<F: RunFile> Ordered<F> {
    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        if !self.has_begun {
            self.has_begun = true;
            for run in 0..self.runs.len() {
                self.advance(run)?;
            }
        }
        let Some(Reverse((record, run))) = self.heap.pop() else {
            return Ok(None);
        };
        self.advance(run)?;
        Ok(Some(record))
    }

    fn advance(&mut self, number: usize) -> Result<()> {
        let run = &mut self.runs[number];
        if run.pos == run.read.len() && run.at < run.end {
            let n = (run.end - run.at).min(self.each as u64);
            run.read.resize(n as usize, [0; 3]);
            run.pos = 0;
            let file = self.file.as_mut().expect("runs are in a file");
            let at = run.at * size_of::<Record>() as u64;
            file.read_at(at, bytemuck::cast_slice_mut(&mut run.read))?;
            run.at += n;
        }
        if let Some(&record) = run.read.get(run.pos) {
            run.pos += 1;
            self.heap.push(Reverse((record, number)));
        }
        Ok(())
    }

    /// The file, to be given back.
    pub(super) fn into_file(self) -> Option<F> {
        self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn all_rows_in_order_from_a_file_too() {
        let mut rng = rand::rng();
        for n in [0, 1, 1023, 1024, 1025, 20_000] {
            let mut n_files = 0;
            let mut new_file = || {
                n_files += 1;
                Ok(Vec::<u8>::new())
            };
            let mut rows = SortedRows::new(1);
            let mut wanted: Vec<Record> = Vec::new();
            for i in 0..n {
                let tid = Tid::new(rng.random_range(0..300), rng.random_range(1..9));
                wanted.push([tid.as_u64(), i % 7, i]);
                rows.push(tid, (i % 7) as u32, i, &mut new_file).unwrap();
            }
            wanted.sort_unstable();
            let mut ordered = rows.into_order();
            let mut found = Vec::new();
            while let Some(record) = ordered.next().unwrap() {
                found.push(record);
            }
            assert!(found == wanted, "{n} rows");
            assert_eq!(n_files, i32::from(n > 1024));
            assert_eq!(ordered.into_file().is_some(), n > 1024);
        }
    }
}
