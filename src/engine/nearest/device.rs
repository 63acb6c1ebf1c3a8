//! The part of this session's device in a round over the lists that it chooses.
//!
//! Freshness: the tier holds of a list what its pages hold for as long as the directory entry carries the generations of loading, which
//! never come back once raised. So the entry may be read after the device has searched: if it still carries them, the device's answer is
//! that of the pages as of this entry, and what was appended is scanned as of the same entry. If only then a list turns out to be out of
//! date, or is rewritten while its appended entries are scanned, the answer is not used: from then on the device skips the list, which is
//! searched on pages. The search goes list by list (`gpu.rs`), or, of codes alone, the device is asked once more.

use std::time::{Duration, Instant};

use omen_gpu::params::QueryBound;
use omen_gpu::{Batch, BatchFound, Source};
use omen_ivf::index::{Index, read_entries};
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::AppendedTo;
use omen_ivf::query::Query;

use super::settle::{Asked, LookedUp, settle};
use super::{Nearest, NearestRequest};
use crate::engine::answer::OnDevice;
use crate::engine::gpu::{lists_for, n_slots_of, note_lists, uninterrupted};
use crate::engine::lists::entries_of;
use crate::engine::refresh::Behind;
use crate::engine::stats::ScanRecord;
use crate::engine::tiers::{LoadedTier, Stop};
use crate::guc;
use crate::storage::IndexPages;

/// Asks the device; of codes alone once more if lists were found to be out of date. `None`: the device's answer is not that of the index as
/// it is.
pub(super) fn search_tier(
    loaded: &mut LoadedTier,
    request: &NearestRequest,
    query: &mut Query,
    record: &mut ScanRecord,
) -> Result<Option<Nearest>, Stop> {
    let n_lists = request.reach.probes.min(request.index.n_lists()) as usize;
    let n_repeats = usize::from(!loaded.tier.parts().rows());
    let mut ask = |k: usize, query: &Query, record: &mut ScanRecord| {
        let began = Instant::now();
        let found = ask_tier(loaded, request, k, query);
        record.gpu += began.elapsed();
        current(loaded, request, &found?)
    };
    let found = settle(
        &request.round(),
        query,
        n_lists,
        n_repeats,
        record,
        &mut ask,
    )?;
    loaded.stale |= found.as_ref().is_some_and(|found| found.behind.is_much());
    Ok(found)
}

/// The device's answer. `None`: it has searched what is out of date, which is noted, or nothing at all.
fn current(
    loaded: &mut LoadedTier,
    request: &NearestRequest,
    found: &BatchFound,
) -> Result<Option<Asked>, Stop> {
    let NearestRequest { pages, index, .. } = *request;
    let lists = lists_of(found, index);
    // Not before the device has searched: see above.
    let entries = read_entries(pages, index, &lists)?;
    let Some(searched) = searched(loaded, &lists, &entries) else {
        note_all_stale(loaded, pages, index)?;
        return Ok(None);
    };
    let those = |wanted: bool| {
        let both = lists.iter().copied().zip(&searched);
        both.filter(move |(_, searched)| searched.is_some() == wanted)
            .map(|(list, _)| list)
    };
    note_lists(loaded, lists.len(), those(false), Behind::default());
    if those(true).next().is_none() {
        return Ok(None);
    }
    let n_slots = n_slots_of(loaded, those(true));
    let (n_entries, both) = (entries_of(&entries), entries.into_iter().zip(searched));
    let looked_up = |(&list, (entry, searched)): (&u32, _)| LookedUp {
        list,
        entry,
        searched,
    };
    Ok(Some(Asked {
        found: OnDevice::of_tier(&loaded.tier, found, 0)?,
        checked: Duration::ZERO,
        looked_up: lists.iter().zip(both).map(looked_up).collect(),
        n_slots,
        n_entries,
        lists,
    }))
}

/// Asks the device for the `k` nearest of its entries in the lists that it chooses, those known to be out of date excepted.
fn ask_tier(
    loaded: &LoadedTier,
    request: &NearestRequest,
    k: usize,
    query: &Query,
) -> Result<BatchFound, Stop> {
    let lists = lists_for(loaded, request.reach, request.exact);
    let bound = query.bound();
    uninterrupted(|poll| {
        let mut batch = Batch {
            n_queries: 1,
            source: Source::Fill(&mut |_, to, bounds| {
                to.copy_from_slice(query.words());
                bounds.fill(QueryBound::from(bound));
            }),
            lists,
            skipped: &loaded.known_stale,
            k,
            want_lists: true,
            tuning: Default::default(),
        };
        let (rounding, timeout) = (bound.rounding(), guc::gpu_timeout());
        loaded
            .tier
            .search_batch(&mut batch, rounding, timeout, poll)
    })
}

/// The lists of the one query of `found`.
fn lists_of(found: &BatchFound, index: &Index) -> Vec<u32> {
    match found.n_probes.first() {
        Some(&n) => found.lists[..found.probes.min(n as usize)].to_vec(),
        None => (0..index.n_lists()).collect(),
    }
}

/// If the device has searched each of `lists`, rather than skipped it, what it has of the entries appended to it; with their directory entries as
/// they are after the search. `None`: it has searched what is out of date.
fn searched(
    loaded: &LoadedTier,
    lists: &[u32],
    entries: &[ListEntry],
) -> Option<Vec<Option<AppendedTo>>> {
    let here = |(&list, entry): (&u32, &ListEntry)| {
        let is_absent = loaded.tier.lists()[list as usize].is_none();
        if is_absent || loaded.known_stale.binary_search(&list).is_ok() {
            return Some(None);
        }
        let here = loaded.tier.current(list, entry);
        here.map(|here| Some(here.appended))
    };
    lists.iter().zip(entries).map(here).collect()
}

/// Notes all lists on the device that are out of date by now: those that change at all often change many at a time.
fn note_all_stale(loaded: &mut LoadedTier, pages: &IndexPages, index: &Index) -> Result<(), Stop> {
    let all: Vec<u32> = (0..index.n_lists()).collect();
    let entries = read_entries(pages, index, &all)?;
    let tier = &loaded.tier;
    let is_stale = |&list: &u32| {
        let entry = &entries[list as usize];
        tier.lists()[list as usize].is_some() && tier.current(list, entry).is_none()
    };
    loaded.known_stale = all.iter().copied().filter(is_stale).collect();
    Ok(())
}
