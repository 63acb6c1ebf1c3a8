//! Twin of `scan_mma_*`, `scan_fma`, `scan_wgmma`, `scan_wgmma_dense`, `scan_l1` and `scan_bits`: loose keys, and what a scan does with them.

use super::bits::{bit_bounds, bit_distance, differing};
use super::{TierArrays, lane_sum};
use crate::params::{NOTHING, QueryConsts, ScanItem, ScanMode, ordered_bits};
use half::slice::HalfFloatSliceExt;
use omen_ivf::Metric;

/// The arrays of a scan besides the tier; shapes as in [`crate::params::ScanParams`].
pub struct ScanArrays<'a> {
    /// `[n_queries, pitch]`; of bits their words, `[n_queries, pitch / 2]`
    pub queries: &'a [f32],
    /// `[n_queries]`
    pub consts: &'a [QueryConsts],
    /// Query numbers that items refer to.
    pub group: &'a [u32],
    /// `Place`: as many as `group`, or none: every list begins at 0.
    pub pairs: &'a [u32],
    /// `Place`: `[n_pairs]`.
    pub places: &'a [u32],
    /// `[n_queries]`
    pub thresholds: &'a [f32],
    /// `[n_queries]`, counted on beyond `cap`.
    pub counts: &'a mut [u32],
    /// `[n_queries, cap]`
    pub survivors: &'a mut [u64],
    /// Room per query.
    pub cap: usize,
    /// 1 - 4g.
    pub loose_scale: f32,
    /// What to do: `Append` or `Place`.
    pub mode: ScanMode,
    /// 2, or 1: the slack of the high halves alone.
    pub n_halves: u32,
    /// Row r of an item is slot (`first_slot` + r) * `row_step`; 1 but for samples.
    pub row_step: u32,
}

/// Twin of `norm_upper`: the norm of a stored vector, not below the true one.
pub fn norm_upper(norm_sq: f32) -> f32 {
    norm_sq.sqrt() * (1.0 + 2.384_185_8e-7)
}

/// Twin of `loose_key` in `kernels/loose_key.h`, where it is proven to be a lower bound of the key. `slack`: per unit of the norm.
pub fn loose_key(
    metric: Metric,
    loose_scale: f32,
    q: &QueryConsts,
    slack: f32,
    dot: f32,
    norm_sq: f32,
    err: f32,
) -> f32 {
    let slack = slack * norm_upper(norm_sq);
    match metric {
        Metric::NegIp => {
            let key = -dot - slack - err * q.norm_up;
            if key.is_nan() { f32::NEG_INFINITY } else { key }
        }
        _ => {
            let sum = q.norm_sq + norm_sq;
            let d2 = (-2.0f32).mul_add(dot, sum) - 4.768_371_6e-7f32.mul_add(sum, slack);
            let key = d2.max(0.0).sqrt() * loose_scale - (err + q.err);
            if key > 0.0 { key } else { 0.0 }
        }
    }
}

/// Twin of `loose_key_l1` in `kernels/loose_key.h`; `sum`: of the magnitudes of the differences.
pub fn loose_key_l1(loose_scale: f32, q: &QueryConsts, sum: f32, err: f32) -> f32 {
    let key = sum * loose_scale - (err + q.err);
    if key > 0.0 { key } else { 0.0 }
}

/// Twin of `centroid_rank`: what centroids are ranked by.
pub fn centroid_rank(metric: Metric, query_norm_sq: f32, dot: f32, norm_sq: f32) -> f32 {
    match metric {
        Metric::NegIp => -dot,
        _ => (-2.0f32).mul_add(dot, query_norm_sq + norm_sq).max(0.0),
    }
}

/// Scans one item: appends its survivors, (ordered key << 32 | slot), to their queries' buffers, or places all of them there.
pub fn scan_item(tier: &TierArrays<'_>, arrays: &mut ScanArrays<'_>, item: &ScanItem) {
    let words = tier.query_words();
    let mut row = vec![0f32; tier.pitch];
    for in_item in 0..u32::from(item.n_rows) {
        let slot = (item.first_slot + in_item) * arrays.row_step;
        let live = tier.is_live(slot);
        if !live && arrays.mode == ScanMode::Append {
            continue;
        }
        if !tier.metric.is_of_bits() {
            tier.row(slot).convert_to_f32_slice(&mut row);
        }
        for at in (item.first_query as usize..).take(item.n_queries.into()) {
            let q = arrays.group[at] as usize;
            let vector = &arrays.queries[q * words..(q + 1) * words];
            let key = key_of(tier, arrays, &arrays.consts[q], vector, &row, slot as usize);
            let number = (u64::from(ordered_bits(key)) << 32) | u64::from(slot);
            let position = if arrays.mode == ScanMode::Place {
                let pair = arrays.pairs.get(at);
                let start = pair.map_or(0, |&pair| arrays.places[pair as usize]);
                (start + item.first_row + in_item) as usize
            } else if key < arrays.thresholds[q] {
                arrays.counts[q] += 1;
                arrays.counts[q] as usize - 1
            } else {
                continue;
            };
            if position < arrays.cap {
                arrays.survivors[q * arrays.cap + position] = if live { number } else { NOTHING };
            }
        }
    }
}

/// The loose key of a query's `vector`, `[query_words]`, and a slot's `row`, `[pitch]`.
fn key_of(
    tier: &TierArrays<'_>,
    arrays: &ScanArrays<'_>,
    consts: &QueryConsts,
    vector: &[f32],
    row: &[f32],
    slot: usize,
) -> f32 {
    let (norm_sq, err, scale) = (tier.norm_sq[slot], tier.err[slot], arrays.loose_scale);
    if tier.metric.is_of_bits() {
        let differing = differing(vector, tier.row(slot as u32));
        let distance = bit_distance(tier.metric, differing, consts.norm, norm_sq);
        return bit_bounds(tier.metric, distance).0;
    }
    if tier.metric == Metric::L1 {
        let sum = lane_sum(row.len(), |i| (vector[i] - row[i]).abs());
        return loose_key_l1(scale, consts, sum, err);
    }
    let dot = lane_sum(row.len(), |i| vector[i] * row[i]);
    let slack = if arrays.n_halves == 2 {
        consts.slack
    } else {
        consts.slack_high
    };
    loose_key(tier.metric, scale, consts, slack, dot, norm_sq, err)
}
