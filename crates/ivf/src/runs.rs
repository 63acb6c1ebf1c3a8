//! Where the pages of a list's two streams are: the runs of its entry, then those of its map pages.

use crate::index::Index;
use crate::layout::directory::{ListEntry, Run};
use crate::layout::map::{self, CODE_STREAM, MapRecord, RECORDS_PER_PAGE, VECTOR_STREAM};
use crate::layout::page::{self, PageKind};
use crate::layout::streams;
use crate::list_reader::Visit;
use crate::store::{NO_BLOCK, PageStore};
use crate::{IvfError, Result};

/// Runs of one stream with the number of pages before each.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    runs: Vec<(u32, Run)>,
    n_pages: u32,
}

impl Runs {
    fn clear(&mut self) {
        self.runs.clear();
        self.n_pages = 0;
    }

    /// Adds a run; false if the stream gets longer than `limit` pages.
    fn push(&mut self, run: Run, limit: u64) -> bool {
        if u64::from(self.n_pages) + u64::from(run.len) > limit {
            return false;
        }
        if run.len > 0 {
            self.runs.push((self.n_pages, run));
            self.n_pages += run.len;
        }
        true
    }

    /// Block of page `page` (below `n_pages`) of the stream.
    #[inline]
    pub(crate) fn block(&self, page: u32) -> u32 {
        let i = if self.runs.len() == 1 {
            0
        } else {
            self.runs.partition_point(|r| r.0 <= page) - 1
        };
        let (before, run) = self.runs[i];
        run.start + (page - before)
    }

    /// All blocks in stream order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs
            .iter()
            .flat_map(|(_, run)| run.start..run.start + run.len)
    }
}

/// Resolved streams of one layout of one list.
#[derive(Debug, Default)]
pub(crate) struct StreamMap {
    /// Pages of the code stream.
    pub code: Runs,
    /// Pages of the vector stream.
    pub vector: Runs,
    /// Blocks of the map pages.
    pub maps: Vec<u32>,
    resolved: Option<(u32, ListEntry)>,
}

impl StreamMap {
    /// Makes this the map of `entry` of `list`; reads nothing if it already is, or if there are no map pages.
    pub(crate) fn resolve<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
    ) -> Result<Visit> {
        if self
            .resolved
            .is_some_and(|(of, e)| of == list && same_streams(&e, entry))
        {
            return Ok(Visit::Done);
        }
        self.resolved = None;
        self.code.clear();
        self.vector.clear();
        self.maps.clear();
        // check_entry made sure that the counts fit the file, so the limits below bound all lengths here.
        let code_pages = streams::code_pages(entry.frozen_count, index.meta.shape());
        let vector_pages = streams::vector_pages(index.n_rows(list, entry), index.row_words(list));
        let mut fits = self.code.push(entry.code_run, code_pages)
            && self.vector.push(entry.vector_run, vector_pages);
        let mut block = entry.map_head;
        let mut from = block;
        while block != NO_BLOCK && fits {
            index.check_block(s, from, "map", block)?;
            let mut records: Vec<MapRecord> = Vec::new();
            let seq = self.maps.len() as u32;
            let tail = s.read(block, |page| {
                let tail = page::tail(page);
                let n = tail.n_records as usize;
                if n <= RECORDS_PER_PAGE {
                    records.extend((0..n).map(|i| map::get_record(page, i)));
                }
                tail
            })?;
            if !tail.is(PageKind::Map, list, entry.layout_gen, seq) {
                return Ok(Visit::Changed);
            }
            if records.len() != tail.n_records as usize {
                return Err(IvfError::corrupt(
                    block,
                    format!("{} records in a map page", tail.n_records),
                ));
            }
            for record in records {
                index.check_run(s, block, "run", record.run)?;
                fits &= match record.stream {
                    CODE_STREAM => self.code.push(record.run, code_pages),
                    VECTOR_STREAM => self.vector.push(record.run, vector_pages),
                    _ => false,
                };
            }
            self.maps.push(block);
            from = block;
            block = tail.next;
            s.check_interrupts()?;
        }
        if !fits
            || u64::from(self.code.n_pages) != code_pages
            || u64::from(self.vector.n_pages) != vector_pages
        {
            let block = if from == NO_BLOCK { 0 } else { from };
            return Err(IvfError::corrupt(
                block,
                format!("the runs of list {list} do not make up its streams"),
            ));
        }
        self.resolved = Some((list, *entry));
        Ok(Visit::Done)
    }
}

fn same_streams(a: &ListEntry, b: &ListEntry) -> bool {
    (
        a.layout_gen,
        a.frozen_count,
        a.code_run,
        a.vector_run,
        a.map_head,
    ) == (
        b.layout_gen,
        b.frozen_count,
        b.code_run,
        b.vector_run,
        b.map_head,
    )
}
