//! Twin of `rerank_selected`, and the oracle of `finish_selected`'s bounds: tight keys and ceilings by direct differences.

use super::{TierArrays, lane_sum};
use crate::engine::Scales;
use crate::params::{Found, QueryConsts};
use omen_ivf::Metric;

/// The tight key and the ceiling of a slot for a query (`[pitch]`).
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
        _ => {
            let l2sq = lane_sum(row.len(), |i| {
                let diff = query[i] - row[i].to_f32();
                diff * diff
            });
            let key = l2sq.sqrt() * scales.tight - (err + consts.err);
            let radius = (err + consts.err).next_up();
            let ceiling = (l2sq.sqrt() * scales.wide + radius).next_up();
            (if key > 0.0 { key } else { 0.0 }, ceiling)
        }
    };
    let ceiling = if ceiling.is_nan() {
        f32::INFINITY
    } else {
        ceiling
    };
    (key, ceiling)
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
