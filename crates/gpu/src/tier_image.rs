//! A tier's arrays copied back to host memory: to look at what the device holds.

use crate::error::GpuError;
use crate::memory::{N_FACTORS, TierPlan};
use crate::twin::TierArrays;
use bytemuck::{AnyBitPattern, cast_slice};
use half::f16;
use omen_ivf::Metric;

/// The copy.
pub struct TierImage {
    /// In words, so that the arrays are aligned.
    memory: Vec<u64>,
    plan: TierPlan,
    metric: Metric,
}

impl TierImage {
    /// A copy made by `read`, which fills the bytes of a tier laid out by `plan`.
    pub(crate) fn new(
        plan: TierPlan,
        metric: Metric,
        read: impl FnOnce(&mut [u8]) -> Result<(), GpuError>,
    ) -> Result<Self, GpuError> {
        let mut memory = vec![0u64; plan.bytes.div_ceil(8)];
        read(&mut bytemuck::cast_slice_mut(&mut memory)[..plan.bytes])?;
        Ok(Self {
            memory,
            plan,
            metric,
        })
    }

    /// All bytes, those between arrays and those never written (whatever they are) included.
    pub fn bytes(&self) -> &[u8] {
        &cast_slice(&self.memory)[..self.plan.bytes]
    }

    /// The arrays of entries.
    pub fn arrays(&self) -> TierArrays<'_> {
        tier_arrays(cast_slice(&self.memory), &self.plan, self.metric)
    }

    /// The centroids, `[n_lists, centroid_pitch]`, and their squared norms, `[n_lists]`.
    pub fn centroids(&self) -> (&[f16], &[f32]) {
        let (memory, plan) = (cast_slice(&self.memory), &self.plan);
        (
            array(memory, plan.centroids, plan.n_lists * plan.centroid_pitch),
            array(memory, plan.centroid_norms, plan.n_lists),
        )
    }
}

/// The first `n` elements at `at`.
pub(crate) fn array<T: AnyBitPattern>(memory: &[u8], at: usize, n: usize) -> &[T] {
    cast_slice(&memory[at..at + n * size_of::<T>()])
}

/// The arrays of a tier in its memory.
pub(crate) fn tier_arrays<'a>(memory: &'a [u8], plan: &TierPlan, metric: Metric) -> TierArrays<'a> {
    let n = plan.n_slots;
    let with_rows = if plan.parts.rows() { n } else { 0 };
    let with_codes = if plan.parts.codes() { n } else { 0 };
    TierArrays {
        rows: array(memory, plan.rows, with_rows * plan.pitch),
        norm_sq: array(memory, plan.norm_sq, with_rows),
        err: array(memory, plan.err, n),
        live: array(memory, plan.live, n.div_ceil(32)),
        tids: array(memory, plan.tids, with_rows),
        codes: array(memory, plan.codes, with_codes * plan.code_pitch),
        factors: array(memory, plan.factors, with_codes * N_FACTORS),
        pitch: plan.pitch,
        code_pitch: plan.code_pitch,
        metric,
    }
}
