//! Twin of `finish_bounded`.

use super::TierArrays;
use super::rerank::rerank_one;
use crate::engine::Scales;
use crate::launch::finish_bounded::{CHUNK, MAX_BOUNDS};
use crate::params::{
    Found, FoundHead, NOTHING, OVERFLOW_SURVIVORS, QueryConsts, from_ordered_bits, ordered_bits,
};

/// A query's answer from its survivors: `first` of the first round, `bounded` of the code scan by lower bound (`[count - base]`, in any
/// order). At most `k` candidates, ascending by (key, tid), and what is known of it.
#[allow(clippy::too_many_arguments)]
pub fn finish_bounded_one(
    tier: &TierArrays<'_>,
    query: &[f32],
    consts: &QueryConsts,
    scales: Scales,
    first: &[u64],
    bounded: &[u64],
    threshold: f32,
    k: usize,
) -> (FoundHead, Vec<Found>) {
    let mut bounds = bounded.to_vec();
    bounds.sort_unstable();
    let cut = bounds.len() > MAX_BOUNDS;
    bounds.truncate(MAX_BOUNDS);
    let mut best: Vec<Found> = Vec::new();
    let add = |best: &mut Vec<Found>, numbers: &[u64]| {
        let there = numbers.iter().filter(|&&number| number != NOTHING);
        best.extend(there.map(|&number| rerank_one(tier, query, consts, scales, number)));
        best.sort_by_key(|f| (ordered_bits(f.key), f.tid_block, f.tid_offset));
        best.truncate(k + 1);
        best.get(k - 1).map_or(f32::INFINITY, |last| last.key)
    };
    let mut reach = f32::INFINITY;
    for chunk in first.chunks(CHUNK) {
        reach = add(&mut best, chunk);
    }
    let bound_of = |number: u64| from_ordered_bits((number >> 32) as u32);
    let mut next = 0;
    while next < bounds.len() && bound_of(bounds[next]) <= reach {
        let end = bounds.len().min(next + CHUNK);
        reach = add(&mut best, &bounds[next..end]);
        next = end;
    }
    let mut head = FoundHead {
        frontier: threshold,
        ..FoundHead::default()
    };
    if let Some(&bound) = bounds.get(next) {
        head.frontier = head.frontier.min(bound_of(bound));
    } else if let (true, Some(&last)) = (cut, bounds.last()) {
        head.frontier = head.frontier.min(bound_of(last));
        if bound_of(last) <= reach {
            head.overflow = OVERFLOW_SURVIVORS;
        }
    }
    if let Some(beyond) = best.get(k) {
        head.frontier = head.frontier.min(beyond.key);
    }
    best.truncate(k);
    best.retain(|f| f.key <= head.frontier);
    head.count = best.len() as u32;
    (head, best)
}
