//! Which requests a tier can answer: the others get their own error before they can spoil a batch.

use super::Hosted;
use crate::message::{MAX_QUERIES, Refusal, Request, TierKey, decode_request};
use omen_gpu::GpuError;
use omen_gpu::batch::plan::{BatchPlan, TierShape, Wanted};
use omen_gpu::batch::tuning::Tuning;
use omen_gpu::context::Scans;
use omen_gpu::params::Found;
use omen_ivf::Metric;
use std::collections::HashMap;

/// Largest coordinate that the keys can bear (`omen_ivf` cuts queries there).
const MAX_ABS: f32 = (1u64 << 56) as f32;
/// Up to this the kernels certainly take k.
const SURE_K: u32 = 1024;

/// Checks a request against the tiers, and marks the lists that it says are out of date. Its head, with `probes` cut to the tier's lists, and the
/// lists that it gives.
/// `n_queries`: how many queries it was taken for.
pub(super) fn admit(
    tiers: &mut HashMap<TierKey, Hosted>,
    payload: &[u8],
    n_queries: usize,
) -> Result<(Request, Vec<u32>), Refusal> {
    let request = decode_request(payload).map_err(|e| GpuError::Other(e.to_string()))?;
    let mut head = request.head;
    let hosted = tiers.get_mut(&head.key).ok_or(Refusal::NotLoaded)?;
    let spec = hosted.tier.spec();
    let words = spec.query_words();
    if head.words as usize != words {
        return unsupported(format!("query of {} words in place of {words}", head.words));
    }
    if !(1..=n_queries.min(MAX_QUERIES)).contains(&(head.n_queries as usize)) {
        return unsupported(format!("{} queries in a request", head.n_queries));
    }
    hosted.note_stale(request.stale);
    let is_given = head.n_lists > 0;
    let can_find_k = match head.k {
        0 => false,
        // More could not be told.
        k if is_given => k as usize <= payload.len() / size_of::<Found>(),
        k => k <= SURE_K || can_find(k as usize),
    };
    if !can_find_k {
        return unsupported(format!("k = {} in a batch", head.k));
    }
    if is_given && !hosted.tier.parts().rows() {
        return unsupported("lists given to a hot tier of codes alone".into());
    }
    if spec.n_lists == 0 {
        return unsupported("an index without lists".into());
    }
    head.probes = head.probes.min(spec.n_lists as u32);
    let lists = request.lists.to_vec();
    if !are_different(&lists, spec.n_lists) {
        return unsupported("lists that are not there, or given twice".into());
    }
    let bears = |x: &f32| x.abs() <= MAX_ABS;
    let is_radius = |x: f32| x >= 0.0 && x.is_finite();
    let mut bounds = request.bounds.iter();
    // What follows the coordinates are bits of any pattern.
    let queries = request.vectors.chunks_exact(words);
    let in_range = queries.flat_map(|q| &q[..spec.dim]).all(bears)
        && bounds.all(|bound| is_radius(bound.q_norm) && is_radius(bound.q_err));
    if !in_range {
        return unsupported("query out of range".into());
    }
    // NaN is neither.
    if !(head.spread >= 0.0 && (0.0..0.1).contains(&head.rounding)) {
        return unsupported(format!(
            "spread {}, rounding {}",
            head.spread, head.rounding
        ));
    }
    Ok((head, lists))
}

/// Whether all these are lists of an index of `n_lists`, each given once.
fn are_different(lists: &[u32], n_lists: usize) -> bool {
    let mut is_given = vec![false; if lists.is_empty() { 0 } else { n_lists }];
    lists.iter().all(|&list| {
        let is_given = is_given.get_mut(list as usize);
        is_given.is_some_and(|is_given| !std::mem::replace(is_given, true))
    })
}

fn unsupported<T>(why: String) -> Result<T, Refusal> {
    Err(GpuError::Unsupported(why).into())
}

/// Whether a batch can have this k, whatever the tier.
fn can_find(k: usize) -> bool {
    let tier = TierShape {
        metric: Metric::L2,
        dim: 1,
        bit_words: 0,
        row_pitch: 32,
        n_lists: 1,
        n_slots: 1,
        longest: 1,
        scans: Scans::Fma,
        code_dim: 0,
        has_rows: true,
    };
    let wanted = Wanted {
        n_queries: 1,
        k,
        probes: None,
        spread: f32::INFINITY,
        rounding: 0.0,
        want_lists: true,
    };
    BatchPlan::new(tier, wanted, Tuning::default()).is_ok()
}
