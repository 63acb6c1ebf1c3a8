//! Structs shared with the kernels. Twin of `kernels/params.h`: change both together.
//! Device addresses are `u64`; lengths of the arrays behind them are given as `[n]`.

use crate::memory::TierPlan;
use bytemuck::{Pod, Zeroable};
use omen_ivf::Metric;

/// The hot tier's arrays in device memory.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct TierView {
    /// f16 `[n_slots, pitch]`: stored vectors; 0 in a tier of codes alone.
    pub rows: u64,
    /// f32 `[n_slots]`: squared norms of the stored vectors; 0 in a tier of codes alone.
    pub norm_sq: u64,
    /// f32 `[n_slots]`: radius of the hard bound.
    pub err: u64,
    /// u32 `[ceil(n_slots / 32)]`: bit `slot % 32` of word `slot / 32` is set for live entries.
    pub live: u64,
    /// u64 `[n_slots]`: heap block in the low half, line pointer in the high half; 0 in a tier of codes alone.
    pub tids: u64,
    /// Halves per row, a multiple of 32.
    pub pitch: u32,
    /// Discriminant of `omen_ivf::Metric`.
    pub metric: u32,
    /// u32 `[n_slots, code_pitch]`: one-bit codes, bit `d % 32` of word `d / 32` is the sign of dimension `d` of the rotated
    /// residual (1: positive), zeros from the code's dimension on; 0 in a tier without codes.
    pub codes: u64,
    /// f32 `[3, n_slots]`: `f_add`, `f_rescale`, `f_error` (`omen_ivf::rabitq`); 0 in a tier without codes.
    pub factors: u64,
    /// 32-bit words per code, a multiple of 8.
    pub code_pitch: u32,
    /// Slots of the tier.
    pub n_slots: u32,
}

impl TierView {
    /// The view of a tier laid out by `plan` at the device address `start`.
    pub fn new(start: u64, plan: &TierPlan, metric: Metric) -> Self {
        let at = |there: bool, offset: usize| if there { start + offset as u64 } else { 0 };
        let (rows, codes) = (plan.parts.rows(), plan.parts.codes());
        Self {
            rows: at(rows, plan.rows),
            norm_sq: at(rows, plan.norm_sq),
            err: at(true, plan.err),
            live: at(true, plan.live),
            tids: at(rows, plan.tids),
            pitch: plan.pitch as u32,
            metric: metric as u32,
            codes: at(codes, plan.codes),
            factors: at(codes, plan.factors),
            code_pitch: plan.code_pitch as u32,
            n_slots: plan.n_slots as u32,
        }
    }
}

/// What one query brings to the keys besides its coordinates; `query.rs` derives the numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct QueryConsts {
    /// Squared norm.
    pub norm_sq: f32,
    /// Power of two that undoes the scaling of the hi and lo halves.
    pub dot_scale: f32,
    /// Loose key: error of the squared distance (L2, Cosine) or of the dot product (NegIp) per unit of the row's norm.
    pub slack: f32,
    /// Loose key, NegIp: the norm, rounded up generously.
    pub norm_up: f32,
    /// Tight key, NegIp: the norm times 1 + 2g.
    pub norm: f32,
    /// Rounding of the query's normalisation (Cosine), else 0.
    pub err: f32,
    /// Zero.
    pub reserved: [u32; 2],
}

/// One CTA's work: rows `first_slot..first_slot + n_rows` against the queries `group[first_query..][..n_queries]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ScanItem {
    /// First slot; all slots are of one list.
    pub first_slot: u32,
    /// Rows, at least 1 and at most the kernel's tile.
    pub n_rows: u32,
    /// First index in `group`.
    pub first_query: u32,
    /// Queries, at least 1 and at most the kernel's width.
    pub n_queries: u32,
}

