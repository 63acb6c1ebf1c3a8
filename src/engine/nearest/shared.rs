//! A round through the shared service, whose tier is another process's: what `device.rs` does with this session's own.
//!
//! Freshness: the answer says of each list which generations the tier has it with; those of the directory, read after the answer, must be
//! the same. Lists that are not are told to the service, which skips them from then on, and asked for once more.

use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_gpu::params::QueryBound;
use omen_ivf::coarse::Probe;
use omen_ivf::index::read_entries;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::query::Query;
use omen_ivf::topk::TopK;
use omen_service::message::{Answer, ChosenList, Refusal, Request, STALE, StaleList, TierKey};

use super::device::{scan_all_appended, scan_stale, unranked};
use super::{Nearest, NearestRequest, Outcome};
use crate::engine::fallback::Attempt;
use crate::engine::gpu::uninterrupted;
use crate::engine::gpu_batch::device_lists::candidates_from;
use crate::engine::lists::entries_of;
use crate::engine::service_tiers::Lacks;
use crate::engine::stats::ScanRecord;
use crate::engine::tiers::Stop;
use crate::engine::{choice, heat, merge, service_tiers};
use crate::gpu_service::Service;
use crate::gpu_service::loading::Fit;
use crate::gpu_service::session::{self, Answered};
use crate::guc::{self, EngineSetting};

/// So often a search is asked for again because lists were out of date.
const MAX_ASKED: usize = 3;

/// A round's answer by the service. `None`: the CPU is to answer.
pub(super) fn attempt(
    service: &Service,
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
    if !query.is_ordinary() {
        return Ok(None);
    }
    let key = service_tiers::key_of(pages, index);
    let n_lists = reach.probes.min(index.n_lists()) as usize;
    if Answer::bytes(request.k, n_lists) > service.queue.slot_bytes() {
        let what = format!("an answer of {} candidates and {n_lists} lists", request.k);
        return Err(GpuError::Unsupported(what).into());
    }
    if !service.control.has_tier(&key) {
        if !service_tiers::wants_loading(service, setting, pages, index) {
            return Ok(None);
        }
        // An enforced GPU waits for it.
        if setting == EngineSetting::Auto && service_tiers::leaves_loading(service, pages, index)? {
            return Ok(None);
        }
        let began = Instant::now();
        let outcome = service_tiers::load(service, pages, index, &key, Fit::Best, false);
        record.load += began.elapsed();
        outcome?;
    }
    if setting == EngineSetting::Auto {
        let prefers_gpu = if session::few_search(service) {
            choice::prefers_gpu(pages.file(), index, n_lists)
        } else {
            choice::prefers_crowded_gpu(pages.file(), n_lists)
        };
        if !prefers_gpu {
            return Ok(None);
        }
    }
    let began = Instant::now();
    let mut stale = Vec::new();
    for _ in 0..MAX_ASKED {
        let asked = Instant::now();
        let answer = ask(service, &key, request, query, &stale);
        record.gpu += asked.elapsed();
        match complete(request, query, &answer?, record)? {
            Completed::Found {
                nearest,
                stale_time,
                lacks,
            } => {
                let (file, n_lists) = (pages.file(), nearest.lists.len());
                choice::note_gpu(file, n_lists, began.elapsed(), stale_time);
                let lacks = (lacks, n_lists);
                service_tiers::load_again(service, pages, index, &key, lacks, record)?;
                return Ok(Some(Outcome::Found(nearest)));
            }
            Completed::OutOfDate(lists) => stale = lists,
        }
    }
    Err(GpuError::Other("lists change faster than the GPU service can be told".into()).into())
}

fn ask(
    service: &Service,
    key: &TierKey,
    request: &NearestRequest,
    query: &Query,
    stale: &[StaleList],
) -> Result<Answered, Stop> {
    let bound = query.bound();
    let asked = Request {
        key: *key,
        probes: request.reach.probes,
        k: request.k as u32,
        spread: request.reach.spread,
        rounding: bound.rounding(),
        bound: QueryBound::from(bound),
        ..Request::default()
    };
    let timeout = guc::gpu_timeout();
    uninterrupted(
        |_| match session::ask(service, &asked, query.vector(), stale, timeout) {
            Ok(answered) => Ok(answered),
            Err(Refusal::NotLoaded) => Err(GpuError::Other(Refusal::NotLoaded.to_string())),
            Err(Refusal::Down) => Err(GpuError::Lost(Refusal::Down.to_string())),
            Err(Refusal::Gpu(error)) => Err(error),
        },
    )
}

