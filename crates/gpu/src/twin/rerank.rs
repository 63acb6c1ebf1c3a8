//! Twin of `rerank_selected`: tight keys by direct differences.

use super::{TierArrays, lane_sum};
use crate::params::{QueryConsts, RerankOut};
use omen_ivf::Metric;

/// The tight key of a slot for a query (`[pitch]`).
pub fn tight_key(
    tier: &TierArrays<'_>,
    query: &[f32],
    consts: &QueryConsts,
    tight_scale: f32,
    slot: u32,
) -> f32 {
    let row = tier.row(slot);
    let err = tier.err[slot as usize];
    match tier.metric {
        Metric::NegIp => {
            let key = -lane_sum(row.len(), |i| query[i] * row[i].to_f32()) - err * consts.norm;
            if key.is_nan() { f32::NEG_INFINITY } else { key }
        }
        Metric::L2 | Metric::Cosine => {
            let l2sq = lane_sum(row.len(), |i| {
                let diff = query[i] - row[i].to_f32();
                diff * diff
            });
            let key = l2sq.sqrt() * tight_scale - (err + consts.err);
            if key > 0.0 { key } else { 0.0 }
        }
    }
}

/// The result for one survivor.
pub fn rerank_one(
    tier: &TierArrays<'_>,
    query: &[f32],
    consts: &QueryConsts,
    tight_scale: f32,
    survivor: u64,
) -> RerankOut {
    let slot = survivor as u32; // the low half
    let tid = tier.tids[slot as usize];
    RerankOut {
        key: tight_key(tier, query, consts, tight_scale, slot),
        slot,
        tid_block: tid as u32,
        tid_offset: (tid >> 32) as u32,
    }
}
