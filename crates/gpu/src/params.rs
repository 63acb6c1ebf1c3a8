//! Structs shared with the kernels. Twin of `kernels/params.h`: change both together.
//! Device addresses are `u64`; lengths of the arrays behind them are given as `[n]`.

mod assign;
mod codes;

pub use assign::AssignParams;
pub use codes::{CodeConsts, CodeView, PrepareCodesParams, RerankSurvivorsParams, ScanCodesParams};

use crate::memory::TierPlan;
use bytemuck::{Pod, Zeroable};
use omen_ivf::Metric;
use omen_ivf::bound::Bound;

/// The hot tier's arrays in device memory.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct TierView {
    /// f16 `[n_slots, pitch]`: stored vectors, or strings of bits in words of 16; 0 in a tier of codes alone.
    pub rows: u64,
    /// f32 `[n_slots]`: squared norms of the stored vectors, or numbers of bits set; 0 in a tier of codes alone.
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
    /// Tight key, NegIp: the norm times 1 + 2g. Of strings of bits: how many are set.
    pub norm: f32,
    /// Rounding of the query's normalisation (Cosine), else 0.
    pub err: f32,
    /// As `slack`, where the low half of the query is left out.
    pub slack_high: f32,
    /// Zero.
    pub reserved: u32,
}

/// A piece of a scan: rows `first_slot..first_slot + n_rows` of one list against the queries `group[first_query..][..n_queries]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ScanItem {
    /// First slot; all slots are of one list.
    pub first_slot: u32,
    /// Which row of the list that is.
    pub first_row: u32,
    /// First index in `group`.
    pub first_query: u32,
    /// Rows, at least 1 and at most the kernel's tile.
    pub n_rows: u16,
    /// Queries, at least 1 and at most the kernel's width.
    pub n_queries: u16,
}

/// What a scan does with what it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ScanMode {
    /// Live entries with a loose key below the query's threshold are appended to its survivors.
    Append = 0,
    /// Every entry's loose key goes to a place of its own among the survivors; [`NOTHING`] for dead entries.
    Place = 1,
    /// The rows are centroids: l2sq, or minus the inner product, goes to `ranks[query, slot]`.
    Rank = 2,
}

/// A survivor that stands for nothing.
pub const NOTHING: u64 = u64::MAX;

/// A tensor map of the driver: what the bulk copy engine needs to know of a matrix.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct TensorMap {
    /// The driver's.
    pub opaque: [u64; 16],
}

/// Argument of the scan kernels.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ScanParams {
    /// `scan_wgmma`, `scan_wgmma_dense`: the rows, set by its launcher.
    pub row_map: TensorMap,
    /// The same, where `group` is 0: the halves, set by its launcher.
    pub query_map: TensorMap,
    /// The tier.
    pub tier: TierView,
    /// f16 `[n_queries, 2, pitch]`: high and low halves of the scaled queries.
    pub halves: u64,
    /// f32 `[n_queries, pitch]`; of strings of bits u32 `[n_queries, pitch / 2]`.
    pub queries: u64,
    /// [`QueryConsts`] `[n_queries]`.
    pub consts: u64,
    /// [`ScanItem`] `[n_items]`; 0: rows `0..n_rows` against queries `0..n_queries`, in tiles of the kernel's size.
    pub items: u64,
    /// u32: number of items; 0: `items_given` of them.
    pub n_items: u64,
    /// u32: query numbers that the items refer to; 0: a position is a query number.
    pub group: u64,
    /// u32, as many as `group`: number of the (query, list) pair.
    pub pairs: u64,
    /// u32 `[n_pairs]`, for `Place`: where the first row of the pair's list goes.
    pub places: u64,
    /// f32 `[n_queries]`.
    pub thresholds: u64,
    /// u32 `[n_queries]`.
    pub counts: u64,
    /// u64 `[n_queries, cap]`.
    pub survivors: u64,
    /// f32 `[n_queries, n_rows]`, for `Rank`.
    pub ranks: u64,
    /// Room for survivors of one query.
    pub cap: u32,
    /// 1 - 4g.
    pub loose_scale: f32,
    /// Number of items, if `n_items` is 0.
    pub items_given: u32,
    /// A [`ScanMode`].
    pub mode: u32,
    /// Rows, where there are no items.
    pub n_rows: u32,
    /// Queries, where there are no items.
    pub n_queries: u32,
    /// 2: both halves of the queries; 1: the high ones alone (`scan_wgmma` only).
    pub n_halves: u32,
    /// Where there are no items: row r is slot r * `row_step`; 0 and 1 are the same.
    pub row_step: u32,
    /// Zero.
    pub reserved: [u32; 14],
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

