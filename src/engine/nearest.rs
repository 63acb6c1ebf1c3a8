//! The first round of a search: over the lists nearest to the query. If the GPU is to answer, it chooses them in the same call that
//! searches them.
//!
//! Freshness: the tier holds of a list what its pages hold for as long as the directory entry carries the generations of loading, which
//! never come back once raised. So the entry may be read after the device has searched: if it still carries them, the device's answer is
//! that of the pages as of this entry, and what was appended is scanned as of the same entry. If only then a list turns out to be out of
//! date, or is rewritten while its appended entries are scanned, the answer is not used: the search goes list by list (`gpu.rs`), and
//! from then on the device skips the list, which is searched on pages.

use std::time::{Duration, Instant};

use omen_gpu::params::QueryBound;
use omen_gpu::{Batch, BatchFound, GpuError, Lists, Source};
use omen_ivf::coarse::{Probe, probes_of, select_lists};
use omen_ivf::index::{Index, read_entries};
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::Visit;
use omen_ivf::probes::Reach;
use omen_ivf::query::Query;
use omen_ivf::scan_list::{SearchStats, scan_appended};
use omen_ivf::store::NO_BLOCK;
use omen_ivf::topk::{Candidates, TopK};

use super::fallback::{Attempt, try_gpu};
use super::gpu::{note_lists, note_slots, uninterrupted, wants_loading};
use super::gpu_batch::device_lists::candidates_of;
use super::lists::entries_of;
use super::stats::{Engine, ScanRecord};
use super::tiers::{Device, LoadedTier, Stop};
use super::{SearchRequest, choice, heat, merge, note_round, scan, search, search_cpu};
use crate::error::Result;
use crate::guc::{self, EngineSetting};
use crate::storage::IndexPages;

/// The first round of a search.
#[derive(Clone, Copy)]
pub(crate) struct NearestRequest<'a> {
    /// The index's pages.
    pub pages: &'a IndexPages,
    /// The index.
    pub index: &'a Index,
    /// Which lists to visit.
    pub reach: Reach,
    /// How many candidates are wanted.
    pub k: usize,
    /// Whether only hard bounds may rule entries out.
    pub exact: bool,
}

/// What a first round found, and where.
pub(crate) struct Nearest {
    /// The lists visited.
    pub lists: Vec<Probe>,
    /// Whether these are nearest first and have their distances; else they are numbers alone.
    pub is_ranked: bool,
    /// Live frozen entries of the lists.
    pub n_entries: u64,
    /// The nearest of their entries.
    pub found: Candidates,
}

/// How an attempt on the GPU ends that did not fail.
enum Outcome {
    Found(Nearest),
    /// The lists are to be chosen here, and searched by whoever is to.
    ListByList,
}

/// The `k` nearest entries of the lists nearest to `query`, which need not have a code and may get one. Fails as [`search`].
pub(crate) fn search_nearest(
    request: &NearestRequest,
    query: &mut Query,
    record: &mut ScanRecord,
) -> Result<Nearest> {
    let NearestRequest {
        pages,
        index,
        reach,
        k,
        exact,
    } = *request;
    let outcome = try_gpu(pages, record, |device, setting, record| {
        attempt(device, setting, request, query, record)
    })?;
    let is_for_cpu = outcome.is_none();
    if let Some(Outcome::Found(nearest)) = outcome {
        record.engine = Engine::Gpu;
        note_round(k, record);
        return Ok(nearest);
    }
    let began = Instant::now();
    index.add_code(query);
    let lists = select_lists(pages, index, query, reach)?;
    record.select += began.elapsed();
    let by_list = SearchRequest {
        pages,
        index,
        query,
        lists: &lists,
        k,
        exact,
    };
    let found = if is_for_cpu {
        heat::note(pages, index, lists.iter().map(|probe| probe.list));
        let found = search_cpu(&by_list, record)?;
        note_round(k, record);
        found
    } else {
        search(&by_list, record)?
    };
    let numbers: Vec<u32> = lists.iter().map(|probe| probe.list).collect();
    let entries = read_entries(pages, index, &numbers)?;
    Ok(Nearest {
        n_entries: entries_of(&entries),
        lists,
        is_ranked: true,
        found,
    })
}

