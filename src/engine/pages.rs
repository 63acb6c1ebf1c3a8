//! What pages hold beside what a device has searched: entries appended to its lists, and lists that it lacks or has of old.

use std::time::{Duration, Instant};

use omen_ivf::coarse::{Probe, probes_of};
use omen_ivf::index::Index;
use omen_ivf::list_reader::Visit;
use omen_ivf::query::Query;
use omen_ivf::scan_list::{SearchStats, Served, scan_appended};
use omen_ivf::scan_lists::scan_lists;
use omen_ivf::topk::TopK;

use super::stats::ScanRecord;
use crate::error::Result;
use crate::storage::IndexPages;

/// A list without its distances.
pub(super) fn unranked(list: u32) -> Probe {
    Probe {
        list,
        l2sq: 0.0,
        ip: 0.0,
    }
}

/// Scans what was appended to `lists` beyond what the device has, as of their directory entries; how many entries that are. `None`: one of the
/// lists was rewritten, and has them where the device lacks them.
pub(super) fn scan_all_appended<'a>(
    pages: &IndexPages,
    index: &Index,
    query: &Query,
    lists: impl IntoIterator<Item = &'a Served<'a>>,
    top: &mut TopK,
    record: &mut ScanRecord,
) -> Result<Option<u64>> {
    let mut did = SearchStats::default();
    let mut is_done = true;
    for searched in lists {
        if !searched.may_lack(pages, index) {
            continue;
        }
        let visit = scan_appended(pages, index, query, searched, top, &mut did)?;
        if visit == Visit::Changed {
            is_done = false;
            break;
        }
    }
    record.add(&did);
    Ok(is_done.then_some(did.candidates))
}

/// Scans `lists` on pages, for a query that need not have a code and may get one; how long that took.
pub(super) fn scan_stale(
    pages: &IndexPages,
    index: &Index,
    query: &mut Query,
    lists: &[u32],
    exact: bool,
    top: &mut TopK,
    record: &mut ScanRecord,
) -> Result<Duration> {
    if lists.is_empty() {
        return Ok(Duration::ZERO);
    }
    let began = Instant::now();
    index.add_code(query);
    let lists = probes_of(pages, index, query, lists)?;
    let mut did = SearchStats::default();
    scan_lists(pages, index, query, &lists, exact, top, &mut did)?;
    record.add(&did);
    Ok(began.elapsed())
}
