//! Twin of `rerank_survivors`: tight keys of survivors, in place.

use super::TierArrays;
use super::rerank::tight_bounds;
use crate::engine::Scales;
use crate::params::{QueryConsts, ordered_bits};

/// Rewrites the keys of one query's `survivors` (those from its base to its count). `query`: `[pitch]`. What names no slot stays.
pub fn rerank_survivors(
    tier: &TierArrays<'_>,
    query: &[f32],
    consts: &QueryConsts,
    scales: Scales,
    survivors: &mut [u64],
) {
    for survivor in survivors {
        let slot = *survivor as u32; // the low half
        if (slot as usize) < tier.err.len() {
            let key = tight_bounds(tier, query, consts, scales, slot).0;
            *survivor = u64::from(ordered_bits(key)) << 32 | u64::from(slot);
        }
    }
}
