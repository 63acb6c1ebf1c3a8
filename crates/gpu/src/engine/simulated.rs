//! A device in host memory whose kernels are the CPU twins: for tests on machines without a GPU. Everything above the
//! launches (staging, plans, rounds, overflow, results) is the real device's code.

#[path = "simulated_batch.rs"]
mod batch;
#[path = "simulated_memory.rs"]
mod memory;

use super::batch::HostParts;
use super::{BatchOut, Engine, LoadShape, Scales, TierWriter, Unpack};
use crate::batch::Input;
use crate::batch::plan::BatchPlan;
use crate::context::{Scans, Wait};
use crate::error::GpuError;
use crate::export::MemoryHandle;
use crate::memory::{N_FACTORS, ScratchPlan, TierPlan};
use crate::params::{Found, ListSlots, QueryBound, QueryConsts, ScanItem, ScanMode, UnpackItem};
use crate::plan::Rounds;
use crate::tier_image::{array, tier_arrays};
use crate::twin::TierArrays;
use crate::twin::rerank::rerank_one;
use crate::twin::scan::{ScanArrays, scan_item};
use crate::twin::select::select_smallest;
use crate::twin::unpack::{UnpackArrays, unpack_groups, unpack_rows};
use bytemuck::{AnyBitPattern, NoUninit, cast_slice, cast_slice_mut};
use half::f16;
use memory::SimulatedMemory;
use omen_ivf::Metric;
use omen_ivf::rotation::Rotation;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Memory the simulated device claims to have.
pub const MEMORY_BYTES: u64 = 16 << 30;

/// Memory is in words, so that arrays in it are aligned.
fn n_words(bytes: usize) -> usize {
    bytes.div_ceil(8)
}

fn words(bytes: usize) -> Vec<u64> {
    vec![0; n_words(bytes)]
}

/// Bytes that engines of one simulated device hold for tiers.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<AtomicU64>);

impl Held {
    /// Bytes held now.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A tier's memory. Shared by engines, of which one searches while another writes.
struct TierMemory {
    memory: RwLock<SimulatedMemory>,
    /// Bytes that count as held; none of another process's memory.
    bytes: u64,
    held: Held,
}

impl TierMemory {
    fn new(bytes: u64, held: Held) -> Result<Self, GpuError> {
        let memory = RwLock::new(SimulatedMemory::new(n_words(bytes as usize))?);
        held.0.fetch_add(bytes, Ordering::Relaxed);
        Ok(Self {
            memory,
            bytes,
            held,
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, SimulatedMemory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, SimulatedMemory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TierMemory {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A tier's memory while it is read.
pub(super) struct Reading<'a> {
    memory: RwLockReadGuard<'a, SimulatedMemory>,
    plan: &'a TierPlan,
    metric: Metric,
}

impl Reading<'_> {
    fn bytes(&self) -> &[u8] {
        cast_slice(self.memory.words())
    }

    /// The arrays of entries.
    pub(super) fn arrays(&self) -> TierArrays<'_> {
        tier_arrays(self.bytes(), self.plan, self.metric)
    }

    /// The centroids, `[n_lists, centroid_pitch]`, and their squared norms, `[n_lists]`.
    pub(super) fn centroids(&self) -> (&[f16], &[f32]) {
        let (memory, plan) = (self.bytes(), self.plan);
        (
            array(memory, plan.centroids, plan.n_lists * plan.centroid_pitch),
            array(memory, plan.centroid_norms, plan.n_lists),
        )
    }
}

/// The engine of the simulated device.
pub struct SimulatedEngine {
    plan: TierPlan,
    metric: Metric,
    tier: Arc<TierMemory>,
    load_shape: LoadShape,
    stages: Vec<Vec<u64>>,
    scratch: Vec<u64>,
    pub(super) slots: Vec<ListSlots>,
    pub(super) rotation: Option<Rotation>,
    /// Page-locked memory of a batch.
    pub(super) host: Vec<u64>,
    /// What a batch's scratch held where it was asked for: by offset.
    pub(super) fetched: Vec<(usize, Vec<u8>)>,
}

impl SimulatedEngine {
    /// An engine with memory for a tier, counted in `held`.
    pub(crate) fn new(plan: TierPlan, metric: Metric, held: Held) -> Result<Self, GpuError> {
        let tier = Arc::new(TierMemory::new(plan.bytes as u64, held)?);
        Ok(Self::over(plan, metric, tier))
    }

    /// An engine over the memory of another process's tier.
    pub(crate) fn map(
        handle: &MemoryHandle,
        plan: &TierPlan,
        metric: Metric,
    ) -> Result<Self, GpuError> {
        let tier = TierMemory {
            memory: RwLock::new(SimulatedMemory::map(handle, n_words(plan.bytes))?),
            bytes: 0,
            held: Held::default(),
        };
        Ok(Self::over(plan.clone(), metric, Arc::new(tier)))
    }

    fn over(plan: TierPlan, metric: Metric, tier: Arc<TierMemory>) -> Self {
        Self {
            tier,
            plan,
            metric,
            load_shape: LoadShape::DEFAULT,
            stages: Vec::new(),
            scratch: Vec::new(),
            slots: Vec::new(),
            rotation: None,
            host: Vec::new(),
            fetched: Vec::new(),
        }
    }

    /// The tier's memory, to which nobody writes meanwhile.
    pub(super) fn read(&self) -> Reading<'_> {
        Reading {
            memory: self.tier.read(),
            plan: &self.plan,
            metric: self.metric,
        }
    }
}

/// The arrays of a tier that are unpacked into, in its memory.
fn unpack_arrays<'a>(memory: &'a mut [u8], plan: &TierPlan, metric: Metric) -> UnpackArrays<'a> {
    let n = plan.n_slots;
    let with_rows = if plan.parts.rows() { n } else { 0 };
    let with_codes = if plan.parts.codes() { n } else { 0 };
    let [rows, norm_sq, err, tids, codes, factors] = split(
        memory,
        [
            (plan.rows, with_rows * plan.pitch * 2),
            (plan.norm_sq, with_rows * 4),
            (plan.err, n * 4),
            (plan.tids, with_rows * 8),
            (plan.codes, with_codes * plan.code_pitch * 4),
            (plan.factors, with_codes * N_FACTORS * 4),
        ],
    );
    UnpackArrays {
        rows: array_mut(rows),
        norm_sq: array_mut(norm_sq),
        err: array_mut(err),
        tids: array_mut(tids),
        codes: array_mut(codes),
        factors: array_mut(factors),
        pitch: plan.pitch,
        code_pitch: plan.code_pitch,
        metric,
    }
}

