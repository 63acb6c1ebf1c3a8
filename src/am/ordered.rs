//! Rows in order of distance, as many as are pulled.
//!
//! A round searches some lists for the k nearest and hands out what comes before the round's frontier. When that is used up,
//! k is raised (*deepen*) and the same lists are searched again; when the lists hold no more, or the scan has gone deep
//! for so few lists, more lists are searched (*widen*). When lists are added depends on the index and the number of rows
//! handed out, not on the engine or on k, so that both engines give the same rows.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use omen_ivf::coarse::{Probe, probes_of, select_lists};
use omen_ivf::index::{Index, read_entries};
use omen_ivf::order::Order;
use omen_ivf::probes::Reach;
use omen_ivf::query::Query;
use omen_ivf::settle::Settler;
use omen_ivf::topk::{Candidate, Candidates};

use crate::engine::lists::{ListPlan, USUAL_ROWS, entries_of};
use crate::engine::stats::ScanRecord;
use crate::engine::{self, NearestRequest, SearchRequest};
use crate::error::Result;
use crate::guc::{self, IterativeScan};
use crate::storage::IndexPages;

/// With lists given by the user: rows that the first of them answer for.
const ROWS_OF_FIRST_LISTS: u64 = 128;
/// Later, one in so many entries of the visited lists is handed out before lists are added, so that it is one in
/// `WIDENED_SHARE` (see `engine/lists.rs`).
const HANDED_OUT_SHARE: u64 = 16;

/// State of an ordered scan.
pub(super) struct OrderedScan {
    query: Query,
    iterative: IterativeScan,
    /// Which lists are to be visited, and those visited so far.
    plan: ListPlan,
    lists: Vec<Probe>,
    /// Whether `lists` have their distances.
    is_ranked: bool,
    /// Frozen entries of the visited lists, about.
    n_entries: u64,
    k: usize,
    /// Candidates to hand out, ascending; none beyond `frontier`.
    pending: VecDeque<Candidate>,
    frontier: f32,
    handed_out: HashSet<u64>,
    order: Order,
    settler: Settler,
    n_rows: u64,
    max_rows: Option<u64>,
    /// Rows after which lists are added; `None`: not before they are used up.
    widen_at: Option<u64>,
}

impl OrderedScan {
    /// Makes the first round. `query`: with or without code.
    pub(super) fn start(
        pages: &IndexPages,
        index: &Index,
        query: Query,
        record: &mut ScanRecord,
    ) -> Result<Self> {
        let expected = engine::stats::expectation(record.relation);
        let depth = expected.rows.unwrap_or(0).max(USUAL_ROWS);
        let effort = guc::effort(index.meta.built_rows);
        let plan = ListPlan::new(index, effort, depth, expected.filtered);
        let iterative = guc::iterative_scan();
        let mut scan = Self {
            query,
            iterative,
            plan,
            lists: Vec::new(),
            is_ranked: true,
            n_entries: 0,
            // A few more than rows: the last one is settled by what follows it.
            k: (depth + depth / 8 + 2) as usize,
            pending: VecDeque::new(),
            frontier: f32::INFINITY,
            handed_out: HashSet::new(),
            order: Order::new(iterative == IterativeScan::RelaxedOrder),
            settler: Settler::default(),
            n_rows: 0,
            max_rows: guc::max_scan_tuples(),
            widen_at: None,
        };
        scan.search_nearest(pages, index, record)?;
        scan.widen_at = scan.next_widening(index);
        Ok(scan)
    }

    /// Searches the lists nearest to the query, which whoever searches them chooses.
    fn search_nearest(
        &mut self,
        pages: &IndexPages,
        index: &Index,
        record: &mut ScanRecord,
    ) -> Result<()> {
        let request = NearestRequest {
            pages,
            index,
            reach: self.plan.reach(),
            k: self.k,
            exact: self.plan.is_exact(),
        };
        let nearest = engine::search_nearest(&request, &mut self.query, record)?;
        self.lists = nearest.lists;
        self.is_ranked = nearest.is_ranked;
        self.n_entries = nearest.n_entries;
        self.frontier = nearest.found.frontier;
        self.pending = nearest.found.items.into();
        record.probes = self.lists.len() as u32;
        Ok(())
    }

    /// Whether rows that come too late are left out.
    pub(super) fn is_strict(&self) -> bool {
        self.iterative != IterativeScan::RelaxedOrder
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
                if !self.order.admits(&candidate, &mut record.late) {
                    continue;
                }
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
        let has_all = self.plan.is_all(index) || self.lists.len() as u32 >= index.n_lists();
        self.iterative != IterativeScan::Off && !has_all
    }

    /// Searches the same lists for more. As long as they are those that the GPU chose, it chooses them again in the call that
    /// searches them; should it be the CPU by now, its choice differs where lists are as good as equally far.
    fn deepen(&mut self, pages: &IndexPages, index: &Index, record: &mut ScanRecord) -> Result<()> {
        let more = (self.k * 4).max(2 * self.handed_out.len());
        // More than the lists had when they were read is asked for only where that was not enough: rows have come since.
        let all = self.n_entries as usize + 1;
        self.k = if self.k < all { more.min(all) } else { more };
        if !self.is_ranked {
            return self.search_nearest(pages, index, record);
        }
        self.complete(pages, index, record)?;
        let found = self.search(pages, index, &self.lists, record)?;
        self.frontier = found.frontier;
        self.pending = found.items.into();
        Ok(())
    }

    /// Adds what only rounds after the first need: the query's code, and the distances of the lists.
    fn complete(
        &mut self,
        pages: &IndexPages,
        index: &Index,
        record: &mut ScanRecord,
    ) -> Result<()> {
        let began = Instant::now();
        index.add_code(&mut self.query);
        if !self.is_ranked {
            self.lists = if self.lists.len() == index.n_lists() as usize {
                let all = Reach::from(index.n_lists());
                select_lists(pages, index, &self.query, all)?
            } else {
                let numbers: Vec<u32> = self.lists.iter().map(|probe| probe.list).collect();
                probes_of(pages, index, &self.query, &numbers)?
            };
            self.is_ranked = true;
        }
        record.select += began.elapsed();
        Ok(())
    }

    /// Visits the lists of the plan, less those already visited, and merges what they have into `pending`.
    fn visit_lists(
        &mut self,
        pages: &IndexPages,
        index: &Index,
        record: &mut ScanRecord,
    ) -> Result<()> {
        self.complete(pages, index, record)?;
        let began = Instant::now();
        let mut added = select_lists(pages, index, &self.query, self.plan.reach())?;
        let visited: HashSet<u32> = self.lists.iter().map(|probe| probe.list).collect();
        added.retain(|probe| !visited.contains(&probe.list));
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
        let numbers: Vec<u32> = added.iter().map(|probe| probe.list).collect();
        self.n_entries += entries_of(&read_entries(pages, index, &numbers)?);
        self.widen_at = self.next_widening(index);
        Ok(())
    }

    /// Adds lists.
    fn widen(&mut self, pages: &IndexPages, index: &Index, record: &mut ScanRecord) -> Result<()> {
        let list_entries = self.n_entries / self.lists.len().max(1) as u64;
        let visited = self.lists.len() as u64;
        self.plan.widen(index, visited, list_entries, self.n_rows);
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
        let covered = self.plan.covers().saturating_add(self.plan.covers() / 2);
        let rows = match (self.widen_at, self.plan.is_given()) {
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
                exact: self.plan.is_exact(),
            },
            record,
        )
    }
}
