//! The k nearest entries seen so far, for k from 1 to millions.
//!
//! An unsorted buffer of k entries and some room: what comes in nearer than the threshold is appended, and when the room
//! is used up a selection keeps the k nearest and lowers the threshold. That costs a constant per entry kept,
//! whatever k, and one comparison per entry refused.

use crate::Tid;

/// An entry found: its key (see `bound.rs`) and its row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Lower bound in scaled space; smaller is nearer.
    pub key: f32,
    /// Upper bound in scaled space; infinity where it is not known.
    pub ceiling: f32,
    /// Heap row.
    pub tid: Tid,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    /// Ascending by (key, tid); at most k.
    pub items: Vec<Candidate>,
    /// Every entry of the searched lists that is not in `items` has a key of at least this; plus infinity if none is left.
    /// May be finite although `items` has fewer than k (a list changed meanwhile): search again with a larger k.
    pub frontier: f32,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    candidate: Candidate,
    list: u32,
}

impl Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (a, b) = (&self.candidate, &other.candidate);
        a.key.total_cmp(&b.key).then(a.tid.cmp(&b.tid))
    }
}

/// Collects the k nearest.
#[derive(Debug)]
pub struct TopK {
    k: usize,
    items: Vec<Item>,
    /// Refuses keys from here on: the k-th nearest at the last selection, never raised.
    threshold: f32,
    /// Whether anything was refused or discarded; all of that has keys of at least `threshold`.
    refused: bool,
    /// Lives here so that a scan of many lists allocates once.
    pub(crate) scratch: crate::scan_list::Scratch,
}

impl TopK {
    /// An empty collection for the `k >= 1` nearest.
    pub fn new(k: usize) -> Self {
        Self {
            k: k.max(1),
            items: Vec::new(),
            threshold: f32::INFINITY,
            refused: false,
            scratch: Default::default(),
        }
    }

    /// The `k` asked for.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Keys from here on need not be offered; infinity until k entries are there.
    #[inline(always)]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Says that entries of keys not below [`TopK::threshold`] were passed over.
    #[inline(always)]
    pub fn note_refused(&mut self) {
        self.refused = true;
    }

    /// Whether an entry of this key need not be offered; notes that it was there. Keys are never plus infinity, so a
    /// threshold of infinity refuses nothing.
    #[inline(always)]
    pub(crate) fn refuses(&mut self, key: f32) -> bool {
        let refuses = key >= self.threshold;
        self.refused |= refuses;
        refuses
    }

    /// Offers an entry of `list`. Its key is neither NaN nor plus infinity.
    #[inline(always)]
    pub fn push(&mut self, candidate: Candidate, list: u32) {
        debug_assert!(candidate.key < f32::INFINITY);
        if self.refuses(candidate.key) {
            return;
        }
        self.accept(Item { candidate, list });
    }

    fn accept(&mut self, item: Item) {
        self.items.push(item);
        let len = self.items.len();
        if len == self.k && self.threshold == f32::INFINITY {
            self.threshold = self
                .items
                .iter()
                .map(|item| item.candidate.key)
                .fold(f32::NEG_INFINITY, f32::max);
        } else if len >= self.k + (self.k / 4).max(8) {
            self.select();
        }
    }

    /// Lowers the threshold to what is known by now, if that is worth a selection.
    pub(crate) fn tighten(&mut self) {
        if self.items.len() > self.k + self.k / 32 {
            self.select();
        }
    }

    /// Keeps the k nearest.
    fn select(&mut self) {
        if self.items.len() > self.k {
            let (_, last, _) = self.items.select_nth_unstable_by(self.k - 1, Item::cmp);
            self.threshold = self.threshold.min(last.candidate.key);
            self.items.truncate(self.k);
            self.refused = true;
        }
    }

    /// Forgets what `list` contributed. The threshold stays: what was refused because of those entries is lost, and
    /// [`Candidates::frontier`] says so.
    pub fn remove_list(&mut self, list: u32) {
        self.items.retain(|item| item.list != list);
    }

