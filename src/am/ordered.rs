//! Rows in order of distance, as many as are pulled.
//!
//! A round searches some lists for the k nearest and hands out what comes before the round's frontier. When that is used up,
//! k is raised (*deepen*) and the same lists are searched again; when the lists hold no more, or the scan has gone deep
//! for so few lists, more lists are searched (*widen*). When lists are added depends on the index and the number of rows
//! handed out, not on the engine or on k, so that both engines give the same rows.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use omen_ivf::coarse::{Probe, select_lists};
use omen_ivf::index::{Index, read_entries};
use omen_ivf::probes::Reach;
use omen_ivf::query::Query;
use omen_ivf::settle::Settler;
use omen_ivf::topk::{Candidate, Candidates};

use crate::engine::stats::ScanRecord;
use crate::engine::{self, SearchRequest};
use crate::error::Result;
use crate::guc::{self, IterativeScan};
use crate::storage::IndexPages;

/// Rows that searches are taken to want until more is known.
const USUAL_ROWS: u64 = 10;
/// With lists given by the user: rows that the first of them answer for.
const ROWS_OF_FIRST_LISTS: u64 = 128;
/// A scan that goes on takes all lists, if they have no more entries than this, rather than some more again and again: each
/// time some rows come too late, and reading all codes takes some milliseconds.
const FEW_ENTRIES: u64 = 500_000;
/// The same for a scan that has gone on before.
const FEW_ENTRIES_DEEP: u64 = 4_000_000;
/// A scan that is expected to want more rows than this takes all lists from the start if they are
/// `FEW_ENTRIES` or `FEW_ENTRIES_DEEP`: the calibration says nothing of so many neighbours, and handing them out takes as long.
const MANY_ROWS: u64 = 200;
const MANY_ROWS_DEEP: u64 = 1000;
/// Later, one in so many entries of the visited lists is handed out before lists are added ...
const HANDED_OUT_SHARE: u64 = 16;
/// ... so that it is one in so many.
pub(super) const WIDENED_SHARE: u64 = 32;

/// State of an ordered scan.
pub(super) struct OrderedScan {
    query: Query,
    iterative: IterativeScan,
    /// Whether `omen.probes` was given.
    probes_given: bool,
    recall: f32,
    /// All lists were asked for: the filter, which can err, stays off.
    exact: bool,
    /// Nearest rows of which the visited lists hold `omen.recall`, if the probes are ours.
    covers: u64,
    /// Lists visited so far, and which ones that should be.
    lists: Vec<Probe>,
    reach: Reach,
    /// Frozen entries of the visited lists, about.
    n_entries: u64,
    k: usize,
    /// Candidates to hand out, ascending; none beyond `frontier`.
    pending: VecDeque<Candidate>,
    frontier: f32,
    handed_out: HashSet<u64>,
    last_key: f32,
    /// Where the scan was when lists were last added: what they hold below it comes too late. (Not `last_key` itself: when a round
    /// on one engine follows a round on the other, keys differ by rounding, and no row may be lost to that.)
    late_below: f32,
    settler: Settler,
    n_rows: u64,
    max_rows: Option<u64>,
    /// Rows after which lists are added; `None`: not before they are used up.
    widen_at: Option<u64>,
    /// How often lists were added.
    n_widened: u32,
}

