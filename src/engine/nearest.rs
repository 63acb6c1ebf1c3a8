//! A round of a search over the lists nearest to the query: the first one, and those that search the same lists for more. If the GPU is
//! to answer, it chooses them in the same call that searches them (`nearest/device.rs`, or `shared/one.rs`).

mod device;
pub(super) mod settle;

use std::time::Instant;

use omen_gpu::GpuError;
use omen_ivf::coarse::{Probe, select_lists};
use omen_ivf::index::{Index, read_entries};
use omen_ivf::probes::Reach;
use omen_ivf::query::Query;
use omen_ivf::topk::Candidates;

use super::answer::Round;
use super::fallback::{Attempt, try_gpu, try_service};
use super::gpu::{load_now, wants_loading};
use super::lists::entries_of;
use super::refresh::Behind;
use super::service_tiers::{Serving, who_serves};
use super::shared::one::{Answer, Which};
use super::stats::{Engine, ScanRecord};
use super::tiers::{Device, Stop};
use super::{SearchRequest, choice, heat, note_round, search, search_cpu, shared};
use crate::error::Result;
use crate::gpu_service::Service;
use crate::guc::EngineSetting;
use crate::storage::IndexPages;
use device::search_tier;

/// A round over the lists nearest to the query.
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

impl<'a> NearestRequest<'a> {
    fn round(&self) -> Round<'a> {
        Round {
            pages: self.pages,
            index: self.index,
            k: self.k,
            exact: self.exact,
        }
    }
}

/// What such a round found, and where.
pub(crate) struct Nearest {
    /// The lists visited.
    pub lists: Vec<Probe>,
    /// Whether these are nearest first and have their distances; else they are numbers alone.
    pub is_ranked: bool,
    /// Live frozen entries of the lists.
    pub n_entries: u64,
    /// What was looked at on pages because a device lacks it, though it keeps such entries.
    pub behind: Behind,
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
    let outcome = match who_serves() {
        Serving::Session => try_gpu(pages, index, record, |device, setting, record| {
            attempt(device, setting, request, query, record)
        })?,
        Serving::Service(service) => {
            try_service(service, pages, index, record, |setting, record| {
                attempt_shared(service, setting, request, query, record)
            })?
        }
    };
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
        behind: Behind::default(),
        found,
    })
}

/// As [`attempt`], by the shared service.
fn attempt_shared(
    service: &Service,
    setting: EngineSetting,
    request: &NearestRequest,
    query: &mut Query,
    record: &mut ScanRecord,
) -> Attempt<Outcome> {
    let (round, which) = (request.round(), Which::Nearest(request.reach));
    let answer = shared::one::attempt(service, setting, &round, which, query, record)?;
    Ok(answer.map(|answer| match answer {
        Answer::Found(nearest) => Outcome::Found(nearest),
        Answer::Refused(_) => Outcome::ListByList,
    }))
}

/// Whether a search list by list may do what the device has refused: those take larger k, and less memory beside the tier.
pub(super) fn takes_lists(error: &GpuError) -> bool {
    matches!(
        error,
        GpuError::Unsupported(_) | GpuError::OutOfMemory { .. }
    )
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
    if !query.is_ordinary() {
        return by_list;
    }
    if wants_loading(device, setting, pages, index, 0.0) {
        // Where not all of the index fits, the lists that are searched get the room.
        index.add_code(query);
        let lists = select_lists(pages, index, query, reach)?;
        heat::note(pages, index, lists.iter().map(|probe| probe.list));
        load_now(device, pages, index, record)?;
    }
    let Some(loaded) = device.tier(pages.file(), index) else {
        return by_list;
    };
    if !loaded.tier.has_centroids() {
        return by_list;
    }
    let n_lists = reach.probes.min(index.n_lists()) as usize;
    if setting == EngineSetting::Auto && !choice::prefers_gpu(pages.file(), index, n_lists) {
        return Ok(None);
    }
    let has_rows = loaded.tier.parts().rows();
    let found = match search_tier(loaded, request, query, record) {
        Err(Stop::Gpu(error)) if has_rows && takes_lists(&error) => return by_list,
        found => found?,
    };
    match found {
        Some(nearest) => {
            device.note_success();
            Ok(Some(Outcome::Found(nearest)))
        }
        None if has_rows => by_list,
        None => Ok(None),
    }
}
