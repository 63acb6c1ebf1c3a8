//! Structs shared with the kernels. Twin of `kernels/params.h`: change both together.
//! Device addresses are `u64`; lengths of the arrays behind them are given as `[n]`.

use bytemuck::{Pod, Zeroable};

/// The hot tier's arrays in device memory.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct TierView {
    /// f16 `[n_slots, pitch]`: stored vectors.
    pub rows: u64,
    /// f32 `[n_slots]`: squared norms of the stored vectors.
    pub norm_sq: u64,
    /// f32 `[n_slots]`: radius of the hard bound.
    pub err: u64,
    /// u32 `[ceil(n_slots / 32)]`: bit `slot % 32` of word `slot / 32` is set for live entries.
    pub live: u64,
    /// u64 `[n_slots]`: heap block in the low half, line pointer in the high half.
    pub tids: u64,
    /// Halves per row, a multiple of 32.
    pub pitch: u32,
    /// Discriminant of `omen_ivf::Metric`.
    pub metric: u32,
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

const _: () = {
    assert!(size_of::<TierView>() == 48);
    assert!(size_of::<QueryConsts>() == 32);
    assert!(size_of::<ScanItem>() == 16);
    assert!(size_of::<ScanParams>() == 120);
    assert!(size_of::<SelectParams>() == 40);
    assert!(size_of::<RerankOut>() == 16);
    assert!(size_of::<RerankParams>() == 104);
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

/// What a query's four bit planes are worth: `<o, q'>` is about `step * (sum of weights * popc(code & plane)) + base`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct CodeConsts {
    /// What a unit of the sum is worth.
    pub step: f32,
    /// Added to what the sum is worth.
    pub base: f32,
    /// Error of that from the four bits, as many standard errors as the code's.
    pub slack: f32,
    /// Zero.
    pub reserved: u32,
}

/// Argument of `prepare_codes`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PrepareCodesParams {
    /// f32 `[n_queries, pitch]`, zero beyond the queries' dimension.
    pub queries: u64,
    /// u32 `[4, code_dim / 32]`: `omen_ivf`'s `Rotation::flip_bits`.
    pub flips: u64,
    /// f32 `[n_queries, code_dim]`, written; or 0, where `code_dim` is at most 8,192.
    pub rotated: u64,
    /// u32 `[n_queries, 4, code_pitch]`, written.
    pub planes: u64,
    /// [`CodeConsts`] `[n_queries]`, written.
    pub codes: u64,
    /// Floats per query.
    pub pitch: u32,
    /// Dimensions of a code, a multiple of 64, not below `pitch`.
    pub code_dim: u32,
    /// Words of a code, a multiple of 8.
    pub code_pitch: u32,
    /// Standard errors to allow for: `omen_ivf::rabitq::epsilon`.
    pub epsilon: f32,
}

/// The part of the tier that the code scan reads.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct CodeView {
    /// u32 `[n_slots, code_pitch]`: signs of the rotated residuals.
    pub codes: u64,
    /// f32 `[3, n_slots]`: `f_add`, `f_rescale`, `f_error`.
    pub factors: u64,
    /// f32 `[n_slots]`: radius of the hard bound.
    pub err: u64,
    /// u32 `[ceil(n_slots / 32)]`.
    pub live: u64,
    /// Slots.
    pub n_slots: u32,
    /// Words of a code, a multiple of 8.
    pub code_pitch: u32,
    /// Discriminant of `omen_ivf::Metric`.
    pub metric: u32,
    /// Zero.
    pub reserved: u32,
}

/// Argument of `scan_codes_*`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ScanCodesParams {
    /// The codes.
    pub tier: CodeView,
    /// u32 `[n_queries, 4, code_pitch]`.
    pub planes: u64,
    /// [`CodeConsts`] `[n_queries]`.
    pub codes: u64,
    /// [`QueryConsts`] `[n_queries]`.
    pub consts: u64,
    /// [`ScanItem`] `[*n_items]`, of any number of rows and queries.
    pub items: u64,
    /// u32 `[1]`.
    pub n_items: u64,
    /// u32: query numbers that the items refer to.
    pub group: u64,
    /// u32, as many: the (query, list) pair of each.
    pub pair: u64,
    /// f32 `[n_pairs]`: `|q-c|^2` (L2, Cosine) or `-<q,c>` (NegIp).
    pub add: u64,
    /// f32 `[n_pairs]`: `|q-c|`.
    pub distance: u64,
    /// f32 `[n_queries]`; read for lower bounds only.
    pub thresholds: u64,
    /// u32 `[n_queries]`; counted for lower bounds only.
    pub counts: u64,
    /// u64 `[n_queries, cap]`.
    pub survivors: u64,
    /// u32 `[n_pairs]`, read for upper bounds only: position of slot 0 in the query's survivors modulo 2^32, that is the position of the
    /// pair's first row minus the list's first slot.
    pub pair_base: u64,
    /// Room for survivors of one query.
    pub cap: u32,
    /// 0: append the entries whose lower bound is below the threshold; 1: store the upper bounds of all rows.
    pub upper: u32,
    /// 1 - 4g.
    pub loose_scale: f32,
    /// Standard errors to allow for.
    pub epsilon: f32,
}

/// Argument of `rerank_survivors`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct RerankSurvivorsParams {
    /// f16 `[n_slots, pitch]`.
    pub rows: u64,
    /// f32 `[n_slots]`.
    pub err: u64,
    /// f32 `[n_queries, pitch]`.
    pub queries: u64,
    /// [`QueryConsts`] `[n_queries]`.
    pub consts: u64,
    /// u32 `[n_queries]`: survivors before this one have their keys; or 0: none has.
    pub base: u64,
    /// u32 `[n_queries]`.
    pub counts: u64,
    /// u64 `[n_queries, cap]`, keys rewritten in place.
    pub survivors: u64,
    /// Slots.
    pub n_slots: u32,
    /// Halves per row, a multiple of 32.
    pub pitch: u32,
    /// Discriminant of `omen_ivf::Metric`.
    pub metric: u32,
    /// Room for survivors of one query.
    pub cap: u32,
    /// 1 - 2g.
    pub tight_scale: f32,
    /// Zero.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<CodeConsts>() == 16);
    assert!(size_of::<PrepareCodesParams>() == 56);
    assert!(size_of::<CodeView>() == 48);
    assert!(size_of::<ScanCodesParams>() == 168);
    assert!(size_of::<RerankSurvivorsParams>() == 80);
};
