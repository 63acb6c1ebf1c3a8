//! A round of one query on the GPU: the frozen part of lists whose hot tier is current there, the rest by the CPU.
//!
//! Freshness: a list's tier is valid iff its directory entry, read now, carries the generations read before the tier was
//! loaded. What was appended since is scanned on pages. A list that does not match is scanned on pages entirely.

use std::time::Instant;

use omen_gpu::{GpuError, Lists, TierQuery};
use omen_ivf::coarse::Probe;
use omen_ivf::index::{Index, read_entries};
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::{AppendedTo, Visit};
use omen_ivf::probes::Reach;
use omen_ivf::scan_list::{SearchStats, Served, scan_appended};
use omen_ivf::topk::{Candidates, TopK};

use super::answer::Round;
use super::fallback::{Attempt, try_gpu, try_service};
use super::refresh::Behind;
use super::residence::load_tier;
use super::service_tiers::{Serving, who_serves};
use super::shared::one::{Answer, Which};
use super::stats::ScanRecord;
use super::tiers::{Device, LoadedTier, Stop};
use super::{SearchRequest, choice, heat, merge, scan, shared};
use crate::error::Result;
use crate::gpu_service::Service;
use crate::guc::{self, EngineSetting};
use crate::options::{self, Hot};
use crate::storage::IndexPages;

/// A tier is out of date when more than one in so many lists of a search are.
pub(super) const STALE_SHARE: usize = 5;
/// An enforced GPU loads an outdated tier again after so many times the last load's duration.
const RELOAD_FACTOR: u32 = 5;
/// A tier of the hottest lists is made anew when it lacks more than one in so many of those searched, and so many times the last
/// load's duration has passed.
const MISS_SHARE: u64 = 4;
pub(super) const REFRESH_FACTOR: u32 = 50;
/// Why a tier of codes alone does not search lists that are given.
pub(super) const GIVEN_TO_CODES: &str = "lists given to a hot tier of codes alone";
/// Interrupts that do not end the query make the GPU search start again so often.
const MAX_RETRIES: u32 = 2;

/// Answers a round with the GPU's help; `None`: the CPU is to answer alone. Fails only for what ends the query.
pub(super) fn search(
    request: &SearchRequest,
    record: &mut ScanRecord,
) -> Result<Option<Candidates>> {
    if request.lists.is_empty() || !request.query.bound().is_plain() {
        // Keys of a query that is not plain need the CPU's case by case look.
        return Ok(None);
    }
    let SearchRequest { pages, index, .. } = *request;
    if let Serving::Service(service) = who_serves() {
        return try_service(service, pages, index, record, |setting, record| {
            search_shared(service, setting, request, record)
        });
    }
    try_gpu(pages, index, record, |device, setting, record| {
        let (file, n_lists) = (request.pages.file(), request.lists.len());
        heat::note(pages, index, request.lists.iter().map(|probe| probe.list));
        if wants_loading(device, setting, pages, index, 0.0) {
            load_now(device, pages, index, record)?;
        }
        let Some(loaded) = device.tier(file, request.index) else {
            return Ok(None);
        };
        if !loaded.tier.parts().rows() {
            return Err(GpuError::Unsupported(GIVEN_TO_CODES.into()).into());
        }
        if setting == EngineSetting::Auto && !choice::prefers_gpu(file, index, n_lists) {
            return Ok(None);
        }
        let found = search_tier(loaded, request, record)?;
        if found.is_some() {
            device.note_success();
        }
        Ok(found)
    })
}

/// As [`search`], by the shared service.
fn search_shared(
    service: &Service,
    setting: EngineSetting,
    request: &SearchRequest,
    record: &mut ScanRecord,
) -> Attempt<Candidates> {
    let SearchRequest {
        pages,
        index,
        query,
        lists,
        k,
        exact,
    } = *request;
    let round = Round {
        pages,
        index,
        k,
        exact,
    };
    let (which, mut query) = (Which::Given(lists), query.clone());
    match shared::one::attempt(service, setting, &round, which, &mut query, record)? {
        None => Ok(None),
        Some(Answer::Found(nearest)) => Ok(Some(nearest.found)),
        Some(Answer::Refused(error)) => Err(error.into()),
    }
}