impl OrderedScan {
    /// Chooses lists and makes the first round.
    pub(super) fn start(
        pages: &IndexPages,
        index: &Index,
        query: Query,
        record: &mut ScanRecord,
    ) -> Result<Self> {
        let given = guc::probes();
        let depth = engine::stats::expected_depth(record.relation).max(USUAL_ROWS);
        let covers = step_of(depth);
        let recall = guc::recall();
        let asked = if given > 0 {
            Reach::from(given)
        } else {
            index.reach_for(recall, covers)
        };
        let exact = asked.probes >= index.n_lists();
        let rows = index.meta.built_rows;
        let deep = depth >= MANY_ROWS && rows <= FEW_ENTRIES
            || depth >= MANY_ROWS_DEEP && rows <= FEW_ENTRIES_DEEP;
        let reach = if given == 0 && deep {
            Reach::from(index.n_lists())
        } else {
            asked
        };
        let mut scan = Self {
            query,
            iterative: guc::iterative_scan(),
            probes_given: given > 0,
            recall,
            covers,
            exact,
            lists: Vec::new(),
            reach,
            n_entries: 0,
            // A few more than rows: the last one is settled by what follows it.
            k: (depth + depth / 8 + 2) as usize,
            pending: VecDeque::new(),
            frontier: f32::INFINITY,
            handed_out: HashSet::new(),
            last_key: f32::NEG_INFINITY,
            late_below: f32::NEG_INFINITY,
            settler: Settler::default(),
            n_rows: 0,
            max_rows: guc::max_scan_tuples(),
            widen_at: None,
            n_widened: 0,
        };
        scan.visit_lists(pages, index, record)?;
        Ok(scan)
    }

    /// The next candidate, and whether its place is settled without a recheck; `None` when all that may be visited is out.
    pub(super) fn next(
        &mut self,
        pages: &IndexPages,
        index: &Index,
        record: &mut ScanRecord,
    ) -> Result<Option<(Candidate, bool)>> {
        if self.max_rows.is_some_and(|max| self.n_rows >= max) {
            return Ok(None);
        }
        loop {
            if self.widen_at.is_some_and(|at| self.n_rows >= at) {
                self.widen(pages, index, record)?;
                continue;
            }
            if let Some(candidate) = self.pending.pop_front() {
                if !self.handed_out.insert(candidate.tid.as_u64()) {
                    continue;
                }
                if candidate.key < self.late_below || candidate.ceiling < self.last_key {
                    // From a list that was added late, or missed by the filter before.
                    record.late += 1;
                    if self.iterative == IterativeScan::StrictOrder {
                        continue;
                    }
                }
                self.last_key = self.last_key.max(candidate.key);
                self.n_rows += 1;
                let next_key = self.pending.front().map_or(self.frontier, |next| next.key);
                let settled = self.settler.settles(index, &candidate, next_key);
                return Ok(Some((candidate, settled)));
            }
            if self.frontier < f32::INFINITY {
                self.deepen(pages, index, record)?;
            } else if self.may_widen(index) {
                self.widen(pages, index, record)?;
            } else {
                return Ok(None);
            }
        }
    }

    fn may_widen(&self, index: &Index) -> bool {
        self.iterative != IterativeScan::Off && (self.lists.len() as u32) < index.n_lists()
    }

    /// Searches the same lists for more.
    fn deepen(&mut self, pages: &IndexPages, index: &Index, record: &mut ScanRecord) -> Result<()> {
        self.k = (self.k * 4).max(2 * self.handed_out.len());
        let found = self.search(pages, index, &self.lists, record)?;
        self.frontier = found.frontier;
        self.pending = found.items.into();
        Ok(())
    }

    /// Visits the lists of `reach`, less those already visited, and merges what they have into `pending`.
    fn visit_lists(
        &mut self,
        pages: &IndexPages,
        index: &Index,
        record: &mut ScanRecord,
    ) -> Result<()> {
        let began = Instant::now();
        let mut added = select_lists(pages, index, &self.query, self.reach)?;
        if !self.lists.is_empty() {
            let visited: HashSet<u32> = self.lists.iter().map(|probe| probe.list).collect();
            added.retain(|probe| !visited.contains(&probe.list));
        }
        record.select += began.elapsed();
        let found = self.search(pages, index, &added, record)?;
        self.lists.extend_from_slice(&added);
        record.probes = self.lists.len() as u32;
        let rest = Candidates {
            items: std::mem::take(&mut self.pending).into(),
            frontier: self.frontier,
        };
        let merged = engine::merge(rest, found);
        self.frontier = merged.frontier;
        self.pending = merged.items.into();
        self.n_entries += entries_of(pages, index, &added)?;
        self.widen_at = self.next_widening(index);
        Ok(())
    }

