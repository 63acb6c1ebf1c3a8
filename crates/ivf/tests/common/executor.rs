//! A twin of the part of Postgres that reads an ordered index scan with `xs_recheckorderby`, and of the scan that feeds it.
//!
//! `IndexNextWithReorder` fetches tuples with their lower bounds, computes the operator, holds a tuple back while
//! a smaller value may still come, and raises "index returned tuples in wrong order" for a bound above the value. A settled
//! tuple is not computed and returned at once.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet, VecDeque};

use omen_ivf::Tid;
use omen_ivf::index::Index;
use omen_ivf::query::Query;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::settle::Settler;
use omen_ivf::store::PageStore;
use omen_ivf::topk::Candidate;

/// Order of float8: NaN above everything.
pub fn float8_cmp(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => a.partial_cmp(&b).unwrap(),
        (a, b) => a.cmp(&b),
    }
}

/// An index scan that searches again with a larger k when it runs dry.
pub struct Scan<'a, S> {
    store: &'a S,
    index: &'a Index,
    query: &'a Query,
    probes: u32,
    k: usize,
    returned: HashSet<Tid>,
    ready: VecDeque<Candidate>,
    frontier: f32,
    started: bool,
    settler: Settler,
    pub stats: SearchStats,
}

impl<'a, S: PageStore> Scan<'a, S> {
    pub fn new(store: &'a S, index: &'a Index, query: &'a Query, probes: u32, k: usize) -> Self {
        Scan {
            store,
            index,
            query,
            probes,
            k,
            returned: HashSet::new(),
            ready: VecDeque::new(),
            frontier: f32::NEG_INFINITY,
            started: false,
            settler: Settler::default(),
            stats: SearchStats::default(),
        }
    }

    /// The next candidate, and whether it is settled.
    fn next(&mut self) -> Option<(Candidate, bool)> {
        while self.ready.is_empty() && (!self.started || self.frontier < f32::INFINITY) {
            if self.started {
                self.k = self.k * 3 + 1;
            }
            self.started = true;
            let found = search(
                self.store,
                self.index,
                self.query,
                self.probes,
                self.k,
                &mut self.stats,
            )
            .unwrap();
            assert!(found.items.len() <= self.k);
            assert!(
                found
                    .items
                    .windows(2)
                    .all(|w| (w[0].key, w[0].tid) < (w[1].key, w[1].tid)),
                "not ascending"
            );
            assert!(
                found.items.iter().all(|item| item.key <= found.frontier),
                "beyond the frontier"
            );
            self.frontier = found.frontier;
            let fresh = found
                .items
                .into_iter()
                .filter(|item| !self.returned.contains(&item.tid));
            self.ready.extend(fresh);
        }
        let candidate = self.ready.pop_front()?;
        assert!(
            self.returned.insert(candidate.tid),
            "{:?} twice",
            candidate.tid
        );
        let next_key = self.ready.front().map_or(self.frontier, |next| next.key);
        let settled = self.settler.settles(self.index, &candidate, next_key);
        Some((candidate, settled))
    }
}

/// The value it is ordered by, the operator's value, the row.
struct Held(f64, f64, Tid);

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        float8_cmp(other.0, self.0)
    }
}

/// The first `limit` rows of the scan in the order in which the executor returns them: (operator's value, row).
pub fn execute<S: PageStore>(
    mut scan: Scan<'_, S>,
    limit: usize,
    mut operator: impl FnMut(Tid) -> f64,
) -> Vec<(f64, Tid)> {
    let mut out = Vec::new();
    let mut held: BinaryHeap<Held> = BinaryHeap::new();
    let (mut last_bound, mut ended) = (f64::NEG_INFINITY, false);
    while out.len() < limit {
        if let Some(Held(order, ..)) = held.peek()
            && (ended || float8_cmp(*order, last_bound).is_le())
        {
            let Held(_, value, tid) = held.pop().unwrap();
            out.push((value, tid));
            continue;
        }
        if ended {
            break;
        }
        match scan.next() {
            None => ended = true,
            Some((candidate, settled)) => {
                let bound = scan.index.lower_bound(candidate.key);
                assert!(
                    !bound.is_nan() && bound >= last_bound,
                    "bounds not ascending: {bound} after {last_bound}"
                );
                let value = operator(candidate.tid);
                assert!(
                    float8_cmp(bound, value).is_le(),
                    "index returned tuples in wrong order: bound {bound}, value {value}, key {}",
                    candidate.key
                );
                last_bound = bound;
                // What the executor believes of a settled tuple: it goes out at once unless a smaller one waits.
                let order = if settled { bound } else { value };
                if settled
                    && held
                        .peek()
                        .is_none_or(|first| float8_cmp(bound, first.0).is_le())
                {
                    out.push((value, candidate.tid));
                } else {
                    held.push(Held(order, value, candidate.tid));
                }
            }
        }
    }
    out
}
