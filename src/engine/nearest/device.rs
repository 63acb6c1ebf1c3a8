//! The device's part of a round over the lists that it chooses, and what pages hold beside it.
//!
//! Freshness: the tier holds of a list what its pages hold for as long as the directory entry carries the generations of loading, which
//! never come back once raised. So the entry may be read after the device has searched: if it still carries them, the device's answer is
//! that of the pages as of this entry, and what was appended is scanned as of the same entry. If only then a list turns out to be out of
//! date, or is rewritten while its appended entries are scanned, the answer is not used: from then on the device skips the list, which is
//! searched on pages. The search goes list by list (`gpu.rs`), or, of codes alone, the device is asked once more.

use std::time::{Duration, Instant};

use omen_gpu::params::QueryBound;
use omen_gpu::{Batch, BatchFound, GpuError, Source};
use omen_ivf::coarse::Probe;
use omen_ivf::index::{Index, read_entries};
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::query::Query;
use omen_ivf::topk::{Candidates, TopK};

use super::{Nearest, NearestRequest};
use crate::engine::gpu::{lists_for, note_lists, note_slots, uninterrupted};
use crate::engine::gpu_batch::device_lists::candidates_of;
use crate::engine::lists::entries_of;
use crate::engine::named_slots::NamedSlots;
use crate::engine::pages::{scan_all_appended, scan_stale, unranked};
use crate::engine::stats::ScanRecord;
use crate::engine::tiers::{LoadedTier, Stop};
use crate::engine::{choice, heat, merge};
use crate::guc;
use crate::storage::IndexPages;

/// If codes alone do not settle it, so many times as many candidates are asked for, and some more.
const ASK_FACTOR: usize = 4;
const ASK_MORE: usize = 256;

/// Asks the device; of codes alone once more if lists were found to be out of date, and for more if those named do not settle which are
/// the `k` nearest. `None`: the device's answer is not that of the index as it is.
pub(super) fn search_tier(
    loaded: &mut LoadedTier,
    request: &NearestRequest,
    query: &mut Query,
    record: &mut ScanRecord,
) -> std::result::Result<Option<Nearest>, Stop> {
    let began = Instant::now();
    let mut stale_time = Duration::ZERO;
    let has_rows = loaded.tier.parts().rows();
    let (mut asked, mut may_repeat) = (request.k, !has_rows);
    loop {
        let found = search_once(loaded, request, asked, query, &mut stale_time, record);
        if found.is_err() && asked > request.k {
            note_in_vain(request, began, stale_time);
        }
        let Some(nearest) = found? else {
            if std::mem::take(&mut may_repeat) {
                continue;
            }
            return Ok(None);
        };
        let Candidates { items, frontier } = &nearest.found;
        let is_short = items.len() < request.k && *frontier < f32::INFINITY;
        if has_rows || !is_short {
            let file = request.pages.file();
            choice::note_gpu(file, nearest.lists.len(), began.elapsed(), stale_time);
            return Ok(Some(nearest));
        }
        asked = asked * ASK_FACTOR + ASK_MORE;
    }
}

/// Counts a search by codes alone that settled nothing: what it took, and what the CPU takes now.
fn note_in_vain(request: &NearestRequest, began: Instant, stale_time: Duration) {
    let (file, index) = (request.pages.file(), request.index);
    let n_lists = request.reach.probes.min(index.n_lists()) as usize;
    let to_come = Duration::from_secs_f64(choice::cpu_seconds(file, 1, n_lists));
    choice::note_gpu(file, n_lists, began.elapsed() + to_come, stale_time);
}