/// The arrays of a batch, apart from each other. `parts`: (offset, bytes), ascending.
fn split<const N: usize>(mut memory: &mut [u8], parts: [(usize, usize); N]) -> [&mut [u8]; N] {
    let mut at = 0;
    parts.map(|(offset, bytes)| {
        let rest = std::mem::take(&mut memory);
        let (part, rest) = rest[offset - at..].split_at_mut(bytes);
        (memory, at) = (rest, offset + bytes);
        part
    })
}

fn array_mut<T: NoUninit + AnyBitPattern>(part: &mut [u8]) -> &mut [T] {
    cast_slice_mut(part)
}

impl TierWriter for SimulatedEngine {
    fn set_load_shape(&mut self, shape: LoadShape) -> LoadShape {
        self.load_shape = shape;
        shape
    }

    fn make_stage(&mut self, which: usize) -> Result<(), GpuError> {
        while self.stages.len() <= which {
            self.stages.push(words(self.load_shape.area_bytes));
        }
        Ok(())
    }

    fn stage(&mut self, which: usize, _wait: &mut Wait<'_>) -> Result<&mut [u8], GpuError> {
        self.make_stage(which)?;
        self.stage_open(which)
    }

    fn stage_open(&mut self, which: usize) -> Result<&mut [u8], GpuError> {
        Ok(cast_slice_mut(&mut self.stages[which]))
    }

    fn write_tier(&mut self, which: usize, range: Range<usize>, at: usize) -> Result<(), GpuError> {
        let source: &[u8] = cast_slice(&self.stages[which]);
        let mut memory = self.tier.write();
        let target: &mut [u8] = cast_slice_mut(memory.words_mut());
        target[at..at + range.len()].copy_from_slice(&source[range]);
        Ok(())
    }

    fn unpack(&mut self, which: usize, work: &Unpack) -> Result<(), GpuError> {
        let area: &[u8] = &cast_slice(&self.stages[which])[..work.used];
        let items: &[UnpackItem] = cast_slice(&area[work.items_at..]);
        let mut memory = self.tier.write();
        let mut tier = unpack_arrays(cast_slice_mut(memory.words_mut()), &self.plan, self.metric);
        let shape = &work.shape;
        for item in &items[work.groups.first..][..work.groups.n] {
            unpack_groups(&mut tier, area, item, shape.group_bytes, shape.code_words);
        }
        for item in &items[work.rows.first..][..work.rows.n] {
            unpack_rows(&mut tier, area, item, shape.dim);
        }
        Ok(())
    }

    fn end_writes(&mut self, _wait: &mut Wait<'_>) -> Result<(), GpuError> {
        self.stages = Vec::new();
        Ok(())
    }

    fn set_rotation(&mut self, rotation: &Rotation, _wait: &mut Wait<'_>) -> Result<(), GpuError> {
        self.rotation = self.plan.parts.codes().then(|| rotation.clone());
        Ok(())
    }
}

impl Engine for SimulatedEngine {
    fn scans(&self) -> Scans {
        Scans::Wgmma
    }

    fn code_dim(&self) -> usize {
        self.rotation.as_ref().map_or(0, Rotation::code_dim)
    }

    fn set_slots(&mut self, slots: &[ListSlots], _wait: &mut Wait<'_>) -> Result<(), GpuError> {
        self.slots = slots.to_vec();
        Ok(())
    }

    fn begin_batch(
        &mut self,
        plan: &BatchPlan,
        _wait: &mut Wait<'_>,
    ) -> Result<(&mut [f32], &mut [QueryBound]), GpuError> {
        self.host = words(plan.host_bytes);
        Ok(HostParts::input(plan, cast_slice_mut(&mut self.host)))
    }

