//! Rounds of a batch. A round searches some lists for some candidates of each query and looks which of them are visible. Queries
//! that have too few search the same lists for more (*deepen*) or, when these hold no more, more lists (*widen*), as scans do.

use omen_ivf::index::Index;
use omen_ivf::topk::Candidates;

use super::item::{Bounds, Item, State};
use super::neighbours::Neighbours;
use super::visible::VisibleRows;
use crate::datatype::vector::VectorRef;
use crate::engine::batch::{BatchRequest, search_batch};
use crate::engine::lists::ListPlan;
use crate::engine::stats::ScanRecord;
use crate::error::Result;
use crate::guc::{self, Effort, IterativeScan};
use crate::storage::IndexPages;

/// Candidates in memory at a time, about, 56 bytes each.
const MAX_ITEMS: usize = 1 << 20;
/// Bounds that leave more open than this share of the farthest candidate's distance are too loose to order by: vectors that
/// half precision holds badly, since the others of the index are much shorter, or which are hardly farther than it tells apart.
const LOOSE_SHARE: f64 = 1.0 / 32.0;
/// How many times as many candidates a deeper round asks for.
const DEEPEN: usize = 4;

/// Candidates of a query in the first round: a few more than rows, as some may be dead.
fn first_k(k: usize) -> usize {
    k + k / 8 + 2
}

/// Queries for `k` rows each that may be in one batch.
pub(super) fn most_queries(k: usize) -> usize {
    MAX_ITEMS / first_k(k)
}

/// Queries that are searched together.
pub(super) struct Batch<'a> {
    pages: &'a IndexPages,
    index: &'a Index,
    /// As the user gave them.
    vectors: &'a [VectorRef],
    k: usize,
    plan: ListPlan,
    widens: bool,
    /// Candidates of a query after which its search ends.
    max_rows: usize,
}

/// A round to be made.
struct Round {
    /// Numbers of the queries.
    queries: Vec<u32>,
    /// Candidates of each.
    k: usize,
    plan: ListPlan,
}

impl<'a> Batch<'a> {
    /// The queries `vectors` (of the index's dimension) for `k` rows each.
    pub(super) fn new(
        pages: &'a IndexPages,
        index: &'a Index,
        vectors: &'a [VectorRef],
        k: usize,
        effort: Effort,
    ) -> Self {
        Self {
            pages,
            index,
            vectors,
            k,
            plan: ListPlan::new(index, effort, k as u64, false),
            widens: guc::iterative_scan() != IterativeScan::Off,
            max_rows: guc::max_scan_tuples().map_or(usize::MAX, |max| max as usize),
        }
    }

    /// Searches.
    pub(super) fn search(
        &self,
        visible: &mut VisibleRows,
        record: &mut ScanRecord,
    ) -> Result<Neighbours> {
        let n = self.vectors.len();
        let mut found = Neighbours::new(n, self.k);
        let mut rounds = vec![Round {
            queries: (0..n as u32).collect(),
            k: first_k(self.k),
            plan: self.plan.clone(),
        }];
        while let Some(mut round) = rounds.pop() {
            if round.queries.len() > 1 && round.queries.len() * round.k > MAX_ITEMS {
                let rest = round.queries.split_off(round.queries.len() / 2);
                rounds.push(Round {
                    queries: rest,
                    k: round.k,
                    plan: round.plan.clone(),
                });
                rounds.push(round);
                continue;
            }
            if !round.queries.is_empty() {
                rounds.extend(self.make(round, visible, record, &mut found)?);
            }
        }
        Ok(found)
    }