/// What became of an answer.
enum Completed {
    /// It counts.
    Found {
        nearest: Nearest,
        /// What lists took that the device does not have, or has of old; and how many they are.
        stale_time: Duration,
        lacks: Lacks,
    },
    /// These lists have other generations than the tier.
    OutOfDate(Vec<StaleList>),
}

/// Adds to an answer what pages hold beside it.
fn complete(
    request: &NearestRequest,
    query: &mut Query,
    answer: &Answered,
    record: &mut ScanRecord,
) -> Result<Completed, Stop> {
    let NearestRequest {
        pages, index, k, ..
    } = *request;
    let began = Instant::now();
    let lists: Vec<u32> = answer.lists.iter().map(|chosen| chosen.list).collect();
    if lists.iter().any(|&list| list >= index.n_lists()) {
        return Err(GpuError::Other("the service names lists that are not there".into()).into());
    }
    // Not before the device has searched: as in `device.rs`.
    let entries = read_entries(pages, index, &lists)?;
    let out_of_date = out_of_date(&answer.lists, &entries);
    if !out_of_date.is_empty() {
        return Ok(Completed::OutOfDate(out_of_date));
    }
    let both = || answer.lists.iter().zip(&entries);
    let fresh: Vec<(u32, &ListEntry)> = both()
        .filter(|(chosen, _)| is_searched(chosen))
        .map(|(chosen, entry)| (chosen.list, entry))
        .collect();
    let absent: Vec<u32> = both()
        .filter(|(chosen, _)| !is_searched(chosen))
        .map(|(chosen, _)| chosen.list)
        .collect();
    let n_stale = answer.lists.iter().filter(|c| is_stale(c)).count();
    let lacks = Lacks {
        n_stale,
        n_absent: absent.len() - n_stale,
    };
    let mut top = TopK::new(k);
    if !scan_all_appended(request, query, &fresh, &mut top, record)? {
        // A list is being rewritten: its new generations will show.
        return Ok(Completed::OutOfDate(Vec::new()));
    }
    heat::note(pages, index, lists.iter().copied());
    let n_slots: u64 = answer.lists.iter().map(|l| u64::from(l.n_slots)).sum();
    record.candidates += n_slots;
    record.reranked += n_slots;
    let stale_time = scan_stale(request, query, &absent, &mut top, record)?;
    record.cpu += began.elapsed();
    let lists: Vec<Probe> = lists.into_iter().map(unranked).collect();
    let on_device = candidates_from(&answer.found, answer.frontier);
    let nearest = Nearest {
        n_entries: entries_of(&entries),
        lists,
        is_ranked: false,
        found: merge(on_device, top.into_candidates()),
    };
    Ok(Completed::Found {
        nearest,
        stale_time,
        lacks,
    })
}

/// Whether the device has searched a list: those it lacks have no generation.
fn is_searched(chosen: &ChosenList) -> bool {
    chosen.layout_gen != 0
}

fn is_stale(chosen: &ChosenList) -> bool {
    !is_searched(chosen) && chosen.delete_gen == STALE
}

/// The lists that the device has searched but that are not, by their directory entries, as its tier has them.
fn out_of_date(chosen: &[ChosenList], entries: &[ListEntry]) -> Vec<StaleList> {
    let both = chosen.iter().zip(entries);
    both.filter(|(chosen, entry)| {
        let there = (chosen.layout_gen, chosen.delete_gen);
        is_searched(chosen) && there != (entry.layout_gen, entry.delete_gen)
    })
    .map(|(chosen, entry)| StaleList {
        list: chosen.list,
        layout_gen: entry.layout_gen,
        delete_gen: entry.delete_gen,
    })
    .collect()
}
