//! `finish_selected` against `twin::finish`. Coordinates are small integers, of which sums are exact: so many keys are equal on both
//! sides, and the others far apart.

use crate::arrays::{OnDevice, OnHost};
use crate::common::{BIT_METRICS, METRICS, rng};
use crate::device::Device;
use crate::queries::Queries;
use crate::real_gpu::{gpu, small};
use crate::tier_arrays::{DeviceTier, HostTier};
use half::f16;
use omen_gpu::launch::finish::{MAX_KEEP, finish};
use omen_gpu::params::{Found, FoundHead, NOTHING, QueryConsts, RerankParams};
use omen_gpu::twin::finish::finish_one;
use omen_gpu::{Gpu, twin};
use omen_ivf::Metric;
use rand::Rng;
use rand::seq::SliceRandom;
use rand::seq::index::sample;

/// A tier of integer rows, a third of them copies, with one radius but for a few infinite ones, and tids that share blocks.
fn integer_tier(rng: &mut impl Rng, metric: Metric, dim: usize, n_slots: usize) -> HostTier {
    let mut host = HostTier::random(rng, metric, dim, n_slots);
    let of_bits = metric.is_of_bits();
    let width = if of_bits { host.pitch } else { dim };
    for slot in 0..n_slots {
        let from = slot * host.pitch;
        if slot > 0 && rng.random_range(0..3) == 0 {
            let other = rng.random_range(0..slot) * host.pitch;
            host.rows.copy_within(other..other + width, from);
        } else if !of_bits {
            for x in &mut host.rows[from..from + dim] {
                *x = f16::from_f32(rng.random_range(-2..3) as f32);
            }
        }
        host.err[slot] = if of_bits {
            0.0
        } else if rng.random_range(0..40) == 0 {
            f32::INFINITY
        } else {
            0.25
        };
    }
    if of_bits {
        host.count_bits();
    }
    let mut offsets: Vec<u64> = (0..n_slots as u64)
        .map(|i| i * 1_000_003 % (1 << 32))
        .collect();
    offsets.shuffle(rng);
    for (tid, offset) in host.tids.iter_mut().zip(offsets) {
        *tid = offset << 32 | [0, 1, 0x8000_0000, 0xFFFF_FFFE][rng.random_range(0..4)];
    }
    host
}

/// A threshold that cuts none, all, or somewhere between two keys.
fn threshold_of(rng: &mut impl Rng, keys: &[f32]) -> f32 {
    let mut keys: Vec<f32> = keys.iter().copied().filter(|key| key.is_finite()).collect();
    keys.sort_by(f32::total_cmp);
    keys.dedup();
    match rng.random_range(0..4) {
        0 => f32::INFINITY,
        1 => keys.first().map_or(0.0, |key| key - 1.0),
        _ if keys.len() < 2 => f32::INFINITY,
        _ => {
            let at = rng.random_range(1..keys.len());
            (keys[at - 1] + keys[at]) / 2.0
        }
    }
}

struct Case {
    n_queries: usize,
    cap: usize,
    keep: usize,
    k: usize,
    on_host: bool,
}

/// Survivors with keys that do not matter, some of them nothing, of a number of queries.
fn survivors_of(rng: &mut impl Rng, host: &HostTier, case: &Case) -> (Vec<u64>, Vec<u32>) {
    let mut survivors = vec![NOTHING; case.n_queries * case.cap];
    let mut counts = Vec::new();
    for (q, of_query) in survivors.chunks_exact_mut(case.cap).enumerate() {
        let count = match q % 4 {
            0 => case.keep,
            // More than are kept: the others are not looked at.
            1 => case.cap,
            _ => rng.random_range(0..=case.keep),
        };
        let nothing = [0.0, 0.0, 0.2, 1.0][rng.random_range(0..4)];
        let slots = sample(rng, host.err.len(), count.min(host.err.len()));
        for (x, slot) in of_query.iter_mut().zip(slots) {
            if !rng.random_bool(nothing) {
                *x = u64::from(rng.random::<u32>() >> 1) << 32 | slot as u64;
            }
        }
        counts.push(count as u32);
    }
    (survivors, counts)
}

