//! A search on the CPU: choose lists, scan them nearest first.

use crate::Result;
use crate::coarse::select_lists;
use crate::index::Index;
use crate::probes::Reach;
use crate::query::Query;
use crate::scan_list::SearchStats;
use crate::scan_lists::scan_lists;
use crate::store::PageStore;
use crate::topk::{Candidates, TopK};

/// Searches that lost candidates to a list's rewrite are repeated so often before a short answer is given.
const MAX_REPEATS: u32 = 3;

/// The `k` nearest entries of the lists within `reach`. With as many probes as there are lists the answer is exact: only hard
/// bounds order it, and nothing is skipped.
pub fn search<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    reach: impl Into<Reach>,
    k: usize,
    stats: &mut SearchStats,
) -> Result<Candidates> {
    let reach = reach.into();
    let exact = reach.probes >= index.n_lists();
    let lists = select_lists(s, index, query, reach)?;
    let mut repeats = 0;
    loop {
        let mut top = TopK::new(k);
        scan_lists(s, index, query, &lists, exact, &mut top, stats)?;
        if !top.is_short() || repeats == MAX_REPEATS {
            return Ok(top.into_candidates());
        }
        repeats += 1;
    }
}