/// A reranked candidate: the operator's value lies between what `key` and `ceiling` stand for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Found {
    /// Hard lower bound.
    pub key: f32,
    /// Hard upper bound.
    pub ceiling: f32,
    /// Heap block.
    pub tid_block: u32,
    /// Line pointer.
    pub tid_offset: u32,
    /// Slot of the tier.
    pub slot: u32,
}

/// What is known of a query's answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct FoundHead {
    /// Candidates written, ascending by (key, tid).
    pub count: u32,
    /// Entries that are not among them have keys of at least this.
    pub frontier: f32,
    /// 0, or why the answer does not count: [`OVERFLOW_SURVIVORS`], [`OVERFLOW_QUERY`].
    pub overflow: u32,
    /// Zero.
    pub reserved: u32,
}

/// Survivors were lost.
pub const OVERFLOW_SURVIVORS: u32 = 1;
/// The query has numbers that the keys cannot bear.
pub const OVERFLOW_QUERY: u32 = 2;

/// Argument of `rerank_selected` and `finish_selected`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct RerankParams {
    /// The tier.
    pub tier: TierView,
    /// As in [`ScanParams`].
    pub queries: u64,
    /// [`QueryConsts`] `[n_queries]`.
    pub consts: u64,
    /// u64 `[n_queries, cap]`.
    pub survivors: u64,
    /// u32 `[n_queries]`.
    pub counts: u64,
    /// [`Found`]; rerank: `[n_queries, keep]`; finish: `[n_queries, k]`.
    pub out: u64,
    /// f32 `[n_queries]`, for finish.
    pub thresholds: u64,
    /// [`FoundHead`] `[n_queries]`, for finish.
    pub heads: u64,
    /// u32 `[n_queries]`, for finish.
    pub overflows: u64,
    /// Room for survivors of one query.
    pub cap: u32,
    /// Survivors kept.
    pub keep: u32,
    /// 1 - 2g, rounded down.
    pub tight_scale: f32,
    /// 1 + 2g, rounded up.
    pub wide_scale: f32,
    /// Candidates wanted, for finish.
    pub k: u32,
    /// Zero.
    pub reserved: u32,
}

/// Argument of `prepare_queries`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PrepareParams {
    /// f32 `[n_queries, dim + bit_words]`, perhaps in the host's memory; 0: see `input`.
    pub raw: u64,
    /// [`QueryBound`] `[n_queries]`, likewise.
    pub bounds: u64,
    /// If `raw` is 0: where the addresses of the two are, u64 `[2]` in page-locked memory. Recorded launches do not change.
    pub input: u64,
    /// f32 `[n_queries, pitch]`.
    pub queries: u64,
    /// f16 `[n_queries, 2, pitch]`.
    pub halves: u64,
    /// [`QueryConsts`] `[n_queries]`.
    pub consts: u64,
    /// f32 `[n_queries]`, set to +inf.
    pub thresholds: u64,
    /// u32 `[n_queries]`, set to `first_count`.
    pub counts: u64,
    /// u32 `[n_queries]`, set to 0 or [`OVERFLOW_QUERY`].
    pub overflows: u64,
    /// Queries.
    pub n_queries: u32,
    /// Dimension.
    pub dim: u32,
    /// Halves (and f32) per query.
    pub pitch: u32,
    /// Discriminant of `omen_ivf::Metric`.
    pub metric: u32,
    /// The index's g.
    pub rounding: f32,
    /// What counts are set to.
    pub first_count: u32,
    /// Of strings of bits: u32 `[n_queries, bit_pitch]`, the words behind the coordinates, padded; 0: of vectors.
    pub bits: u64,
    /// Words of 32 bits of a query behind its coordinates.
    pub bit_words: u32,
    /// Words per query in `bits`.
    pub bit_pitch: u32,
}

/// What the keys of a query need besides its coordinates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct QueryBound {
    /// NegIp: the norm of the key formula, `Bound::q_norm` of `omen_ivf`; other metrics: not used.
    pub q_norm: f32,
    /// L2, Cosine: `Bound::q_err`; NegIp: not used.
    pub q_err: f32,
}