/// `None`: the CPU is to answer alone.
fn attempt(
    device: &mut Device,
    setting: EngineSetting,
    request: &NearestRequest,
    query: &mut Query,
    record: &mut ScanRecord,
) -> Attempt<Outcome> {
    let NearestRequest {
        pages,
        index,
        reach,
        ..
    } = *request;
    let by_list = Ok(Some(Outcome::ListByList));
    if !query.is_ordinary() || wants_loading(device, setting, pages, index, 0.0) {
        return by_list;
    }
    let Some(loaded) = device.tier(pages.file(), index) else {
        return by_list;
    };
    if !loaded.tier.has_centroids() {
        return by_list;
    }
    let n_lists = reach.probes.min(index.n_lists()) as usize;
    if setting == EngineSetting::Auto && !choice::prefers_gpu(pages.file(), n_lists) {
        return Ok(None);
    }
    let found = match search_tier(loaded, request, query, record) {
        // Searches list by list take larger k, and less memory beside the tier.
        Err(Stop::Gpu(GpuError::Unsupported(_) | GpuError::OutOfMemory { .. })) => return by_list,
        found => found?,
    };
    match found {
        Some(nearest) => {
            device.note_success();
            Ok(Some(Outcome::Found(nearest)))
        }
        None => by_list,
    }
}

/// `None`: the device's answer is not that of the index as it is.
fn search_tier(
    loaded: &mut LoadedTier,
    request: &NearestRequest,
    query: &mut Query,
    record: &mut ScanRecord,
) -> std::result::Result<Option<Nearest>, Stop> {
    let NearestRequest {
        pages, index, k, ..
    } = *request;
    let began = Instant::now();
    let answer = ask(loaded, request, query);
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
    if split.fresh.is_empty() {
        return Ok(None);
    }
    let mut top = TopK::new(k);
    if !scan_all_appended(request, query, &split.fresh, &mut top, record)? {
        return Ok(None);
    }
    heat::note(pages, index, lists.iter().copied());
    note_lists(loaded, lists.len(), split.stale.iter().copied());
    note_slots(loaded, split.fresh.iter().map(|(list, _)| *list), record);
    let stale_time = scan_stale(request, query, &split.stale, &mut top, record)?;
    record.cpu += began.elapsed() - device_time;
    choice::note_gpu(pages.file(), lists.len(), began.elapsed(), stale_time);
    Ok(Some(Nearest {
        n_entries: entries_of(&entries),
        lists: lists.into_iter().map(unranked).collect(),
        is_ranked: false,
        found: merge(candidates_of(&answer, 0), top.into_candidates()),
    }))
}

fn unranked(list: u32) -> Probe {
    Probe {
        list,
        l2sq: 0.0,
        ip: 0.0,
    }
}

/// Asks the device for the nearest of its entries in the lists that it chooses, those known to be out of date excepted.
fn ask(
    loaded: &LoadedTier,
    request: &NearestRequest,
    query: &Query,
) -> std::result::Result<BatchFound, Stop> {
    let Reach { probes, spread } = request.reach;
    let lists = Lists::Nearest { probes, spread };
    let bound = query.bound();
    uninterrupted(|poll| {
        let mut batch = Batch {
            n_queries: 1,
            source: Source::Fill(&mut |_, to, bounds| {
                to.copy_from_slice(query.vector());
                bounds.fill(QueryBound {
                    q_norm: bound.q_norm(),
                    q_err: bound.q_err(),
                });
            }),
            lists,
            skipped: &loaded.known_stale,
            k: request.k,
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

/// Scans what was appended to `lists`. `false`: one of them was rewritten, and has it where the device lacks it.
fn scan_all_appended(
    request: &NearestRequest,
    query: &Query,
    lists: &[(u32, &ListEntry)],
    top: &mut TopK,
    record: &mut ScanRecord,
) -> std::result::Result<bool, Stop> {
    let (pages, index) = (request.pages, request.index);
    let mut did = SearchStats::default();
    for &(list, entry) in lists {
        if entry.append_head == NO_BLOCK {
            continue;
        }
        // Appended entries have no codes, and their keys need no centroid.
        let probe = unranked(list);
        match scan_appended(pages, index, query, &probe, entry, top, &mut did)? {
            Visit::Done => {}
            Visit::Changed => return Ok(false),
        }
    }
    record.add(&did);
    Ok(true)
}

/// Scans `lists` on pages; how long that took.
fn scan_stale(
    request: &NearestRequest,
    query: &mut Query,
    lists: &[u32],
    top: &mut TopK,
    record: &mut ScanRecord,
) -> std::result::Result<Duration, Stop> {
    if lists.is_empty() {
        return Ok(Duration::ZERO);
    }
    let NearestRequest {
        pages,
        index,
        k,
        exact,
        ..
    } = *request;
    let began = Instant::now();
    index.add_code(query);
    let lists = &probes_of(pages, index, query, lists)?;
    let on_pages = SearchRequest {
        pages,
        index,
        query,
        lists,
        k,
        exact,
    };
    scan(&on_pages, lists, top, record)?;
    Ok(began.elapsed())
}
