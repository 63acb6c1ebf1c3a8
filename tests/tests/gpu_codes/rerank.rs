//! `rerank_survivors` against its twin.

use crate::common::{DOT_METRICS, normal, rng};
use crate::device::Device;
use crate::real_gpu::{gpu, small};
use crate::tier_arrays::HostTier;
use half::f16;
use omen_gpu::launch::rerank_survivors::rerank_survivors;
use omen_gpu::params::{QueryConsts, RerankSurvivorsParams, from_ordered_bits};
use omen_gpu::query::{prepare, scales};
use omen_gpu::{TierQuery, twin};
use omen_ivf::Metric;
use rand::Rng;

#[test]
fn rerank_survivors_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("rerank_survivors_matches_its_twin");
    let dims: &[usize] = if small() {
        &[1, 300]
    } else {
        &[1, 32, 100, 768, 1000, 1100, 4096, 16_000]
    };
    for &dim in dims {
        for metric in DOT_METRICS {
            let (n_slots, cap, n) = (200usize, 60usize, 5);
            let host = HostTier::random(&mut rng, metric, dim, n_slots);
            let (pitch, g) = (host.pitch, omen_ivf::bound::rounding(dim as u32));
            let mut queries = vec![0f32; n * pitch];
            let mut consts: Vec<QueryConsts> = Vec::new();
            for query in queries.chunks_exact_mut(pitch) {
                let vector: Vec<f32> = (0..dim).map(|_| 10.0 * normal(&mut rng)).collect();
                let prepared = TierQuery {
                    q: &vector,
                    q_norm: vector.iter().map(|x| x * x).sum::<f32>().sqrt(),
                    q_err: 1e-4,
                    lists: &[],
                    k: 1,
                };
                let mut halves = vec![f16::ZERO; 2 * pitch];
                consts.push(prepare(metric, &prepared, g, query, &mut halves).unwrap());
            }
            let mut survivors: Vec<u64> = (0..n * cap)
                .map(|_| rng.random_range(0..n_slots as u64) | rng.random_range(0..1 << 32) << 32)
                .collect();
            survivors.iter_mut().step_by(17).for_each(|x| *x = u64::MAX);
            // None, all, more than there is room for; bases before and after the counts.
            let counts = [0u32, cap as u32, cap as u32 + 9, 13, 31];
            let bases = [0u32, 3, 0, 20, 7];
            let with_base = rng.random_bool(0.5);
            let base = device.put(&bases);
            let uploaded = device.put(&survivors);
            let (rows, err) = (device.put(&host.rows), device.put(&host.err));
            let (on_device, on_device_consts) = (device.put(&queries), device.put(&consts));
            let on_device_counts = device.put(&counts);
            let params = RerankSurvivorsParams {
                rows: rows.address(),
                err: err.address(),
                queries: on_device.address(),
                consts: on_device_consts.address(),
                base: if with_base { base.address() } else { 0 },
                counts: on_device_counts.address(),
                survivors: uploaded.address(),
                n_slots: n_slots as u32,
                pitch: pitch as u32,
                metric: metric as u32,
                cap: cap as u32,
                tight_scale: scales(g).tight,
                reserved: 0,
            };
            let expected_survivors = rng.random_range(0..cap);
            rerank_survivors(&device.ctx, &device.stream, params, n, expected_survivors).unwrap();
            let ours: Vec<u64> = device.get(&uploaded);
            for q in 0..n {
                let first = if with_base { bases[q] as usize } else { 0 };
                let last = (counts[q] as usize).min(cap).max(first);
                let query = &queries[q * pitch..][..pitch];
                twin::rerank_survivors::rerank_survivors(
                    &host.arrays(),
                    query,
                    &consts[q],
                    scales(g),
                    &mut survivors[q * cap..][first..last],
                );
                let q_norm = query.iter().map(|x| x * x).sum::<f32>().sqrt();
                for i in q * cap..(q + 1) * cap {
                    let what = format!("{} dim {dim} query {q} survivor {i}", metric.name());
                    assert_eq!(ours[i] as u32, survivors[i] as u32, "{what}");
                    if ours[i] == survivors[i] {
                        continue;
                    }
                    assert!(
                        (q * cap + first..q * cap + last).contains(&i),
                        "{what} was touched"
                    );
                    let key = |x: u64| from_ordered_bits((x >> 32) as u32);
                    let (a, b) = (key(ours[i]), key(survivors[i]));
                    let norm = host.norm_sq[ours[i] as u32 as usize].sqrt();
                    let tolerance = match metric {
                        Metric::NegIp => 4e-6 * q_norm * norm,
                        _ => 1e-5 * (q_norm + norm),
                    };
                    assert!((a - b).abs() <= tolerance, "{what}: {a}, twin {b}");
                }
            }
        }
    }
}
