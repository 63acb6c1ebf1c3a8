//! A search on the CPU: choose lists, scan them nearest first.

use crate::Result;
use crate::coarse::select_lists;
use crate::index::Index;
use crate::query::Query;
use crate::scan_list::SearchStats;
use crate::scan_lists::scan_lists;
use crate::store::PageStore;
use crate::topk::{Candidates, TopK};

/// Searches that lost candidates to a list's rewrite are repeated so often before a short answer is given.
const MAX_REPEATS: u32 = 3;

/// The `k` nearest entries of the `probes` nearest lists. With `probes >= lists` the answer is exact: only hard bounds order
/// it, and nothing is skipped.
pub fn search<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    probes: u32,
    k: usize,
    stats: &mut SearchStats,
) -> Result<Candidates> {
    Ok(search_lists(s, index, query, probes, k, stats)?.into_candidates())
}

/// As [`search`], before the candidates are sorted.
pub(crate) fn search_lists<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    probes: u32,
    k: usize,
    stats: &mut SearchStats,
) -> Result<TopK> {
    let exact = probes >= index.n_lists();
    let lists = select_lists(s, index, query, probes)?;
    let mut repeats = 0;
    loop {
        let mut top = TopK::new(k);
        scan_lists(s, index, query, &lists, exact, &mut top, stats)?;
        if !top.is_short() || repeats == MAX_REPEATS {
            return Ok(top);
        }
        repeats += 1;
    }
}