fn check_case(gpu: &Gpu, device: &Device, rng: &mut impl Rng, host: &HostTier, case: &Case) {
    let (n, k) = (case.n_queries, case.k);
    let raw: Vec<f32> = (0..n * host.dim)
        .map(|_| rng.random_range(-2..3) as f32)
        .collect();
    let queries = match host.metric.is_of_bits() {
        true => Queries::random(rng, host.metric, host.dim, n),
        false => Queries::new(host.metric, host.dim, &raw),
    };
    let (survivors, counts) = survivors_of(rng, host, case);
    let kept = |q: usize| {
        let count = (counts[q] as usize).min(case.keep);
        &survivors[q * case.cap..][..count]
    };
    let thresholds: Vec<f32> = (0..n)
        .map(|q| {
            let key = |&survivor: &u64| {
                let consts = &queries.consts[q];
                let tier = host.arrays();
                let slot = survivor as u32; // the low half
                twin::rerank::tight_bounds(&tier, queries.vector(q), consts, queries.scales, slot).0
            };
            let there = kept(q).iter().filter(|&&x| x != NOTHING);
            threshold_of(rng, &there.map(key).collect::<Vec<f32>>())
        })
        .collect();
    let overflows: Vec<u32> = (0..n).map(|_| rng.random_range(0..4)).collect();

    let tier = DeviceTier::new(gpu, host);
    let inputs = (
        device.put(&queries.vectors),
        device.put(&queries.consts),
        device.put(&survivors),
        device.put(&counts),
        device.put(&thresholds),
        device.put(&overflows),
    );
    let (no_found, no_heads) = (vec![Found::default(); n * k], vec![FoundHead::default(); n]);
    let on_device = (
        OnDevice::new(device, &no_found),
        OnDevice::new(device, &no_heads),
    );
    let on_host = (
        OnHost::new(device, &no_found),
        OnHost::new(device, &no_heads),
    );
    let (out, heads) = if case.on_host {
        (on_host.0.address(), on_host.1.address())
    } else {
        (on_device.0.address(), on_device.1.address())
    };
    let params = RerankParams {
        tier: tier.view(),
        queries: inputs.0.address(),
        consts: inputs.1.address(),
        survivors: inputs.2.address(),
        counts: inputs.3.address(),
        out,
        thresholds: inputs.4.address(),
        heads,
        overflows: inputs.5.address(),
        cap: case.cap as u32,
        keep: case.keep as u32,
        tight_scale: queries.scales.tight,
        wide_scale: queries.scales.wide,
        k: k as u32,
        reserved: 0,
    };
    finish(&device.ctx, &device.stream, params, n).unwrap();

    let what = format!(
        "{} dim {}, {n} queries, keep {} of cap {}, k {k}, results on the host: {}",
        host.metric.name(),
        host.dim,
        case.keep,
        case.cap,
        case.on_host
    );
    let (of_out, of_heads) = (format!("{what}: out"), format!("{what}: heads"));
    let (found, heads) = if case.on_host {
        (
            on_host.0.get(device, &of_out),
            on_host.1.get(device, &of_heads),
        )
    } else {
        (
            on_device.0.get(device, &of_out),
            on_device.1.get(device, &of_heads),
        )
    };
    for q in 0..n {
        let what = format!(
            "{what}: query {q} of {} survivors, threshold {}",
            kept(q).len(),
            thresholds[q]
        );
        let (head, expected) = finish_one(
            &host.arrays(),
            queries.vector(q),
            &queries.consts[q],
            queries.scales,
            kept(q),
            thresholds[q],
            k,
        );
        let ours = (&heads[q], &found[q * k..(q + 1) * k]);
        let head = FoundHead {
            overflow: overflows[q],
            ..head
        };
        check_answer(ours, (&head, &expected), &queries.consts[q], &what);
    }
}

/// Whether an answer is the twin's, up to rounding of the keys.
fn check_answer(
    (ours, found): (&FoundHead, &[Found]),
    (twin, expected): (&FoundHead, &[Found]),
    consts: &QueryConsts,
    what: &str,
) {
    // What the norm contributes may cancel out.
    let size = 1.0 + consts.norm;
    let near = |a: f32, b: f32| a == b || (a - b).abs() <= 1e-6 * (b.abs() + size);
    assert!(
        ours.count == twin.count
            && ours.overflow == twin.overflow
            && near(ours.frontier, twin.frontier),
        "{what}: {ours:?}, twin {twin:?}"
    );
    for (i, (ours, twin)) in found.iter().zip(expected).enumerate() {
        assert!(
            near(ours.key, twin.key)
                && near(ours.ceiling, twin.ceiling)
                && (ours.tid_block, ours.tid_offset, ours.slot)
                    == (twin.tid_block, twin.tid_offset, twin.slot),
            "{what}: place {i}: {ours:?}, twin {twin:?}"
        );
    }
}

#[test]
fn finish_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("finish_matches_its_twin");
    let dims: &[usize] = if small() {
        &[1, 40]
    } else {
        &[1, 3, 32, 100, 768, 1000, 4096, 16_000]
    };
    for &dim in dims {
        for metric in METRICS.into_iter().chain(BIT_METRICS) {
            let n_slots = if small() { 100 } else { 2300 };
            let host = integer_tier(&mut rng, metric, dim, n_slots);
            let most = if small() { 64 } else { MAX_KEEP };
            // Few queries have large blocks, many have small ones.
            let many = device.ctx.multiprocessors() + 5;
            for (n_queries, keep) in [(4, 1), (3, 26), (5, most), (many, rng.random_range(1..40))] {
                if n_queries == many && (small() || dim > 4096) {
                    continue;
                }
                let case = Case {
                    n_queries,
                    cap: keep + rng.random_range(0..20),
                    keep,
                    k: rng.random_range(1..=keep + 2),
                    on_host: rng.random(),
                };
                check_case(&gpu, &device, &mut rng, &host, &case);
            }
        }
    }
}
