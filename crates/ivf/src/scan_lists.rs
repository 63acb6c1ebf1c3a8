//! Scans the lists of a search, nearest first.
//!
//! The first lists are scanned whole, which gives the threshold. Of the others only codes are read; what the filter lets
//! through waits until all codes have been seen, and is then read in the order of its bounds, until no bound is below
//! the threshold. So few vectors are read that would not have been if the final threshold had been known from the start.

use crate::Result;
use crate::announce::{list_blocks, row_blocks};
use crate::coarse::Probe;
use crate::index::{Index, read_entries};
use crate::layout::directory::ListEntry;
use crate::list_reader::{AppendedTo, Visit};
use crate::query::Query;
use crate::scan_list::{ListScan, Scratch, SearchStats};
use crate::store::PageStore;
use crate::survivors::Survivor;
use crate::topk::TopK;

/// Lists scanned whole.
const EAGER_LISTS: usize = 2;
/// Waiting entries read before the threshold is looked at again; each time twice as many.
const FIRST_CHUNK: usize = 32;
/// Pages announced at a time, about.
const ANNOUNCED_PAGES: usize = 4096;

/// Scans `probes`, nearest first, into `top`. `exact`: the filter, which can err, is off. A list that is rewritten meanwhile
/// is started again.
pub fn scan_lists<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    probes: &[Probe],
    exact: bool,
    top: &mut TopK,
    stats: &mut SearchStats,
) -> Result<()> {
    let lists: Vec<u32> = probes.iter().map(|probe| probe.list).collect();
    let entries = read_entries(s, index, &lists)?;
    let scratch = std::mem::take(&mut top.scratch);
    let mut scan = Scan {
        s,
        index,
        query,
        probes,
        entries,
        exact,
        top,
        stats,
        scratch,
        n_announced: 0,
    };
    let scanned = scan.scan();
    s.announce(Vec::new());
    let scratch = std::mem::take(&mut scan.scratch);
    top.scratch = scratch;
    scanned
}

struct Scan<'a, S> {
    s: &'a S,
    index: &'a Index,
    query: &'a Query,
    probes: &'a [Probe],
    /// The directory's, of each list.
    entries: Vec<ListEntry>,
    exact: bool,
    top: &'a mut TopK,
    stats: &'a mut SearchStats,
    scratch: Scratch,
    /// Lists before this one were announced.
    n_announced: usize,
}

impl<S: PageStore> Scan<'_, S> {
    fn scan(&mut self) -> Result<()> {
        let filters = self.query.code.is_some() && !self.exact;
        let mut waiting: Vec<Survivor> = Vec::new();
        for i in 0..self.probes.len() {
            self.s.check_interrupts()?;
            self.announce_lists(i);
            self.stats.lists += 1;
            self.top.tighten();
            let waits = filters && i >= EAGER_LISTS && self.top.threshold() < f32::INFINITY;
            let entry = self.entries[i];
            let mut list = self.list(i);
            let visit = if !waits {
                list.whole(&entry)?
            } else if list.collect(&entry)? == Visit::Changed {
                Visit::Changed
            } else {
                list.appended(&entry, &AppendedTo::NOTHING)?
            };
            match visit {
                Visit::Changed => list.restart(&entry)?,
                Visit::Done if waits => waiting.append(&mut self.scratch.survivors),
                Visit::Done => {}
            }
        }
        self.rerank(waiting)
    }

    /// Announces the pages of the lists from number `i` on, unless that was done.
    fn announce_lists(&mut self, i: usize) {
        // Without the filter every live entry's vector is read. With it, those of the first lists are announced by themselves,
        // which voids what was announced before.
        let rows = self.query.code.is_none() || self.exact;
        let is_void = i >= self.n_announced || (!rows && i <= EAGER_LISTS);
        if !is_void || !self.s.wants_announcements() {
            return;
        }
        let mut blocks = Vec::new();
        self.n_announced = i;
        for entry in &self.entries[i..] {
            if blocks.len() >= ANNOUNCED_PAGES {
                break;
            }
            list_blocks(entry, rows, &mut blocks);
            self.n_announced += 1;
        }
        self.s.announce(blocks);
    }

    /// Announces the pages with the vectors of `waiting`, which are in the order of lists and slots.
    fn announce_rows(&mut self, waiting: &[Survivor]) {
        if !self.s.wants_announcements() {
            return;
        }
        let mut blocks = Vec::new();
        for of_list in waiting.chunk_by(|a, b| a.probe == b.probe) {
            let entry = &self.entries[of_list[0].probe as usize];
            row_blocks(self.index, entry, of_list, &mut blocks);
        }
        self.n_announced = self.probes.len();
        self.s.announce(blocks);
    }

    fn list(&mut self, i: usize) -> ListScan<'_, S> {
        ListScan {
            s: self.s,
            index: self.index,
            query: self.query,
            probe: &self.probes[i],
            probe_no: i as u32,
            exact: self.exact,
            top: self.top,
            stats: self.stats,
            scratch: &mut self.scratch,
        }
    }

    /// Reads the vectors of the waiting entries, nearest bound first.
    fn rerank(&mut self, mut waiting: Vec<Survivor>) -> Result<()> {
        let mut chunk = FIRST_CHUNK;
        while !waiting.is_empty() {
            self.top.tighten();
            let (bound, threshold) = (self.query.bound(), self.top.threshold());
            let before = waiting.len();
            waiting.retain(|survivor| bound.may_be_below(threshold, survivor));
            let filtered = (before - waiting.len()) as u64;
            self.stats.filtered += filtered;
            if filtered > 0 {
                self.top.note_refused();
            }
            let mut rest = Vec::new();
            if waiting.len() > chunk {
                waiting.select_nth_unstable_by(chunk, |a, b| a.bound.total_cmp(&b.bound));
                rest = waiting.split_off(chunk);
            }
            waiting.sort_unstable_by_key(|survivor| (survivor.probe, survivor.slot));
            self.announce_rows(&waiting);
            for of_list in waiting.chunk_by(|a, b| a.probe == b.probe) {
                let i = of_list[0].probe as usize;
                self.scratch.survivors.clear();
                self.scratch.survivors.extend_from_slice(of_list);
                let entry = self.entries[i];
                let mut list = self.list(i);
                if list.compute(&entry, false)? == Visit::Changed {
                    list.restart(&entry)?;
                    rest.retain(|survivor| survivor.probe as usize != i);
                }
            }
            waiting = rest;
            chunk *= 2;
        }
        Ok(())
    }
}