/// Whether the tier of an index is to be loaded, or loaded again, before a search. `to_come`: seconds that the CPU would take for what
/// is still to be searched, beyond what it has taken.
pub(super) fn wants_loading(
    device: &mut Device,
    setting: EngineSetting,
    pages: &IndexPages,
    index: &Index,
    to_come: f64,
) -> bool {
    let (file, is_open) = (pages.file(), device.is_open());
    let n_bytes = choice::bytes_to_load(index);
    let is_on = options::hot_of(pages) == Hot::On;
    let at_once = setting == EngineSetting::Gpu || is_on;
    if let Some(loaded) = device.tier(file, index) {
        loaded.goes_last = is_on;
    }
    match device.tier(file, index) {
        None if at_once => true,
        None => {
            // What can be mapped need not be loaded.
            let may_map = device.may_map(pages, index);
            let n_bytes = if may_map { 0 } else { n_bytes };
            choice::loading_pays(file, n_bytes, is_open, None, to_come)
        }
        Some(loaded) if !loaded.stale => false,
        Some(loaded) if at_once => loaded.loaded_at.elapsed() > loaded.load_time * RELOAD_FACTOR,
        Some(loaded) => {
            let load_time = Some(loaded.load_time);
            choice::loading_pays(file, n_bytes, is_open, load_time, to_come)
        }
    }
}

/// Loads the tier of an index before a search.
pub(super) fn load_now(
    device: &mut Device,
    pages: &IndexPages,
    index: &Index,
    record: &mut ScanRecord,
) -> std::result::Result<(), Stop> {
    let began = Instant::now();
    let outcome = load_tier(device, pages, index);
    record.load += began.elapsed();
    outcome
}

/// Lists of a round by who has their frozen part.
struct Split {
    /// On the device, current, with what it has of the entries appended to them.
    fresh: Vec<(Probe, ListEntry, AppendedTo)>,
    /// On pages.
    stale: Vec<Probe>,
}

/// Whether the last search, of whose `n_lists` lists `n_stale` were out of date, shows that the tier should be loaded again.
pub(super) fn is_outdated(
    loaded: &LoadedTier,
    n_stale: usize,
    n_lists: usize,
    behind: Behind,
) -> bool {
    n_stale * STALE_SHARE > n_lists || behind.is_much() || misses_often(loaded)
}

/// Whether a tier that has no room for all lists lacks so many of those searched that it is time to choose again.
fn misses_often(loaded: &LoadedTier) -> bool {
    loaded.n_absent * MISS_SHARE > loaded.n_probes
        && loaded.loaded_at.elapsed() > loaded.load_time * REFRESH_FACTOR
}

/// Counts a search of `n_lists` lists, of which `stale` are not on the device as the index has them now, and which has looked at what the others
/// lack.
pub(super) fn note_lists(
    loaded: &mut LoadedTier,
    n_lists: usize,
    stale: impl Iterator<Item = u32>,
    behind: Behind,
) {
    // Lists that did not fit are not out of date.
    let is_absent = |list: u32| !loaded.is_whole && loaded.tier.lists()[list as usize].is_none();
    let (absent, stale): (Vec<u32>, Vec<u32>) = stale.partition(|&list| is_absent(list));
    loaded.n_probes += n_lists as u64;
    loaded.n_absent += absent.len() as u64;
    loaded.stale = is_outdated(loaded, stale.len(), n_lists, behind);
}

/// Counts what the tier looks at to search these lists: by their vectors, unless it has codes alone.
pub(super) fn note_slots(
    loaded: &LoadedTier,
    lists: impl IntoIterator<Item = u32>,
    record: &mut ScanRecord,
) {
    let n_slots = n_slots_of(loaded, lists);
    record.candidates += n_slots;
    if loaded.tier.parts().rows() {
        record.reranked += n_slots;
    }
}

/// What the tier has in these lists.
pub(super) fn n_slots_of(loaded: &LoadedTier, lists: impl IntoIterator<Item = u32>) -> u64 {
    let slots = |list: u32| loaded.tier.lists()[list as usize].map_or(0, |list| list.n_slots);
    lists.into_iter().map(|list| u64::from(slots(list))).sum()
}