/// Asks the device for `asked` candidates, and adds what pages hold beside them. Adds to `stale_time` what lists took that are out of
/// date there.
fn search_once(
    loaded: &mut LoadedTier,
    request: &NearestRequest,
    asked: usize,
    query: &mut Query,
    stale_time: &mut Duration,
    record: &mut ScanRecord,
) -> std::result::Result<Option<Nearest>, Stop> {
    let NearestRequest {
        pages, index, k, ..
    } = *request;
    let began = Instant::now();
    let answer = ask(loaded, request, asked, query);
    let device_time = began.elapsed();
    record.gpu += device_time;
    let answer = answer?;
    let lists = lists_of(&answer, index);
    // Not before the device has searched: see above.
    let entries = read_entries(pages, index, &lists)?;
    let Some(split) = split(loaded, &lists, &entries) else {
        note_all_stale(loaded, pages, index)?;
        return Ok(None);
    };
    note_lists(loaded, lists.len(), split.stale.iter().copied());
    if split.fresh.is_empty() {
        return Ok(None);
    }
    let mut top = TopK::new(k);
    let fresh = split.fresh.iter().copied();
    if !scan_all_appended(pages, index, query, fresh, &mut top, record)? {
        return Ok(None);
    }
    heat::note(pages, index, lists.iter().copied());
    note_slots(loaded, split.fresh.iter().map(|(list, _)| *list), record);
    let on_device = if loaded.tier.parts().rows() {
        Some(candidates_of(&answer, 0))
    } else if !NamedSlots::is_answered(&answer, 0) {
        note_in_vain(request, began, Duration::ZERO);
        let what = "more entries by codes alone than there is room for";
        return Err(GpuError::Unsupported(what.into()).into());
    } else {
        let by_number = |&(list, entry): &(u32, &ListEntry)| (unranked(list), *entry);
        let mut searched: Vec<(Probe, ListEntry)> = split.fresh.iter().map(by_number).collect();
        searched.sort_unstable_by_key(|(probe, _)| probe.list);
        let named = NamedSlots {
            pages,
            index,
            tier: &loaded.tier,
            lists: &searched,
        };
        named.rerank(query, &answer, 0, &mut top, record)?;
        None
    };
    *stale_time += scan_stale(
        pages,
        index,
        query,
        &split.stale,
        request.exact,
        &mut top,
        record,
    )?;
    record.cpu += began.elapsed() - device_time;
    let on_pages = top.into_candidates();
    Ok(Some(Nearest {
        n_entries: entries_of(&entries),
        lists: lists.into_iter().map(unranked).collect(),
        is_ranked: false,
        found: match on_device {
            Some(on_device) => merge(on_device, on_pages),
            None => on_pages,
        },
    }))
}

/// Asks the device for the `asked` nearest of its entries in the lists that it chooses, those known to be out of date excepted.
fn ask(
    loaded: &LoadedTier,
    request: &NearestRequest,
    asked: usize,
    query: &Query,
) -> std::result::Result<BatchFound, Stop> {
    let lists = lists_for(loaded, request.reach, request.exact);
    let bound = query.bound();
    uninterrupted(|poll| {
        let mut batch = Batch {
            n_queries: 1,
            source: Source::Fill(&mut |_, to, bounds| {
                to.copy_from_slice(query.vector());
                bounds.fill(QueryBound::from(bound));
            }),
            lists,
            skipped: &loaded.known_stale,
            k: asked,
            want_lists: true,
            tuning: Default::default(),
        };
        let (rounding, timeout) = (bound.rounding(), guc::gpu_timeout());
        loaded
            .tier
            .search_batch(&mut batch, rounding, timeout, poll)
    })
}

/// The lists of the one query of `answer`.
fn lists_of(answer: &BatchFound, index: &Index) -> Vec<u32> {
    match answer.n_probes.first() {
        Some(&n) => answer.lists[..answer.probes.min(n as usize)].to_vec(),
        None => (0..index.n_lists()).collect(),
    }
}

/// Lists by who has their frozen part.
struct Split<'a> {
    /// The device, which has searched them.
    fresh: Vec<(u32, &'a ListEntry)>,
    /// The pages alone: the device has skipped them.
    stale: Vec<u32>,
}

/// Splits `lists`, with their directory entries as they are after the device's search. `None`: it has searched what is out of date.
fn split<'a>(loaded: &LoadedTier, lists: &[u32], entries: &'a [ListEntry]) -> Option<Split<'a>> {
    let mut split = Split {
        fresh: Vec::with_capacity(lists.len()),
        stale: Vec::new(),
    };
    for (&list, entry) in lists.iter().zip(entries) {
        let is_absent = loaded.tier.lists()[list as usize].is_none();
        if is_absent || loaded.known_stale.binary_search(&list).is_ok() {
            split.stale.push(list);
        } else if loaded
            .tier
            .is_current(list, entry.layout_gen, entry.delete_gen)
        {
            split.fresh.push((list, entry));
        } else {
            return None;
        }
    }
    Some(split)
}

/// Notes all lists on the device that are out of date by now: those that change at all often change many at a time.
fn note_all_stale(
    loaded: &mut LoadedTier,
    pages: &IndexPages,
    index: &Index,
) -> std::result::Result<(), Stop> {
    let all: Vec<u32> = (0..index.n_lists()).collect();
    let entries = read_entries(pages, index, &all)?;
    let tier = &loaded.tier;
    let is_stale = |&list: &u32| {
        let entry = &entries[list as usize];
        tier.lists()[list as usize].is_some()
            && !tier.is_current(list, entry.layout_gen, entry.delete_gen)
    };
    loaded.known_stale = all.iter().copied().filter(is_stale).collect();
    Ok(())
}