    fn run_batch(
        &mut self,
        plan: &BatchPlan,
        input: Option<Input<'_>>,
        scales: Scales,
        wait: &mut Wait<'_>,
    ) -> Result<BatchOut<'_>, GpuError> {
        self.answer_batch(plan, input, scales, wait)?;
        Ok(HostParts::output(plan, cast_slice(&self.host)))
    }

    fn fetch(
        &mut self,
        at: usize,
        bytes: usize,
        _wait: &mut Wait<'_>,
    ) -> Result<Vec<u8>, GpuError> {
        // What lies between the arrays that are kept comes as zeros.
        let mut out = vec![0; bytes];
        let mut is_known = false;
        for (first, array) in &self.fetched {
            let (from, to) = (at.max(*first), (at + bytes).min(first + array.len()));
            if from < to {
                out[from - at..to - at].copy_from_slice(&array[from - first..to - first]);
                is_known = true;
            }
        }
        if is_known {
            Ok(out)
        } else {
            Err(GpuError::Other(format!("no array at {at}")))
        }
    }

    fn read_tier(
        &mut self,
        at: usize,
        to: &mut [u8],
        _wait: &mut Wait<'_>,
    ) -> Result<(), GpuError> {
        to.copy_from_slice(&self.read().bytes()[at..at + to.len()]);
        Ok(())
    }

    fn begin(&mut self, plan: &ScratchPlan, _wait: &mut Wait<'_>) -> Result<&mut [u8], GpuError> {
        if self.scratch.len() * 8 < plan.bytes {
            self.scratch = words(plan.bytes);
        }
        Ok(&mut cast_slice_mut::<u64, u8>(&mut self.scratch)[..plan.upload_end])
    }

    fn run(
        &mut self,
        plan: &ScratchPlan,
        rounds: &Rounds,
        scales: Scales,
        wait: &mut Wait<'_>,
    ) -> Result<&[u8], GpuError> {
        let shape = plan.shape;
        let (n, keep, cap) = (shape.n_queries, shape.keep, shape.cap);
        let mut scratch = std::mem::take(&mut self.scratch);
        let reading = self.read();
        let tier = reading.arrays();
        let [
            queries,
            consts,
            items,
            group,
            thresholds,
            counts,
            overflows,
            out,
            survivors,
        ] = split(
            cast_slice_mut(&mut scratch),
            [
                (plan.queries, n * shape.query_words() * 4),
                (plan.consts, n * size_of::<QueryConsts>()),
                (plan.items, shape.n_items * size_of::<ScanItem>()),
                (plan.group, shape.n_group * 4),
                (plan.thresholds, n * 4),
                (plan.counts, n * 4),
                (plan.overflows, n * 4),
                (plan.out, n * keep * size_of::<Found>()),
                (plan.survivors, n * cap * 8),
            ],
        );
        let queries: &[f32] = array_mut(queries);
        let consts: &[QueryConsts] = array_mut(consts);
        let items: &[ScanItem] = array_mut(items);
        let group: &[u32] = array_mut(group);
        let thresholds: &mut [f32] = array_mut(thresholds);
        let counts: &mut [u32] = array_mut(counts);
        let overflows: &mut [u32] = array_mut(overflows);
        let out: &mut [Found] = array_mut(out);
        let survivors: &mut [u64] = array_mut(survivors);

        for round in &rounds.rounds {
            for launch in round {
                for item in &items[launch.first_item..launch.first_item + launch.n_items] {
                    (wait.poll)()?;
                    let mut arrays = ScanArrays {
                        queries,
                        consts,
                        group,
                        thresholds,
                        counts,
                        survivors,
                        cap,
                        loose_scale: scales.loose,
                        pairs: &[],
                        places: &[],
                        mode: ScanMode::Append,
                        n_halves: 2,
                        row_step: 1,
                    };
                    scan_item(&tier, &mut arrays, item);
                }
            }
            for q in 0..n {
                let survivors = &mut survivors[q * cap..(q + 1) * cap];
                select_smallest(
                    survivors,
                    &mut counts[q],
                    &mut thresholds[q],
                    &mut overflows[q],
                    keep,
                );
            }
        }
        for q in 0..n {
            let query = &queries[q * shape.query_words()..][..shape.query_words()];
            for i in 0..(counts[q] as usize).min(keep) {
                out[q * keep + i] =
                    rerank_one(&tier, query, &consts[q], scales, survivors[q * cap + i]);
            }
        }
        drop(reading);
        self.scratch = scratch;
        Ok(&cast_slice::<u64, u8>(&self.scratch)[plan.state..plan.download_end])
    }

    fn scratch_bytes(&self) -> u64 {
        self.scratch.len() as u64 * 8
    }

    fn second(&self) -> Result<Box<dyn Engine>, GpuError> {
        let (plan, tier) = (self.plan.clone(), self.tier.clone());
        Ok(Box::new(Self::over(plan, self.metric, tier)))
    }

    fn export(&self) -> Result<MemoryHandle, GpuError> {
        Ok(self.tier.read().export())
    }
}
