//! Twin of `scan_codes_*`: bounds from 1-bit codes, and the survivors of a scan. `kernels/code_bound.h` has the reasons.

use crate::params::{CodeConsts, QueryConsts, ScanItem, ordered_bits};
use omen_ivf::Metric;

/// The codes in host memory; shapes as in [`crate::params::CodeView`].
#[derive(Debug, Clone, Copy)]
pub struct CodeArrays<'a> {
    /// `[n_slots, code_pitch]`
    pub codes: &'a [u32],
    /// `[3, n_slots]`
    pub factors: &'a [f32],
    /// `[n_slots]`
    pub err: &'a [f32],
    /// `[ceil(n_slots / 32)]`
    pub live: &'a [u32],
    /// Words of a code.
    pub code_pitch: usize,
    /// The metric.
    pub metric: Metric,
}

/// The arrays of a code scan besides the codes; shapes as in [`crate::params::ScanCodesParams`].
pub struct CodeScanArrays<'a> {
    /// `[n_queries, 4, code_pitch]`
    pub planes: &'a [u32],
    /// `[n_queries]`
    pub codes: &'a [CodeConsts],
    /// `[n_queries]`
    pub consts: &'a [QueryConsts],
    /// Query numbers that items refer to.
    pub group: &'a [u32],
    /// The pair of each.
    pub pair: &'a [u32],
    /// `[n_pairs]`
    pub add: &'a [f32],
    /// `[n_pairs]`
    pub distance: &'a [f32],
    /// `[n_queries]`
    pub thresholds: &'a [f32],
    /// `[n_queries]`, counted on beyond `cap`.
    pub counts: &'a mut [u32],
    /// `[n_queries, cap]`
    pub survivors: &'a mut [u64],
    /// `[n_pairs]`, for upper bounds only.
    pub pair_base: &'a [u32],
    /// Room per query.
    pub cap: usize,
    /// Store upper bounds instead of appending by lower bounds.
    pub upper: bool,
    /// 1 - 4g.
    pub loose_scale: f32,
    /// Standard errors to allow for.
    pub epsilon: f32,
}

/// The estimate of `|q-h|^2` (L2, Cosine) or `-<q,h>` (NegIp), and the error allowed for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodeEstimate {
    /// Best guess.
    pub estimate: f32,
    /// What the truth hardly ever is further off.
    pub margin: f32,
}

/// Sum over the set bits of a code (`[code_pitch]`) of the levels in the planes (`[4, code_pitch]`).
pub fn level_sum(code: &[u32], planes: &[u32]) -> i32 {
    [1, 2, 4, -8]
        .iter()
        .zip(planes.chunks_exact(code.len()))
        .map(|(weight, plane)| {
            let ones = code.iter().zip(plane).map(|(c, p)| (c & p).count_ones());
            weight * ones.sum::<u32>() as i32
        })
        .sum()
}

/// The estimate of an entry with `factors` (`f_add`, `f_rescale`, `f_error`), whose [`level_sum`] is `sum`, for a query at `distance` from
/// the list's centroid, with `add` as in [`crate::params::ScanCodesParams`].
pub fn estimate(
    factors: [f32; 3],
    sum: i32,
    query: &CodeConsts,
    add: f32,
    distance: f32,
    epsilon: f32,
) -> CodeEstimate {
    let [f_add, f_rescale, f_error] = factors;
    let ratio = |a: f32, b: f32| if b > 0.0 { a / b } else { f32::INFINITY };
    let spread = epsilon * distance;
    let mix = ratio(0.5 * f_rescale * f_rescale, f_error);
    let blend = ratio(query.slack * query.slack, spread);
    let inner = query.step.mul_add(sum as f32, query.base);
    CodeEstimate {
        estimate: f_rescale.mul_add(inner, f_add + add),
        margin: f_error.mul_add(spread, (f_rescale.abs() * query.slack).min(mix * blend)),
    }
}

/// A lower bound of the tight key, as far as the estimate's margin can be trusted.
pub fn lower_key(
    metric: Metric,
    estimate: &CodeEstimate,
    loose_scale: f32,
    consts: &QueryConsts,
    err: f32,
) -> f32 {
    let bound = estimate.estimate - estimate.margin;
    match metric {
        Metric::NegIp => {
            let key = bound - err * consts.norm_up;
            if key.is_nan() { f32::NEG_INFINITY } else { key }
        }
        _ => {
            let key = bound.max(0.0).sqrt() * loose_scale - (err + consts.err);
            if key > 0.0 { key } else { 0.0 }
        }
    }
}

/// An upper bound of the tight key, likewise.
pub fn upper_key(metric: Metric, estimate: &CodeEstimate, consts: &QueryConsts, err: f32) -> f32 {
    let bound = estimate.estimate + estimate.margin;
    let key = match metric {
        Metric::NegIp => bound - err * consts.norm,
        _ if bound.is_nan() => bound,
        _ => {
            let key = bound.max(0.0).sqrt() * (1.0 + 2.384_185_8e-7) - (err + consts.err);
            if key < 0.0 { 0.0 } else { key }
        }
    };
    if key.is_nan() { f32::INFINITY } else { key }
}

/// Scans one item.
pub fn scan_codes_item(tier: &CodeArrays<'_>, scan: &mut CodeScanArrays<'_>, item: &ScanItem) {
    let n_slots = tier.err.len();
    for at in item.first_query as usize..item.first_query as usize + usize::from(item.n_queries) {
        let (query, pair) = (scan.group[at] as usize, scan.pair[at] as usize);
        let planes = &scan.planes[query * 4 * tier.code_pitch..][..4 * tier.code_pitch];
        let consts = &scan.consts[query];
        for slot in item.first_slot..item.first_slot + u32::from(item.n_rows) {
            let row = slot as usize;
            let live = tier.live[row / 32] >> (row % 32) & 1 == 1;
            let code = &tier.codes[row * tier.code_pitch..][..tier.code_pitch];
            let estimate = estimate(
                [0, 1, 2].map(|column| tier.factors[column * n_slots + row]),
                level_sum(code, planes),
                &scan.codes[query],
                scan.add[pair],
                scan.distance[pair],
                scan.epsilon,
            );
            let number = |key: f32| u64::from(ordered_bits(key)) << 32 | u64::from(slot);
            if scan.upper {
                let position = scan.pair_base[pair].wrapping_add(slot) as usize;
                if position < scan.cap {
                    let key = upper_key(tier.metric, &estimate, consts, tier.err[row]);
                    scan.survivors[query * scan.cap + position] =
                        if live { number(key) } else { u64::MAX };
                }
                continue;
            }
            let key = lower_key(
                tier.metric,
                &estimate,
                scan.loose_scale,
                consts,
                tier.err[row],
            );
            let threshold = scan.thresholds[query];
            // A threshold that is NaN (dead entries among the smallest) holds nobody back.
            if live && (key < threshold || threshold.is_nan()) {
                let count = &mut scan.counts[query];
                if (*count as usize) < scan.cap {
                    scan.survivors[query * scan.cap + *count as usize] = number(key);
                }
                *count += 1;
            }
        }
    }
}
