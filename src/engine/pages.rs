//! What pages hold beside what a device has searched: entries appended to its lists, and lists that it lacks or has of old.

use std::time::{Duration, Instant};

use omen_ivf::coarse::{Probe, probes_of};
use omen_ivf::index::Index;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::Visit;
use omen_ivf::query::Query;
use omen_ivf::scan_list::{SearchStats, scan_appended};
use omen_ivf::scan_lists::scan_lists;
use omen_ivf::store::NO_BLOCK;
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

/// Scans what was appended to `lists`, as of their directory entries. `false`: one of them was rewritten, and has it where the device lacks it.
pub(super) fn scan_all_appended<'a>(
    pages: &IndexPages,
    index: &Index,
    query: &Query,
    lists: impl IntoIterator<Item = (u32, &'a ListEntry)>,
    top: &mut TopK,
    record: &mut ScanRecord,
) -> Result<bool> {
    let mut did = SearchStats::default();
    let mut is_done = true;
    for (list, entry) in lists {
        if entry.append_head == NO_BLOCK {
            continue;
        }
        // Appended entries have no codes, and their keys need no centroid.
        let probe = unranked(list);
        if scan_appended(pages, index, query, &probe, entry, top, &mut did)? == Visit::Changed {
            is_done = false;
            break;
        }
    }
    record.add(&did);
    Ok(is_done)
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