fn search_tier(
    loaded: &mut LoadedTier,
    request: &SearchRequest,
    record: &mut ScanRecord,
) -> std::result::Result<Option<Candidates>, Stop> {
    let began = Instant::now();
    let SearchRequest {
        pages,
        index,
        query,
        ..
    } = *request;
    let numbers: Vec<u32> = request.lists.iter().map(|probe| probe.list).collect();
    let entries = read_entries(pages, index, &numbers)?;
    let mut split = Split {
        fresh: Vec::new(),
        stale: Vec::new(),
    };
    for (probe, entry) in request.lists.iter().zip(entries) {
        match loaded.tier.current(probe.list, &entry) {
            Some(here) => split.fresh.push((*probe, entry, here.appended)),
            None => split.stale.push(*probe),
        }
    }
    // What was appended, while the lists are as just read: a fold moves appended entries to where the tier lacks them.
    let mut top = TopK::new(request.k);
    let mut did = SearchStats::default();
    let mut fresh = Vec::with_capacity(split.fresh.len());
    for (probe, entry, appended) in &split.fresh {
        let served = Served {
            list: probe.list,
            entry,
            appended: *appended,
        };
        let visit = if served.may_lack(pages, index) {
            scan_appended(pages, index, query, &served, &mut top, &mut did)?
        } else {
            Visit::Done
        };
        match visit {
            Visit::Done => fresh.push(probe.list),
            Visit::Changed => split.stale.push(*probe),
        }
    }
    record.add(&did);
    let stale = split.stale.iter().map(|probe| probe.list);
    let behind = Behind {
        n_appended: did.candidates,
        n_slots: n_slots_of(loaded, fresh.iter().copied()),
        ..Behind::default()
    };
    note_lists(loaded, request.lists.len(), stale, behind);
    if fresh.is_empty() {
        return Ok(None);
    }

    let gpu_began = Instant::now();
    let bound = query.bound();
    let asked = TierQuery {
        q: query.words(),
        q_norm: bound.q_norm(),
        q_err: bound.q_err(),
        lists: &fresh,
        k: request.k,
    };
    let found = ask(loaded, &[asked], bound.rounding());
    record.gpu += gpu_began.elapsed();
    let found = found?
        .pop()
        .ok_or_else(|| GpuError::Other("no answer to a query".into()))?;
    note_slots(loaded, fresh, record);

    let stale_began = Instant::now();
    scan(request, &split.stale, &mut top, record)?;
    let stale_time = stale_began.elapsed();
    record.cpu += began.elapsed() - (stale_began - gpu_began);
    choice::note_gpu(
        pages.file(),
        request.lists.len(),
        began.elapsed(),
        stale_time,
    );
    Ok(Some(merge(found, top.into_candidates())))
}

/// What the device is to search. An exact search must not skip by chance, so it is never one by codes alone, which refuse `All`.
pub(super) fn lists_for(loaded: &LoadedTier, reach: Reach, exact: bool) -> Lists {
    if exact && !loaded.tier.parts().rows() {
        return Lists::All;
    }
    Lists::Nearest {
        probes: reach.probes,
        spread: reach.spread,
    }
}

/// Searches the tier; `rounding`: the index's.
pub(super) fn ask(
    loaded: &LoadedTier,
    queries: &[TierQuery<'_>],
    rounding: f32,
) -> std::result::Result<Vec<Candidates>, Stop> {
    let timeout = guc::gpu_timeout();
    uninterrupted(|poll| loaded.tier.search(queries, rounding, timeout, poll))
}

/// Calls `search`, which searches a tier and polls for interrupts, once more after each interrupt that does not end the query.
pub(super) fn uninterrupted<T>(
    mut search: impl FnMut(
        &mut dyn FnMut() -> std::result::Result<(), GpuError>,
    ) -> std::result::Result<T, GpuError>,
) -> std::result::Result<T, Stop> {
    for _ in 0..=MAX_RETRIES {
        let found = search(&mut || {
            if pgrx::pg_sys::elog::interrupt_pending() {
                Err(GpuError::Interrupted)
            } else {
                Ok(())
            }
        });
        match found {
            // Nothing of the search is on the stack here: the query may end.
            Err(GpuError::Interrupted) => {
                pgrx::check_for_interrupts!();
            }
            found => return Ok(found?),
        }
    }
    Err(GpuError::Interrupted.into())
}
