//! A round of many queries on the GPU, this session's own unless the shared service answers (`engine/shared`). The device chooses the lists of all queries and searches them in one call (`device_lists.rs`);
//! what it does not take (a k or a number of lists too large, no memory for it) is asked for list by list (`host_lists.rs`).
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | whether the GPU is to answer, and what is learnt from it |
//! | `device_lists.rs` | the device chooses lists; what it has of old is searched on pages |
//! | `host_lists.rs` | the CPU chooses lists |
//! | `prepare.rs` | writes queries where the device reads them |

pub(super) mod device_lists;
mod host_lists;
pub(super) mod prepare;

use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_ivf::topk::Candidates;

use super::batch::{BatchRequest, note_sample};
use super::fallback::{try_gpu, try_service};
use super::gpu::{is_outdated, load_now, wants_loading};
use super::nearest::settle::is_open;
use super::refresh::Behind;
use super::service_tiers::{Serving, who_serves};
use super::stats::{Engine, ScanRecord};
use super::tiers::{LoadedTier, Stop};
use super::{choice, shared};
use crate::error::Result;
use crate::guc::EngineSetting;

/// Of a tier of codes alone queries are asked at a time that want so many results together, each at least so many: what comes back for
/// them, some 130 bytes a result, is page-locked.
const MAX_NAMED: usize = 1 << 17;
const MIN_NAMED: usize = 64;

/// What a batch found, and what it cost.
struct Answers {
    /// Of each query.
    found: Vec<Candidates>,
    /// Pairs of query and list.
    pairs: Pairs,
    /// What was looked at on pages because the tier lacks it.
    behind: Behind,
    /// Queries that the tier was asked for some of their lists.
    n_asked: usize,
    /// Time for lists that are out of date in the tier.
    stale_time: Duration,
}

/// Pairs of query and list.
#[derive(Default, Clone, Copy)]
struct Pairs {
    /// All.
    all: usize,
    /// Not on the device as the index has them now.
    stale: usize,
    /// Those of them whose list the tier has no room for.
    absent: usize,
}

impl Pairs {
    /// Counts the lists of a query, of which `stale` are not on the device as the index has them now.
    fn add(&mut self, loaded: &LoadedTier, n_lists: usize, stale: impl Iterator<Item = u32>) {
        self.all += n_lists;
        for list in stale {
            self.stale += 1;
            let is_absent = !loaded.is_whole && loaded.tier.lists()[list as usize].is_none();
            self.absent += usize::from(is_absent);
        }
    }
}

/// Of `n` queries for `k` results each those that are asked for at a time, the first.
pub(super) fn n_together(codes_alone: bool, n: usize, k: usize) -> usize {
    if codes_alone {
        n.min((MAX_NAMED / k.max(MIN_NAMED)).max(1))
    } else {
        n
    }
}

/// Counts what a batch took on the device. What codes alone did not settle costs as much again as the CPU would take for it.
pub(super) fn note_batch(
    request: &BatchRequest,
    codes_alone: bool,
    found: &[Candidates],
    n_pairs: usize,
    (elapsed, stale_time): (Duration, Duration),
) {
    let file = request.pages.file();
    let n_lists = request.reach.probes.min(request.index.n_lists()) as usize;
    let n_open = if codes_alone {
        found.iter().filter(|c| is_open(c, request.k)).count()
    } else {
        0
    };
    let to_come = Duration::from_secs_f64(choice::cpu_seconds(file, n_open, n_lists));
    choice::note_gpu_batch(file, n_pairs, elapsed + to_come, stale_time);
}

/// Answers a batch by a tier that has all rows, for nobody's figures. `None`: it is not as the index is.
pub(super) fn answer_unnoted(
    loaded: &LoadedTier,
    request: &BatchRequest,
) -> std::result::Result<Option<Vec<Candidates>>, Stop> {
    let answers = device_lists::answer(loaded, request, &mut ScanRecord::default())?;
    Ok(answers.map(|answers| answers.found))
}

/// Answers the first queries of a round, often all, with the GPU's help, and notes who did; `None`: the CPU is to answer. Fails only
/// for what ends the query.
pub(super) fn search(
    request: &BatchRequest,
    record: &mut ScanRecord,
) -> Result<Option<Vec<Candidates>>> {
    let BatchRequest { pages, index, .. } = *request;
    if let Serving::Service(service) = who_serves() {
        return try_service(service, pages, index, record, |setting, record| {
            shared::many::attempt(service, setting, request, record)
        });
    }
    try_gpu(pages, index, record, |device, setting, record| {
        let (file, n_queries) = (request.pages.file(), request.vectors.len());
        let n_lists = request.reach.probes.min(request.index.n_lists()) as usize;
        let to_come = choice::cpu_seconds(file, n_queries, n_lists);
        if wants_loading(device, setting, pages, index, to_come) {
            if device.tier(file, index).is_none() {
                note_sample(request)?;
            }
            load_now(device, pages, index, record)?;
        }
        let Some(loaded) = device.tier(file, index) else {
            return Ok(None);
        };
        let has_rows = loaded.tier.parts().rows();
        let n_queries = n_together(!has_rows, n_queries, request.k);
        let request = &BatchRequest {
            vectors: &request.vectors[..n_queries],
            ..*request
        };
        let auto = setting == EngineSetting::Auto;
        if auto && !choice::prefers_gpu_for_batch(file, index, n_queries, n_lists) {
            return Ok(None);
        }
        let began = Instant::now();
        let answers = match device_lists::answer(loaded, request, record) {
            // Single searches take less memory beside the tier.
            Err(Stop::Gpu(GpuError::Unsupported(_) | GpuError::OutOfMemory { .. })) if has_rows => {
                Some(host_lists::answer(loaded, request, record)?)
            }
            answers => answers?,
        };
        let Some(answers) = answers else {
            loaded.stale = true;
            return Ok(None);
        };
        let Answers {
            found,
            pairs,
            behind,
            n_asked,
            stale_time,
        } = answers;
        loaded.n_probes += pairs.all as u64;
        loaded.n_absent += pairs.absent as u64;
        loaded.stale = is_outdated(loaded, pairs.stale - pairs.absent, pairs.all, behind);
        record.engine = if n_asked > 0 {
            let took = (began.elapsed(), stale_time);
            note_batch(request, !has_rows, &found, pairs.all, took);
            device.note_success();
            Engine::Gpu
        } else {
            // Nothing of what was searched is as the tier has it.
            Engine::Cpu
        };
        Ok(Some(found))
    })
}
