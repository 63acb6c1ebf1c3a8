//! Twin of `rerank_selected`, and the oracle of `finish_selected`'s bounds: tight keys and ceilings by direct differences.

use super::bits::{bit_bounds, bit_distance, differing};
use super::{TierArrays, lane_sum};
use crate::engine::Scales;
use crate::params::{Found, QueryConsts};
use omen_ivf::Metric;

/// The tight key and the ceiling of a slot for a query (`[query_words]`).
pub fn tight_bounds(
    tier: &TierArrays<'_>,
    query: &[f32],
    consts: &QueryConsts,
    scales: Scales,
    slot: u32,
) -> (f32, f32) {
    let row = tier.row(slot);
    let err = tier.err[slot as usize];
    let (key, ceiling) = match tier.metric {
        Metric::NegIp => {
            let dot = lane_sum(row.len(), |i| query[i] * row[i].to_f32());
            let width = err * consts.norm;
            let key = -dot - width;
            let key = if key.is_nan() { f32::NEG_INFINITY } else { key };
            (key, width - dot)
        }
        Metric::Hamming | Metric::Jaccard => {
            let of_row = tier.norm_sq[slot as usize];
            let differing = differing(query, row);
            bit_bounds(
                tier.metric,
                bit_distance(tier.metric, differing, consts.norm, of_row),
            )
        }
        Metric::L1 => {
            let l1 = lane_sum(row.len(), |i| (query[i] - row[i].to_f32()).abs());
            by_radius(l1, err + consts.err, scales)
        }
        _ => {
            let l2sq = lane_sum(row.len(), |i| {
                let diff = query[i] - row[i].to_f32();
                diff * diff
            });
            by_radius(l2sq.sqrt(), err + consts.err, scales)
        }
    };
    let ceiling = if ceiling.is_nan() {
        f32::INFINITY
    } else {
        ceiling
    };
    (key, ceiling)
}

/// Key and ceiling of what is so far from the stored row, and from that by a radius.
fn by_radius(distance: f32, radius: f32, scales: Scales) -> (f32, f32) {
    let key = distance * scales.tight - radius;
    let ceiling = (distance * scales.wide + radius.next_up()).next_up();
    (if key > 0.0 { key } else { 0.0 }, ceiling)
}

/// The result for one survivor.
pub fn rerank_one(
    tier: &TierArrays<'_>,
    query: &[f32],
    consts: &QueryConsts,
    scales: Scales,
    survivor: u64,
) -> Found {
    let slot = survivor as u32; // the low half
    let tid = tier.tids[slot as usize];
    let (key, ceiling) = tight_bounds(tier, query, consts, scales, slot);
    Found {
        key,
        ceiling,
        tid_block: tid as u32,
        tid_offset: (tid >> 32) as u32,
        slot,
    }
}