impl From<&Bound> for QueryBound {
    fn from(bound: &Bound) -> Self {
        Self {
            q_norm: bound.q_norm(),
            q_err: bound.q_err(),
        }
    }
}

/// Argument of `select_probes`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ProbeParams {
    /// f32 `[n_queries, n_lists]`.
    pub ranks: u64,
    /// [`QueryConsts`] `[n_queries]`.
    pub consts: u64,
    /// f32 `[n_lists]`: squared norms of the centroids.
    pub list_norms: u64,
    /// u32 `[n_lists]`: slots of each list.
    pub list_rows: u64,
    /// u32 `[n_queries, probes]`: nearest first.
    pub lists: u64,
    /// u32 `[n_queries, probes]`: rows of the query's lists before this one, for the lists of the first round.
    pub places: u64,
    /// f32 `[n_queries, probes]`: the list's rank, lowered by what rounding may have added: bounds of entries start from it.
    pub adds: u64,
    /// f32 `[n_queries, probes]`: query to centroid.
    pub distances: u64,
    /// u32 `[n_queries]`: lists within the spread.
    pub n_probes: u64,
    /// u32 `[n_queries]`: lists of the first round.
    pub n_first: u64,
    /// u32 `[n_queries]`: rows of the first round's lists.
    pub counts: u64,
    /// u32 `[n_queries]`: [`OVERFLOW_SURVIVORS`] if those are more than `cap`.
    pub overflows: u64,
    /// Lists of the index.
    pub n_lists: u32,
    /// Lists wanted.
    pub probes: u32,
    /// Rows at which the first round is large enough.
    pub first_rows: u32,
    /// Room for survivors of one query.
    pub cap: u32,
    /// Lists farther than this from the nearest one are left out.
    pub spread: f32,
    /// Discriminant of `omen_ivf::Metric`.
    pub metric: u32,
    /// Power of two, at least `probes` and 2.
    pub sort_width: u32,
    /// Not 0: there is shared memory for `n_lists` ranks.
    pub ranks_in_shared: u32,
}

/// A list of the tier, on the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ListSlots {
    /// First slot.
    pub first_slot: u32,
    /// Slots.
    pub n_slots: u32,
}

/// Argument of `plan_count`, `plan_items`, `plan_scatter`. Arrays with a leading 2 are by round.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PlanParams {
    /// u32 `[n_queries, probes]`.
    pub lists: u64,
    /// u32 `[n_queries]`.
    pub n_probes: u64,
    /// u32 `[n_queries]`.
    pub n_first: u64,
    /// [`ListSlots`] `[n_lists]`.
    pub slots: u64,
    /// u32 `[2, n_lists]`: pairs of each list; zeroed before.
    pub list_pairs: u64,
    /// u32 `[n_queries, probes]`: number of the pair among its list's.
    pub pair_at: u64,
    /// u32 `[2, n_lists]`: where a list's pairs begin in the round's half of `group`.
    pub starts: u64,
    /// u32 `[2, n_queries * probes]`: query numbers by list.
    pub group: u64,
    /// u32 `[2, n_queries * probes]`: the pairs' numbers.
    pub pairs: u64,
    /// u32 `[2, n_lists]`: where a list's items begin.
    pub item_starts: u64,
    /// [`ScanItem`] `[2, max_items]`.
    pub items: u64,
    /// u32 `[2]`.
    pub n_items: u64,
    /// u32 `[1]`: set if a round has more items than `max_items`.
    pub overflow: u64,
    /// Queries.
    pub n_queries: u32,
    /// Lists of a query.
    pub probes: u32,
    /// Lists of the index.
    pub n_lists: u32,
    /// Room for items of a round.
    pub max_items: u32,
    /// Rows of an item, by round.
    pub tile_rows: [u32; 2],
    /// Queries of an item, by round.
    pub width: [u32; 2],
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
    /// Halves, or words of as many bits, per row in the area.
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
    assert!(size_of::<ScanParams>() == 512);
    assert!(size_of::<SelectParams>() == 40);
    assert!(size_of::<Found>() == 20);
    assert!(size_of::<FoundHead>() == 16);
    assert!(size_of::<RerankParams>() == 160);
    assert!(size_of::<PrepareParams>() == 112);
    assert!(size_of::<ProbeParams>() == 128);
    assert!(size_of::<ListSlots>() == 8);
    assert!(size_of::<PlanParams>() == 136);
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
