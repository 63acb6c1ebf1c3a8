//! A round on the GPU: the frozen part of lists whose hot tier is current there, the rest by the CPU.
//!
//! Freshness: a list's tier is valid iff its directory entry, read now, carries the generations read before the tier was
//! loaded. What was appended since is scanned on pages. A list that does not match is scanned on pages entirely.

use std::time::Instant;

use omen_gpu::{GpuError, TierQuery};
use omen_ivf::coarse::Probe;
use omen_ivf::index::read_entries;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::Visit;
use omen_ivf::scan_list::{SearchStats, scan_appended};
use omen_ivf::store::NO_BLOCK;
use omen_ivf::topk::{Candidates, TopK};
use pgrx::PgLogLevel;

use super::stats::{self, ScanRecord};
use super::tiers::{self, Device, LoadedTier, Stop};
use super::{SearchRequest, choice, heat, merge, scan};
use crate::error::{PgError, Result};
use crate::guc::{self, EngineSetting};

/// A tier is out of date when more than one in so many lists of a search are.
const STALE_SHARE: usize = 5;
/// An enforced GPU loads an outdated tier again after so many times the last load's duration.
const RELOAD_FACTOR: u32 = 5;
/// A tier of the hottest lists is made anew when it lacks more than one in so many of those searched, and so many times the last
/// load's duration has passed.
const MISS_SHARE: u64 = 4;
const REFRESH_FACTOR: u32 = 50;
/// Interrupts that do not end the query make the GPU search start again so often.
const MAX_RETRIES: u32 = 2;

/// Answers a round with the GPU's help; `None`: the CPU is to answer alone. Fails only for what ends the query.
///
/// This is the one place where a failure of the GPU turns into work of the CPU.
pub(super) fn search(
    request: &SearchRequest,
    record: &mut ScanRecord,
) -> Result<Option<Candidates>> {
    let setting = guc::engine();
    if setting == EngineSetting::Cpu || request.lists.is_empty() || in_parallel_worker() {
        return Ok(None);
    }
    match tiers::with(|device| attempt(device, setting, request, record)) {
        Ok(found) => Ok(found),
        Err(Stop::Query(error)) => Err(error),
        Err(Stop::Gpu(error)) => {
            tiers::with(|device| device.note_failure(choice::file_of(request), &error));
            fall_back(setting, &error, record);
            Ok(None)
        }
        Err(Stop::Paused(error)) => {
            fall_back(setting, &error, record);
            Ok(None)
        }
    }
}

/// Parallel workers live for one query: too short for a context of their own.
#[allow(unsafe_code)]
fn in_parallel_worker() -> bool {
    // SAFETY: reads a variable that is set when the process starts.
    unsafe { pgrx::pg_sys::ParallelWorkerNumber >= 0 }
}

/// Counts a failure by its reason, and tells of it the first time.
fn fall_back(setting: EngineSetting, error: &GpuError, record: &mut ScanRecord) {
    let absent = matches!(error, GpuError::NoDriver | GpuError::NoDevice);
    if absent && setting == EngineSetting::Auto {
        // A machine without a GPU, and nobody asked for one.
        return;
    }
    let reason = reason_of(error);
    record.fallback = Some(error.to_string());
    if stats::count_fallback(reason) > 0 {
        return;
    }
    let level = match setting {
        EngineSetting::Gpu => PgLogLevel::WARNING,
        _ => PgLogLevel::LOG,
    };
    PgError::new(
        pgrx::PgSqlErrorCode::ERRCODE_WARNING,
        format!("pg_omen searches on the CPU: {error}"),
    )
    .with_hint(
        "Further occurrences in this session are counted, not reported; see omen_gpu_status().",
    )
    .report(level);
}

/// The kind of a failure, as counted.
fn reason_of(error: &GpuError) -> &'static str {
    match error {
        GpuError::NoDriver => "no driver",
        GpuError::NoDevice => "no device",
        GpuError::OutOfMemory { .. } => "out of memory",
        GpuError::NotResident(_) => "not resident",
        GpuError::Busy => "busy",
        GpuError::TimedOut => "timed out",
        GpuError::Interrupted => "interrupted",
        GpuError::Lost(_) => "lost",
        GpuError::Unsupported(_) => "unsupported",
        GpuError::Other(_) => "other",
    }
}

fn attempt(
    device: &mut Device,
    setting: EngineSetting,
    request: &SearchRequest,
    record: &mut ScanRecord,
) -> std::result::Result<Option<Candidates>, Stop> {
    if let Some(why) = device.pause(choice::file_of(request)) {
        return Err(Stop::Paused(why));
    }
    if !request.query.bound().is_plain() {
        // Keys of such a query need the CPU's case by case look.
        return Ok(None);
    }
    heat::note(
        choice::file_of(request),
        request.index.n_lists(),
        request.lists,
    );
    if wants_loading(device, setting, request) {
        let began = Instant::now();
        let outcome = device.load(request.pages, request.index, choice::file_of(request));
        record.load += began.elapsed();
        outcome?;
        choice::note_loaded(request);
    }
    let Some(loaded) = device.tier(choice::file_of(request), request.index) else {
        return Ok(None);
    };
    if setting == EngineSetting::Auto && !choice::prefers_gpu(request) {
        return Ok(None);
    }
    let found = search_tier(loaded, request, record)?;
    if found.is_some() {
        device.note_success();
    }
    Ok(found)
}

