//! The tier of an index that is being built: it is filled while the index is written, and then finds the neighbours that the calibration asks for. What
//! has been written is not read again.

use std::time::{Duration, Instant};

use omen_gpu::assign::Failure;
use omen_gpu::memory::{Parts, TierPlan, with_room};
use omen_gpu::{Copiers, GpuError, TierBuilder, TierSpec, WrittenLists};
use omen_ivf::calibrate::Nearest;
use omen_ivf::index::Index;
use omen_ivf::probes::Reach;
use omen_ivf::topk::Candidates;
use omen_ivf::write_index::{IndexSpec, Piece};

use super::batch::BatchRequest;
use super::gpu_batch;
use super::load::is_ample;
use super::tiers::{self, Device, LoadedTier, Stop};
use crate::error::Result;
use crate::storage::IndexPages;

/// Queries of the calibration that the device is asked at a time: each time has its time limit, which is made for searches.
const QUERIES_AT_A_TIME: usize = 128;
/// A build does not spend more on filling it than these seconds and half of what writing takes: the device is busy with others then.
const MOST_SECONDS: f64 = 5.0;
const MOST_SHARE: f64 = 0.5;

/// The tier, unless the CPU is to calibrate.
pub(crate) struct BuildTier {
    lists: Option<WrittenLists>,
    failure: Failure,
    began: Instant,
    /// Spent on filling it.
    took: Duration,
}

impl BuildTier {
    /// None: the CPU calibrates.
    pub(crate) fn none() -> Self {
        Self {
            lists: None,
            failure: Failure::default(),
            began: Instant::now(),
            took: Duration::ZERO,
        }
    }

    /// Of an index whose lists have so many entries each, on the session's GPU if that is open and has ample room. It notes in `failure` what ends it.
    pub(crate) fn begin(spec: &IndexSpec, sizes: &[u32], failure: &Failure) -> Self {
        let mut tier = Self {
            failure: failure.clone(),
            ..Self::none()
        };
        match tiers::with(|device| begin(device, spec, sizes)) {
            Ok(lists) => tier.lists = lists,
            Err(error) => tier.note(error),
        }
        tier.took = tier.began.elapsed();
        tier
    }

    /// Takes what is written.
    pub(crate) fn put(&mut self, piece: &Piece) {
        let Some(lists) = &mut self.lists else {
            return;
        };
        let began = Instant::now();
        let put = lists.put(piece);
        #[cfg(feature = "simulated-gpu")]
        let put = put.and_then(|()| inject(piece));
        self.took += began.elapsed();
        let most = MOST_SECONDS + MOST_SHARE * self.began.elapsed().as_secs_f64();
        match put {
            Ok(()) if self.took.as_secs_f64() <= most => {}
            Ok(()) => self.lists = None,
            Err(error) => {
                self.lists = None;
                self.note(error);
            }
        }
    }

    /// For each of `vectors`, which the index at `pages` holds, its `k` nearest entries, nearest first, each with its list. The tier stays for the
    /// session's searches. `None`: the CPU is to find them, also for the reason that `failure` has then.
    ///
    /// Errors: a damaged index.
    pub(crate) fn neighbours(
        mut self,
        pages: &IndexPages,
        index: &Index,
        vectors: &[&[f32]],
        k: usize,
    ) -> Result<Option<Nearest>> {
        let Some(lists) = self.lists.take() else {
            return Ok(None);
        };
        let found = tiers::with(|device| {
            let (began, file) = (Instant::now(), pages.file());
            let tier = lists.finish(pages, index)?.finish()?;
            let took = self.took + began.elapsed();
            let loaded = LoadedTier::new(tier, took, pages.relation(), index);
            device.tiers.insert(file, loaded);
            device.note_loaded(file);
            match device.tier(file, index) {
                Some(loaded) => nearest_of(loaded, pages, index, vectors, k),
                None => Ok(None),
            }
        });
        match found {
            Ok(found) => Ok(found),
            Err(Stop::Query(error)) => Err(error),
            Err(Stop::Gpu(error) | Stop::Paused(error)) => {
                self.note(error);
                Ok(None)
            }
        }
    }

    /// The CPU calibrates, because of this.
    fn note(&self, error: GpuError) {
        match error {
            // The device is well, but does not take it.
            GpuError::Unsupported(_) | GpuError::OutOfMemory { .. } | GpuError::Interrupted => {}
            error => self.failure.note(error),
        }
    }
}

/// A device that fails when `omen.inject_fault` says so.
#[cfg(feature = "simulated-gpu")]
fn inject(piece: &Piece) -> std::result::Result<(), GpuError> {
    use crate::guc::{Fault, inject_fault};
    if inject_fault() == Fault::LostInWriting && piece.list > 0 {
        return Err(GpuError::Lost("injected".into()));
    }
    Ok(())
}

/// `None`: a tier that has not all rows would not do, nor is it worth another's place.
fn begin(
    device: &mut Device,
    spec: &IndexSpec,
    sizes: &[u32],
) -> std::result::Result<Option<WrittenLists>, GpuError> {
    let Some(gpu) = device
        .gpu
        .clone()
        .filter(|_| spec.form().cpu_only().is_none())
    else {
        return Ok(None);
    };
    device.drop_orphans();
    let room = device.limit(&gpu)?.saturating_sub(device.tier_bytes());
    let (tier_spec, parts) = (TierSpec::of_new(spec), Parts::of(spec.filter));
    let n_slots = with_room(sizes.iter().map(|&n| u64::from(n)).sum(), tier_spec.n_lists);
    let plan = TierPlan::new(&tier_spec, parts, n_slots)?;
    if !is_ample(plan.bytes_needed(), room) {
        return Ok(None);
    }
    // The thread that writes copies, so that pieces may go when they are written.
    let mut builder =
        TierBuilder::with_parts(&gpu, tier_spec, parts, n_slots, room, Copiers::none())?;
    builder.align_lists();
    Ok(WrittenLists::new(builder, spec, sizes))
}

fn nearest_of(
    loaded: &LoadedTier,
    pages: &IndexPages,
    index: &Index,
    vectors: &[&[f32]],
    k: usize,
) -> std::result::Result<Option<Nearest>, Stop> {
    let mut found = Vec::with_capacity(vectors.len());
    for vectors in vectors.chunks(QUERIES_AT_A_TIME) {
        let request = BatchRequest {
            pages,
            index,
            vectors,
            reach: Reach::from(index.n_lists()),
            k,
            exact: true,
        };
        let Some(answers) = gpu_batch::answer_unnoted(loaded, &request)? else {
            return Ok(None);
        };
        found.extend(answers);
    }
    let tids = || found.iter().flat_map(|found| &found.items).map(|c| c.tid);
    let lists = loaded.tier.lists_of(&tids().collect())?;
    let named = |found: &Candidates| {
        let named = found
            .items
            .iter()
            .map(|c| Some((c.tid, *lists.get(&c.tid)?)));
        // What was inserted meanwhile is in no list of the tier.
        named.flatten().collect()
    };
    Ok(Some(found.iter().map(named).collect()))
}
