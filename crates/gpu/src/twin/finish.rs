//! Twin of `finish_selected`.

use super::TierArrays;
use super::rerank::rerank_one;
use crate::engine::Scales;
use crate::params::{Found, FoundHead, NOTHING, QueryConsts, ordered_bits};

/// A query's answer from its selected survivors: at most `k` candidates, ascending by (key, tid), and what is known of it.
pub fn finish_one(
    tier: &TierArrays<'_>,
    query: &[f32],
    consts: &QueryConsts,
    scales: Scales,
    survivors: &[u64],
    threshold: f32,
    k: usize,
) -> (FoundHead, Vec<Found>) {
    let mut found: Vec<Found> = survivors
        .iter()
        .filter(|&&survivor| survivor != NOTHING)
        .map(|&survivor| rerank_one(tier, query, consts, scales, survivor))
        .filter(|found| found.key <= threshold)
        .collect();
    found.sort_by_key(|f| (ordered_bits(f.key), f.tid_block, f.tid_offset));
    let frontier = found.get(k).map_or(threshold, |next| next.key);
    found.truncate(k);
    let head = FoundHead {
        count: found.len() as u32,
        frontier,
        overflow: 0,
        reserved: 0,
    };
    (head, found)
}
