//! Which lists a search visits: at first, and when it goes on. The same for both engines, for scans and for batches.

use omen_ivf::index::Index;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::probes::Reach;

use crate::guc::Effort;

/// Rows that searches are taken to want until more is known.
pub(crate) const USUAL_ROWS: u64 = 10;
/// A scan that goes on takes all lists, if they have no more entries than this, rather than some more again and again: each
/// time some rows come too late, and reading all codes takes some milliseconds.
const FEW_ENTRIES: u64 = 500_000;
/// The same for a scan that has gone on before.
const FEW_ENTRIES_DEEP: u64 = 4_000_000;
/// A scan that is expected to want more rows than this takes all lists from the start if they are
/// `FEW_ENTRIES` or `FEW_ENTRIES_DEEP`: the calibration says nothing of so many neighbours, and handing them out takes as long.
const MANY_ROWS: u64 = 200;
const MANY_ROWS_DEEP: u64 = 1000;
/// Lists are added until one in so many entries of the visited ones was handed out.
pub(crate) const WIDENED_SHARE: u64 = 32;

/// The lists of a search.
#[derive(Debug, Clone)]
pub(crate) struct ListPlan {
    /// The user said how many.
    given: bool,
    recall: f32,
    /// All lists were asked for: the filter, which can err, stays off.
    exact: bool,
    /// Nearest rows of which the lists hold `omen.recall`, if they were not given.
    covers: u64,
    reach: Reach,
    /// How often lists were added.
    n_widened: u32,
}

impl ListPlan {
    /// For a search that wants about `depth` rows. `filtered`: not all of them will be taken.
    pub(crate) fn new(index: &Index, effort: Effort, depth: u64, filtered: bool) -> Self {
        let depth = depth.max(USUAL_ROWS);
        let covers = step_of(depth);
        let recall = recall_wanted(effort.recall(), filtered);
        let probes = effort.probes(index.n_lists());
        let asked = match probes {
            Some(probes) => Reach::from(probes),
            None => index.reach_for(recall, covers),
        };
        let exact = asked.probes >= index.n_lists();
        let rows = index.meta.built_rows;
        let deep = depth >= MANY_ROWS && rows <= FEW_ENTRIES
            || depth >= MANY_ROWS_DEEP && rows <= FEW_ENTRIES_DEEP;
        let reach = if probes.is_none() && deep {
            Reach::from(index.n_lists())
        } else {
            asked
        };
        Self {
            given: probes.is_some(),
            recall,
            exact,
            covers,
            reach,
            n_widened: 0,
        }
    }

    /// Which lists to visit now.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// Whether only hard bounds may rule entries out.
    pub(crate) fn is_exact(&self) -> bool {
        self.exact
    }

    /// Whether the user said how many lists.
    pub(crate) fn is_given(&self) -> bool {
        self.given
    }

    /// Nearest rows of which the lists hold `omen.recall`, if they were not given.
    pub(crate) fn covers(&self) -> u64 {
        self.covers
    }

    /// Whether all lists of the index are visited.
    pub(crate) fn is_all(&self, index: &Index) -> bool {
        self.reach.probes >= index.n_lists() && self.reach.spread == f32::INFINITY
    }

    /// Adds lists after `n_rows` rows from `visited` lists, of `list_entries` entries each: all, if they are few; else as many
    /// as ten times the rows need by the calibration, or twice as many, or enough for `WIDENED_SHARE`.
    pub(crate) fn widen(&mut self, index: &Index, visited: u64, list_entries: u64, n_rows: u64) {
        let list_entries = list_entries.max(1);
        let enough = (n_rows * WIDENED_SHARE).div_ceil(list_entries);
        self.covers = self.covers.max(n_rows).saturating_mul(10);
        self.n_widened += 1;
        let all = u64::from(index.n_lists());
        let few = if self.n_widened > 1 {
            FEW_ENTRIES_DEEP
        } else {
            FEW_ENTRIES
        };
        let covering = index.reach_for(self.recall, self.covers);
        self.reach = if !self.given && list_entries * all <= few {
            Reach::from(all as u32)
        } else if self.given || covering.probes <= self.reach.probes {
            Reach::from((2 * visited).max(enough).min(all) as u32)
        } else if u64::from(covering.probes) < enough {
            Reach::from(enough.min(all) as u32)
        } else {
            covering
        };
    }
}

/// Recall for which lists are chosen, of that which is wanted.
///
/// The calibration is about the nearest rows, all of them taken. Those that pass a filter may all be where it tells least: the farthest
/// of them, or those of queries that are far from everything; and a row that was missed is lost to strict order once the
/// scan, which looks for more, has gone past it. So a filtered search misses a third of what the setting allows.
pub(crate) fn recall_wanted(recall: f32, filtered: bool) -> f32 {
    if filtered {
        1.0 - (1.0 - recall) / 3.0
    } else {
        recall
    }
}

/// Live frozen entries of lists.
pub(crate) fn entries_of(lists: &[ListEntry]) -> u64 {
    lists.iter().map(|entry| u64::from(entry.n_live())).sum()
}

/// Rows that the lists are chosen for when about `depth` are wanted: a step of 10, 16, 25, 40, 63, 100, ..., and up to a seventh
/// more than it. One engine pulls a row or two more than the other for the same LIMIT, and both are to visit the same lists.
fn step_of(depth: u64) -> u64 {
    const STEPS_A_DECADE: f64 = 5.0;
    let tens = (depth as f64 * 7.0 / 8.0 / USUAL_ROWS as f64).max(1.0);
    let step = (tens.log10() * STEPS_A_DECADE).ceil();
    (USUAL_ROWS as f64 * 10f64.powf(step / STEPS_A_DECADE)).round() as u64
}
