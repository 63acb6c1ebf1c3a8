//! Structs of the kernels that search codes. Twin of `kernels/params.h`, as all of `params`.

use bytemuck::{Pod, Zeroable};

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
    /// [`super::QueryConsts`] `[n_queries]`.
    pub consts: u64,
    /// [`super::ScanItem`] `[*n_items]`, of any number of rows and queries.
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
    /// [`super::QueryConsts`] `[n_queries]`.
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