/// Whether a tier is to be loaded before this round.
fn wants_loading(device: &mut Device, setting: EngineSetting, request: &SearchRequest) -> bool {
    let is_open = device.is_open();
    let meta = &request.index.meta;
    let n_bytes = meta.built_rows * (2 * u64::from(meta.dim) + 16);
    match device.tier(choice::file_of(request), request.index) {
        None if setting == EngineSetting::Gpu => true,
        None => choice::loading_pays(request, n_bytes, is_open, None),
        Some(loaded) if !loaded.stale => false,
        Some(loaded) if setting == EngineSetting::Gpu => {
            loaded.loaded_at.elapsed() > loaded.load_time * RELOAD_FACTOR
        }
        Some(loaded) => {
            let load_time = Some(loaded.load_time);
            choice::loading_pays(request, n_bytes, is_open, load_time)
        }
    }
}

/// Lists of a round by who has their frozen part.
struct Split {
    /// On the device, current.
    fresh: Vec<(Probe, ListEntry)>,
    /// On pages.
    stale: Vec<Probe>,
}

/// Whether a tier that has no room for all lists lacks so many of those searched that it is time to choose again.
fn misses_often(loaded: &LoadedTier) -> bool {
    loaded.n_absent * MISS_SHARE > loaded.n_probes
        && loaded.loaded_at.elapsed() > loaded.load_time * REFRESH_FACTOR
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
        if loaded
            .tier
            .is_current(probe.list, entry.layout_gen, entry.delete_gen)
        {
            split.fresh.push((*probe, entry));
        } else {
            split.stale.push(*probe);
        }
    }
    // What was appended, while the lists are as just read: a fold moves appended entries to where the tier lacks them.
    let mut top = TopK::new(request.k);
    let mut did = SearchStats::default();
    let mut fresh = Vec::with_capacity(split.fresh.len());
    for (probe, entry) in &split.fresh {
        let visit = if entry.append_head == NO_BLOCK {
            Visit::Done
        } else {
            scan_appended(pages, index, query, probe, entry, &mut top, &mut did)?
        };
        match visit {
            Visit::Done => fresh.push(probe.list),
            Visit::Changed => split.stale.push(*probe),
        }
    }
    record.add(&did);
    // Lists that did not fit are not out of date.
    let absent = |probe: &&Probe| loaded.tier.lists()[probe.list as usize].is_none();
    let by_design = if loaded.is_whole {
        0
    } else {
        split.stale.iter().filter(absent).count()
    };
    loaded.n_probes += request.lists.len() as u64;
    loaded.n_absent += by_design as u64;
    loaded.stale =
        (split.stale.len() - by_design) * STALE_SHARE > request.lists.len() || misses_often(loaded);
    if fresh.is_empty() {
        return Ok(None);
    }

    let gpu_began = Instant::now();
    let found = ask(loaded, request, &fresh);
    record.gpu += gpu_began.elapsed();
    let found = found?;
    let n_slots: u64 = fresh
        .iter()
        .filter_map(|&list| loaded.tier.lists()[list as usize])
        .map(|list| u64::from(list.n_slots))
        .sum();
    record.candidates += n_slots;
    record.reranked += n_slots;

    let stale_began = Instant::now();
    scan(request, &split.stale, &mut top, record)?;
    let stale_time = stale_began.elapsed();
    record.cpu += began.elapsed() - (stale_began - gpu_began);
    choice::note_gpu(request, began.elapsed(), stale_time);
    Ok(Some(merge(found, top.into_candidates())))
}

/// Searches the tier for one query.
fn ask(
    loaded: &LoadedTier,
    request: &SearchRequest,
    lists: &[u32],
) -> std::result::Result<Candidates, Stop> {
    let bound = request.query.bound();
    let query = TierQuery {
        q: request.query.vector(),
        q_norm: bound.q_norm(),
        q_err: bound.q_err(),
        lists,
        k: request.k,
    };
    for _ in 0..=MAX_RETRIES {
        let found = loaded
            .tier
            .search(&[query], bound.rounding(), guc::gpu_timeout(), &mut || {
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
            Err(error) => return Err(error.into()),
            Ok(mut found) => {
                return found
                    .pop()
                    .ok_or_else(|| GpuError::Other("no answer to a query".into()).into());
            }
        }
    }
    Err(GpuError::Interrupted.into())
}