/// Argument of the scan kernels.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ScanParams {
    /// The tier.
    pub tier: TierView,
    /// f16 `[n_queries, 2, pitch]`: high and low halves of the scaled queries.
    pub halves: u64,
    /// f32 `[n_queries, pitch]`.
    pub queries: u64,
    /// [`QueryConsts`] `[n_queries]`.
    pub consts: u64,
    /// [`ScanItem`] `[n_items]`.
    pub items: u64,
    /// u32: query numbers that the items refer to.
    pub group: u64,
    /// f32 `[n_queries]`.
    pub thresholds: u64,
    /// u32 `[n_queries]`.
    pub counts: u64,
    /// u64 `[n_queries, cap]`.
    pub survivors: u64,
    /// Room for survivors of one query.
    pub cap: u32,
    /// 1 - 4g.
    pub loose_scale: f32,
}

/// Argument of `select_smallest`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SelectParams {
    /// u64 `[n_queries, cap]`.
    pub survivors: u64,
    /// u32 `[n_queries]`.
    pub counts: u64,
    /// f32 `[n_queries]`.
    pub thresholds: u64,
    /// u32 `[n_queries]`.
    pub overflows: u64,
    /// Room for survivors of one query.
    pub cap: u32,
    /// Survivors to keep.
    pub keep: u32,
}

/// One reranked candidate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct RerankOut {
    /// Tight key.
    pub key: f32,
    /// Slot in the tier.
    pub slot: u32,
    /// Heap block.
    pub tid_block: u32,
    /// Line pointer.
    pub tid_offset: u32,
}

/// Argument of `rerank_selected`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct RerankParams {
    /// The tier.
    pub tier: TierView,
    /// f32 `[n_queries, pitch]`.
    pub queries: u64,
    /// [`QueryConsts`] `[n_queries]`.
    pub consts: u64,
    /// u64 `[n_queries, cap]`.
    pub survivors: u64,
    /// u32 `[n_queries]`.
    pub counts: u64,
    /// [`RerankOut`] `[n_queries, keep]`.
    pub out: u64,
    /// Room for survivors of one query.
    pub cap: u32,
    /// Survivors kept.
    pub keep: u32,
    /// 1 - 2g.
    pub tight_scale: f32,
    /// Zero.
    pub reserved: u32,
}

/// What a block of the unpack kernels does: `n` rows or `n` entries of groups to slots of one list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct UnpackItem {
    /// Byte in the area. Of groups, and of rows whose dimension is a multiple of 8: a multiple of 16.
    pub at: u32,
    /// First slot.
    pub first_slot: u32,
    /// Rows, or entries (at most 256).
    pub n: u32,
    /// Zero.
    pub reserved: u32,
}

/// Argument of the unpack kernels.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct UnpackParams {
    /// The tier, written to.
    pub tier: TierView,
    /// The area: parts of the streams of lists.
    pub area: u64,
    /// [`UnpackItem`] `[n_items]`.
    pub items: u64,
    /// Halves per row in the area.
    pub dim: u32,
    /// From one group in the area to the next.
    pub group_bytes: u32,
    /// 32-bit words per code in the area; 0: none.
    pub code_words: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<UnpackItem>() == 16);
    assert!(size_of::<UnpackParams>() == 104);
    assert!(size_of::<TierView>() == 72);
    assert!(size_of::<QueryConsts>() == 32);
    assert!(size_of::<ScanItem>() == 16);
    assert!(size_of::<ScanParams>() == 144);
    assert!(size_of::<SelectParams>() == 40);
    assert!(size_of::<RerankOut>() == 16);
    assert!(size_of::<RerankParams>() == 128);
};

/// Floats as unsigned numbers in the same order; not for NaN. Twin of `ordered_bits` in `kernels/params.h`.
pub fn ordered_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits & 0x8000_0000 != 0 {
        !bits
    } else {
        bits | 0x8000_0000
    }
}

/// Inverse of [`ordered_bits`].
pub fn from_ordered_bits(bits: u32) -> f32 {
    f32::from_bits(if bits & 0x8000_0000 != 0 {
        bits & 0x7FFF_FFFF
    } else {
        !bits
    })
}