    /// Makes a round. Returns those that must follow.
    fn make(
        &self,
        round: Round,
        visible: &mut VisibleRows,
        record: &mut ScanRecord,
        found: &mut Neighbours,
    ) -> Result<[Round; 2]> {
        let vectors: Vec<&[f32]> = round
            .queries
            .iter()
            .map(|&query| self.vectors[query as usize].x())
            .collect();
        let request = BatchRequest {
            pages: self.pages,
            index: self.index,
            vectors: &vectors,
            reach: round.plan.reach(),
            k: round.k,
            exact: round.plan.is_exact(),
        };
        let candidates = search_batch(&request, record)?;
        let mut items = Vec::with_capacity(candidates.iter().map(|c| c.items.len()).sum());
        let mut ends = Vec::with_capacity(candidates.len());
        for (&query, candidates) in round.queries.iter().zip(&candidates) {
            self.add_items(query, candidates, &mut items);
            ends.push(items.len());
        }
        self.look_up(&mut items, &ends, visible)?;

        let all = round.plan.is_all(self.index);
        let mut wider = round.plan.clone();
        let n_lists = u64::from(self.index.n_lists());
        let visited = u64::from(wider.reach().probes).min(n_lists);
        let list_entries = self.index.meta.built_rows / n_lists;
        wider.widen(self.index, visited, list_entries, self.k as u64);
        let mut deepened = Round {
            queries: Vec::new(),
            k: round.k * DEEPEN,
            plan: round.plan,
        };
        let mut widened = Round {
            queries: Vec::new(),
            k: round.k,
            plan: wider,
        };
        let mut first = 0;
        for ((&query, candidates), end) in round.queries.iter().zip(&candidates).zip(ends) {
            let of_query = &mut items[std::mem::replace(&mut first, end)..end];
            of_query.sort_by(|a, b| a.distance.total_cmp(&b.distance));
            let is_left = candidates.frontier < f32::INFINITY;
            let looked_at_all = of_query.len() >= self.max_rows;
            if self.n_certain(of_query, candidates.frontier) >= self.k || looked_at_all {
                found.set(query, of_query.iter().filter_map(Item::row));
            } else if is_left {
                deepened.queries.push(query);
            } else if self.widens && !all {
                widened.queries.push(query);
            } else {
                found.set(query, of_query.iter().filter_map(Item::row));
            }
        }
        Ok([deepened, widened])
    }

    /// Appends the candidates of a query, ascending by distance.
    fn add_items(&self, query: u32, candidates: &Candidates, items: &mut Vec<Item>) {
        let first = items.len();
        let unordered = self.index.is_unordered(self.vectors[query as usize].x());
        let of = |candidate| Bounds::of(self.index, candidate);
        let bounds: Vec<Bounds> = candidates.items.iter().map(of).collect();
        let scale = bounds.iter().map(|b| b.low.abs());
        let scale = scale.filter(|low| low.is_finite()).fold(0.0, f64::max);
        let limit = scale * LOOSE_SHARE;
        items.extend(
            candidates
                .items
                .iter()
                .zip(bounds)
                .map(|(candidate, bounds)| Item {
                    distance: if unordered { f64::NAN } else { bounds.middle() },
                    root: candidate.tid,
                    state: State::Unknown,
                    query,
                    is_loose: !unordered && bounds.radius() > limit,
                }),
        );
        let items_of_query = &mut items[first..];
        items_of_query.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        items.truncate(first.saturating_add(self.max_rows).min(items.len()));
    }

    /// Looks up the rows of the `k` nearest items of each query, then of the others where these do not suffice.
    fn look_up(&self, items: &mut [Item], ends: &[usize], visible: &mut VisibleRows) -> Result<()> {
        let mut places = Vec::with_capacity(ends.len() * self.k);
        let mut first = 0;
        for &end in ends {
            let nearest = first..end.min(first + self.k);
            places.extend(nearest.map(|i| (items[i].root.as_u64(), i as u32)));
            first = end;
        }
        self.look_up_places(items, &mut places, visible)?;
        places.clear();
        let mut first = 0;
        for &end in ends {
            let nearest = &items[first..end.min(first + self.k)];
            let suffices = |item: &Item| item.row().is_some() && !item.is_loose;
            if nearest.len() < self.k || !nearest.iter().all(suffices) {
                let others = first + nearest.len()..end;
                places.extend(others.map(|i| (items[i].root.as_u64(), i as u32)));
            }
            first = end;
        }
        self.look_up_places(items, &mut places, visible)
    }

    /// Looks up the rows of the items at `places`, each with its root, in the order of the table's pages.
    fn look_up_places(
        &self,
        items: &mut [Item],
        places: &mut [(u64, u32)],
        visible: &mut VisibleRows,
    ) -> Result<()> {
        places.sort_unstable();
        let roots: Vec<u64> = places.iter().map(|&(root, _)| root).collect();
        let rows = visible.find_all(&roots)?;
        // Not before: the items are all over the memory, and a lock of the next page would wait for each.
        let mut loose = Vec::new();
        for (&(root, place), row) in places.iter().zip(rows) {
            let item = &mut items[place as usize];
            item.state = row.map_or(State::Invisible, State::Visible);
            if item.is_loose && row.is_some() {
                loose.push((root, place));
            }
        }
        for (root, place) in loose {
            let item = &mut items[place as usize];
            let query = self.vectors[item.query as usize].x();
            if let Some(distance) = visible.distance_to(root, query)? {
                item.distance = distance;
            }
        }
        Ok(())
    }

    /// How many rows of a query are visible and surely nearer than what was left out.
    fn n_certain(&self, items: &[Item], frontier: f32) -> usize {
        let limit = self.index.lower_bound(frontier);
        items
            .iter()
            .filter(|item| item.row().is_some() && !(item.is_loose && item.distance > limit))
            .count()
    }
}
