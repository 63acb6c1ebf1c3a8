//! The true neighbours of many queries at once.
//!
//! Each query first searches its nearest lists, which gives it a threshold. Then every list is read once and met by all
//! queries that have not seen it: its pages stay in the processor's cache meanwhile.

use super::page_cache::PageCache;
use crate::Result;
use crate::centroids::unchanged;
use crate::coarse::{Probe, select_lists};
use crate::index::{Index, read_entry};
use crate::list_reader::{ListReader, Visit};
use crate::params::Metric;
use crate::query::Query;
use crate::scan_list::{ListScan, Scratch, SearchStats};
use crate::scan_lists::scan_lists;
use crate::store::PageStore;
use crate::topk::{Candidate, TopK};

/// One in so many lists is searched first, and at least `MIN_FIRST`.
const FIRST_SHARE: u32 = 64;
const MIN_FIRST: u32 = 4;
/// Queries between two looks for interrupts.
const INTERRUPT_EVERY: usize = 64;

/// For each query its `k` nearest entries, nearest first, each with its list. The filter is on: what it misses hardly
/// shows, and without it this would take ten times as long.
pub(super) fn neighbours<S: PageStore>(
    s: &S,
    index: &Index,
    queries: &[Query],
    k: usize,
) -> Result<Vec<Vec<(Candidate, u32)>>> {
    let mut stats = SearchStats::default();
    let mut tops = Vec::with_capacity(queries.len());
    let mut seen = Vec::with_capacity(queries.len());
    let first = (index.n_lists() / FIRST_SHARE).max(MIN_FIRST);
    for query in queries {
        let lists = select_lists(s, index, query, first)?;
        let mut top = TopK::new(k);
        scan_lists(s, index, query, &lists, false, &mut top, &mut stats)?;
        tops.push(top);
        let mut lists: Vec<u32> = lists.iter().map(|probe| probe.list).collect();
        lists.sort_unstable();
        seen.push(lists);
    }
    let cache = PageCache::new(s);
    let mut scratch = Scratch::default();
    let mut centroids = ListReader::new();
    for list in 0..index.n_lists() {
        s.check_interrupts()?;
        cache.clear();
        let mut probes = Vec::with_capacity(queries.len());
        let root = &index.meta.root;
        let visit = centroids.read_rows(
            s,
            index,
            crate::layout::page::ROOT_LIST,
            root,
            &[list],
            |_, row| {
                probes.extend(queries.iter().map(|query| Probe {
                    list,
                    l2sq: omen_distance::l2sq_f16(query.vector(), row),
                    ip: match query.metric() {
                        Metric::NegIp => omen_distance::dot_f16(query.vector(), row),
                        _ => 0.0,
                    },
                }));
            },
        )?;
        unchanged(visit)?;
        let entry = read_entry(s, index, list)?;
        let unseen = |&(_, seen): &(usize, &Vec<u32>)| seen.binary_search(&list).is_err();
        for (i, _) in seen.iter().enumerate().filter(unseen) {
            if i % INTERRUPT_EVERY == 0 {
                s.check_interrupts()?;
            }
            tops[i].tighten();
            let mut scan = ListScan {
                s: &cache,
                index,
                query: &queries[i],
                probe: &probes[i],
                probe_no: 0,
                exact: false,
                top: &mut tops[i],
                stats: &mut stats,
                scratch: &mut scratch,
            };
            if scan.whole(&entry)? == Visit::Changed {
                // Folded by an insert of another session: from the start, on the pages as they are now.
                cache.clear();
                scan.restart(&entry)?;
            }
        }
    }
    Ok(tops.into_iter().map(|top| top.into_listed().0).collect())
}