    /// Says that a merged source left out entries of keys from `frontier` on.
    pub fn lower_threshold(&mut self, frontier: f32) {
        if frontier < f32::INFINITY {
            self.threshold = self.threshold.min(frontier);
            self.refused = true;
        }
    }

    /// Whether fewer than k entries are there although some were refused.
    pub(crate) fn is_short(&self) -> bool {
        self.refused && self.items.len() < self.k
    }

    /// The k nearest, ascending.
    pub fn into_candidates(self) -> Candidates {
        let (items, frontier) = self.into_listed();
        Candidates {
            items: items.into_iter().map(|(candidate, _)| candidate).collect(),
            frontier,
        }
    }

    /// The k nearest, ascending, each with its list; and the frontier.
    pub(crate) fn into_listed(mut self) -> (Vec<(Candidate, u32)>, f32) {
        self.select();
        self.items.sort_unstable_by(Item::cmp);
        let frontier = if self.refused {
            self.threshold
        } else {
            f32::INFINITY
        };
        // What lies beyond the frontier may not come before what was refused.
        self.items.truncate(
            self.items
                .partition_point(|item| item.candidate.key <= frontier),
        );
        let items = self
            .items
            .iter()
            .map(|item| (item.candidate, item.list))
            .collect();
        (items, frontier)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    fn candidate(key: f32, row: u32) -> Candidate {
        let tid = Tid::new(row, 1);
        Candidate {
            key,
            ceiling: key,
            tid,
        }
    }

    #[test]
    fn keeps_the_nearest() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(crate::testing::seed());
        for n in [0, 1, 5, 100, 3000] {
            // Few different keys in every second round.
            for k in [1, 2, 10, 99, 100, 101, 5000] {
                let step = if rng.random() { 0.125 } else { 1e-6 };
                let mut key = || ((rng.random_range(-1f32..1.0) / step).round() * step) + 0.0;
                let all: Vec<Candidate> = (0..n).map(|row| candidate(key(), row)).collect();
                let mut top = TopK::new(k);
                all.iter().for_each(|&c| top.push(c, 0));
                let found = top.into_candidates();
                let mut keys: Vec<f32> = all.iter().map(|c| c.key).collect();
                keys.sort_by(f32::total_cmp);
                assert_eq!(
                    found.items.iter().map(|c| c.key).collect::<Vec<_>>(),
                    keys[..k.min(keys.len())]
                );
                assert_eq!(found.frontier < f32::INFINITY, keys.len() > k);
                assert!(
                    keys[k.min(keys.len())..]
                        .iter()
                        .all(|&key| key >= found.frontier)
                );
            }
        }
    }

    #[test]
    fn a_removed_list_leaves_an_honest_frontier() {
        let mut top = TopK::new(3);
        (0..3).for_each(|i| top.push(candidate(5.0 + i as f32, i), 1));
        (0..20).for_each(|i| top.push(candidate(i as f32 / 10.0, 10 + i), 2));
        top.remove_list(2);
        assert!(top.is_short());
        let found = top.into_candidates();
        // Rows of list 1 that were pushed out may not be promised again: the frontier lies before them.
        assert!(found.items.is_empty() && found.frontier <= 5.0, "{found:?}");
    }

    #[test]
    fn a_lowered_threshold_cuts() {
        let mut top = TopK::new(10);
        (0..5).for_each(|i| top.push(candidate(i as f32, i), 0));
        top.lower_threshold(f32::INFINITY);
        assert_eq!(top.threshold(), f32::INFINITY);
        top.lower_threshold(2.5);
        top.push(candidate(2.5, 9), 0);
        top.push(candidate(2.25, 10), 0);
        let found = top.into_candidates();
        assert_eq!(
            found.items.iter().map(|c| c.key).collect::<Vec<_>>(),
            [0.0, 1.0, 2.0, 2.25]
        );
        assert_eq!(found.frontier, 2.5);
    }
}