    /// Adds lists: all, if they are few; else as many as ten times the rows need by the calibration, or twice as many, or
    /// enough for `WIDENED_SHARE`.
    fn widen(&mut self, pages: &IndexPages, index: &Index, record: &mut ScanRecord) -> Result<()> {
        let list_entries = (self.n_entries / self.lists.len().max(1) as u64).max(1);
        let enough = (self.n_rows * WIDENED_SHARE).div_ceil(list_entries);
        self.covers = self.covers.max(self.n_rows).saturating_mul(10);
        self.n_widened += 1;
        let all = u64::from(index.n_lists());
        let few = if self.n_widened > 1 {
            FEW_ENTRIES_DEEP
        } else {
            FEW_ENTRIES
        };
        let covering = index.reach_for(self.recall, self.covers);
        let visited = self.lists.len() as u64;
        self.reach = if !self.probes_given && list_entries * all <= few {
            Reach::from(all as u32)
        } else if self.probes_given || covering.probes <= self.reach.probes {
            Reach::from((2 * visited).max(enough).min(all) as u32)
        } else if u64::from(covering.probes) < enough {
            Reach::from(enough.min(all) as u32)
        } else {
            covering
        };
        self.late_below = self.last_key.max(self.settler.settled_below());
        self.visit_lists(pages, index, record)
    }

    /// After how many rows lists are added although the visited ones have more.
    ///
    /// The farther rows of the visited lists must not be handed out while lists nearly as near are unvisited: in strict order
    /// all rows of those that are nearer would be left out. So no more than a share of the entries visited is handed
    /// out; and, where the lists were chosen for their recall of so many rows, not many more than those. The user's own
    /// choice gets more out of the first lists.
    fn next_widening(&self, index: &Index) -> Option<u64> {
        if !self.may_widen(index) {
            return None;
        }
        // The executor looks a little beyond the rows it returns.
        let covered = self.covers + self.covers / 2;
        let rows = match (self.widen_at, self.probes_given) {
            (None, false) => covered.min(self.n_entries / 2),
            (Some(_), false) => covered.min(self.n_entries / HANDED_OUT_SHARE),
            (None, true) => (self.n_entries / 4).max(ROWS_OF_FIRST_LISTS),
            (Some(_), true) => self.n_entries / HANDED_OUT_SHARE,
        };
        Some(rows.max(self.n_rows + 1))
    }

    fn search(
        &self,
        pages: &IndexPages,
        index: &Index,
        lists: &[Probe],
        record: &mut ScanRecord,
    ) -> Result<Candidates> {
        engine::search(
            &SearchRequest {
                pages,
                index,
                query: &self.query,
                lists,
                k: self.k,
                exact: self.exact,
            },
            record,
        )
    }
}

/// Rows that the lists are chosen for when about `depth` are wanted: a step of 10, 16, 25, 40, 63, 100, ..., and up to a seventh
/// more than it. One engine pulls a row or two more than the other for the same LIMIT, and both are to visit the same lists.
fn step_of(depth: u64) -> u64 {
    const STEPS_A_DECADE: f64 = 5.0;
    let tens = (depth as f64 * 7.0 / 8.0 / USUAL_ROWS as f64).max(1.0);
    let step = (tens.log10() * STEPS_A_DECADE).ceil();
    (USUAL_ROWS as f64 * 10f64.powf(step / STEPS_A_DECADE)).round() as u64
}

/// Frozen entries of `lists`.
fn entries_of(pages: &IndexPages, index: &Index, lists: &[Probe]) -> Result<u64> {
    let numbers: Vec<u32> = lists.iter().map(|probe| probe.list).collect();
    let entries = read_entries(pages, index, &numbers)?;
    Ok(entries
        .iter()
        .map(|entry| u64::from(entry.frozen_count.saturating_sub(entry.frozen_dead)))
        .sum())
}
