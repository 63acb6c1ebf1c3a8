//! `finish_bounded` against `twin::finish_bounded`, on integer coordinates (see `finish.rs`).

use crate::arrays::{OnDevice, OnHost};
use crate::common::{METRICS, rng};
use crate::device::Device;
use crate::finish::{check_answer, integer_tier, threshold_of};
use crate::queries::Queries;
use crate::real_gpu::{gpu, small};
use crate::tier_arrays::{DeviceTier, HostTier};
use omen_gpu::Gpu;
use omen_gpu::launch::finish_bounded::{MAX_BOUNDS, MAX_K, finish_bounded};
use omen_gpu::params::{
    FinishBoundedParams, Found, FoundHead, NOTHING, OVERFLOW_SURVIVORS, ordered_bits,
};
use omen_gpu::twin::finish_bounded::finish_bounded_one;
use omen_gpu::twin::rerank::tight_bounds;
use omen_ivf::Metric;
use rand::Rng;
use rand::seq::index::sample;

struct Case {
    n_queries: usize,
    cap: usize,
    k: usize,
}

/// A query's survivors: some of a first round, a few of them nothing, then some with lower bounds.
struct Survivors {
    numbers: Vec<u64>,
    base: usize,
    /// May be more than there is room for.
    count: usize,
    keys: Vec<f32>,
}

impl Survivors {
    /// `key(slot)`: the exact key.
    fn random(rng: &mut impl Rng, host: &HostTier, cap: usize, key: impl Fn(u32) -> f32) -> Self {
        let most = cap.min(host.err.len());
        let n = rng.random_range(most / 2..=most);
        let base = rng.random_range(0..=n.min(200));
        let mut numbers = Vec::with_capacity(cap);
        let mut keys = Vec::new();
        for slot in sample(rng, host.err.len(), n) {
            let slot = slot as u32;
            if numbers.len() < base && rng.random_range(0..10) == 0 {
                numbers.push(NOTHING);
                continue;
            }
            let key = key(slot);
            keys.push(key);
            let below = rng.random_range(0.01..1.0) * (1.0 + 0.05 * key.abs().min(1e6));
            let bound = match host.metric {
                Metric::NegIp => key - below,
                Metric::L2 | Metric::Cosine => (key - below).max(0.0),
            };
            numbers.push(u64::from(ordered_bits(bound)) << 32 | u64::from(slot));
        }
        let lost = n == cap && rng.random();
        numbers.resize(cap, NOTHING);
        Self {
            numbers,
            base,
            count: if lost { cap + 9 } else { n },
            keys,
        }
    }
}

fn check_case(gpu: &Gpu, device: &Device, rng: &mut impl Rng, host: &HostTier, case: &Case) {
    let (n, cap, k) = (case.n_queries, case.cap, case.k);
    let raw: Vec<f32> = (0..n * host.dim)
        .map(|_| rng.random_range(-2..3) as f32)
        .collect();
    let queries = Queries::new(host.metric, host.dim, &raw);
    let (tier, scales) = (host.arrays(), queries.scales);
    let survivors: Vec<Survivors> = (0..n)
        .map(|q| {
            let (vector, consts) = (queries.vector(q), &queries.consts[q]);
            let key = |slot| tight_bounds(&tier, vector, consts, scales, slot).0;
            Survivors::random(rng, host, cap, key)
        })
        .collect();
    let thresholds: Vec<f32> = survivors
        .iter()
        .map(|of_query| threshold_of(rng, &of_query.keys))
        .collect();
    let overflows: Vec<u32> = (0..n).map(|_| 2 * rng.random_range(0..2)).collect();
    let numbers: Vec<u64> = survivors.iter().flat_map(|s| s.numbers.clone()).collect();
    let counts: Vec<u32> = survivors.iter().map(|s| s.count as u32).collect();
    let base: Vec<u32> = survivors.iter().map(|s| s.base as u32).collect();

    let on_device = DeviceTier::new(gpu, host);
    let inputs = (
        device.put(&queries.vectors),
        device.put(&queries.consts),
        device.put(&numbers),
        device.put(&counts),
        device.put(&base),
        device.put(&thresholds),
        device.put(&overflows),
    );
    let out = OnHost::new(device, &vec![Found::default(); n * k]);
    let heads = OnDevice::new(device, &vec![FoundHead::default(); n]);
    let params = FinishBoundedParams {
        tier: on_device.view(),
        queries: inputs.0.address(),
        consts: inputs.1.address(),
        survivors: inputs.2.address(),
        counts: inputs.3.address(),
        base: inputs.4.address(),
        thresholds: inputs.5.address(),
        overflows: inputs.6.address(),
        out: out.address(),
        heads: heads.address(),
        cap: cap as u32,
        k: k as u32,
        tight_scale: scales.tight,
        wide_scale: scales.wide,
        ..FinishBoundedParams::default()
    };
    finish_bounded(&device.ctx, &device.stream, params, n).unwrap();

    let what = format!(
        "{} dim {}, {n} queries, cap {cap}, k {k}",
        host.metric.name(),
        host.dim
    );
    let found = out.get(device, &format!("{what}: out"));
    let heads = heads.get(device, &format!("{what}: heads"));
    for (q, of_query) in survivors.iter().enumerate() {
        let (first, bounded) = of_query.numbers[..of_query.count.min(cap)].split_at(of_query.base);
        let what = format!(
            "{what}: query {q} of {} + {} survivors, threshold {}",
            first.len(),
            bounded.len(),
            thresholds[q]
        );
        let consts = &queries.consts[q];
        let (vector, threshold) = (queries.vector(q), thresholds[q]);
        let (mut head, expected) =
            finish_bounded_one(&tier, vector, consts, scales, first, bounded, threshold, k);
        head.overflow |= overflows[q];
        if of_query.count > cap {
            head.overflow |= OVERFLOW_SURVIVORS;
        }
        let ours = (&heads[q], &found[q * k..(q + 1) * k]);
        check_answer(ours, (&head, &expected), consts, &what);
    }
}

#[test]
fn finish_bounded_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("finish_bounded_matches_its_twin");
    let dims: &[usize] = if small() {
        &[1, 40]
    } else {
        &[1, 3, 100, 768, 1000, 4096, 16_000]
    };
    for &dim in dims {
        for metric in METRICS {
            // More survivors than are looked at, where rows are short.
            let n_slots = match dim {
                _ if small() => 300,
                0..=100 => MAX_BOUNDS + 2000,
                _ => 1500,
            };
            let host = integer_tier(&mut rng, metric, dim, n_slots);
            for k in [1, 10, rng.random_range(1..200), MAX_K] {
                let case = Case {
                    n_queries: rng.random_range(1..6),
                    cap: [64, 1000, n_slots, n_slots + 50][rng.random_range(0..4)],
                    k,
                };
                check_case(&gpu, &device, &mut rng, &host, &case);
            }
        }
    }
}
