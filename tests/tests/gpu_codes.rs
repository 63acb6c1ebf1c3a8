//! The kernels of the code scan against their CPU twins, on a real GPU. Without one, every test prints
//! `skipped: <reason>` and passes. `OMEN_GPU_TEST_SMALL=1` shrinks the sizes (for compute-sanitizer).

#[path = "gpu_codes/batch.rs"]
mod batch;
#[path = "../../crates/gpu/tests/common/mod.rs"]
mod common;
#[path = "gpu_codes/device.rs"]
mod device;
#[path = "gpu_parity/real_gpu.rs"]
mod real_gpu;
#[allow(dead_code)]
#[path = "gpu_parity/tier_arrays.rs"]
mod tier_arrays;

use batch::Batch;
use common::{METRICS, normal, rng};
use device::Device;
use half::f16;
use omen_gpu::launch::prepare_codes::{SHARED_DIM, prepare_codes};
use omen_gpu::launch::rerank_survivors::rerank_survivors;
use omen_gpu::launch::scan_codes::{CodeScan, scan_codes};
use omen_gpu::memory::pitch_of;
use omen_gpu::params::{
    CodeConsts, PrepareCodesParams, QueryConsts, RerankSurvivorsParams, from_ordered_bits,
};
use omen_gpu::query::{prepare, scales};
use omen_gpu::{Gpu, TierQuery, twin};
use omen_ivf::Metric;
use omen_ivf::rotation::Rotation;
use rand::Rng;
use real_gpu::{gpu, small};
use std::collections::HashMap;
use tier_arrays::HostTier;

/// All code scan kernels the device runs.
fn scans(gpu: &Gpu) -> Vec<CodeScan> {
    if gpu.context().is_some_and(|ctx| ctx.tensor_cores) {
        vec![CodeScan::Popc, CodeScan::Mma4, CodeScan::Mma16]
    } else {
        vec![CodeScan::Popc]
    }
}

#[test]
fn prepare_codes_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("prepare_codes_matches_its_twin");
    let dims: &[usize] = if small() {
        &[1, 65, 512, 700]
    } else {
        &[
            1, 64, 65, 500, 512, 513, 768, 1000, 1024, 1536, 4096, 8192, 8193, 16_000, 16_384,
        ]
    };
    for &dim in dims {
        let code_dim = dim.next_multiple_of(64);
        let (pitch, code_pitch) = (pitch_of(dim), (code_dim / 32).next_multiple_of(8));
        let rotation = Rotation::new(rng.random(), dim, code_dim);
        let n = rng.random_range(1..5);
        let mut queries = vec![0f32; n * pitch];
        for (q, query) in queries.chunks_exact_mut(pitch).enumerate() {
            // The last is zero, unless it is the only one.
            let scale = if q > 0 && q + 1 == n {
                0.0
            } else {
                10f32.powi(q as i32 * 3 - 3)
            };
            query[..dim]
                .iter_mut()
                .for_each(|x| *x = scale * normal(&mut rng));
        }
        let (uploaded, flips) = (device.put(&queries), device.put(&rotation.flip_bits()));
        for keep_rotated in [true, false] {
            if !keep_rotated && code_dim > SHARED_DIM {
                continue;
            }
            let rotated = device.put(&vec![f32::NAN; n * code_dim]);
            let planes = device.put(&vec![u32::MAX; n * 4 * code_pitch]);
            let codes = device.put(&vec![CodeConsts::default(); n]);
            let params = PrepareCodesParams {
                queries: uploaded.address(),
                flips: flips.address(),
                rotated: if keep_rotated { rotated.address() } else { 0 },
                planes: planes.address(),
                codes: codes.address(),
                pitch: pitch as u32,
                code_dim: code_dim as u32,
                code_pitch: code_pitch as u32,
                epsilon: 4.0,
            };
            prepare_codes(&device.ctx, &device.stream, params, n).unwrap();
            let planes: Vec<u32> = device.get(&planes);
            let codes: Vec<CodeConsts> = device.get(&codes);
            let rotated: Vec<f32> = device.get(&rotated);
            for q in 0..n {
                let what = format!("dim {dim} query {q}");
                let mut expected = vec![0; 4 * code_pitch];
                let (consts, vector) = twin::prepare_codes::prepare_codes(
                    &rotation,
                    &queries[q * pitch..][..dim],
                    4.0,
                    &mut expected,
                );
                if keep_rotated {
                    assert_eq!(
                        rotated[q * code_dim..][..code_dim],
                        vector,
                        "{what}: rotated"
                    );
                }
                assert_eq!(
                    planes[q * 4 * code_pitch..][..4 * code_pitch],
                    expected,
                    "{what}"
                );
                let near = |a: f32, b: f32| (a - b).abs() <= 1e-6 * b.abs();
                assert!(
                    near(codes[q].step, consts.step)
                        && near(codes[q].base, consts.base)
                        && (codes[q].slack - consts.slack).abs() <= 1e-4 * consts.slack,
                    "{what}: {:?}, twin {consts:?}",
                    codes[q]
                );
            }
        }
    }
}

/// Whether two keys agree, up to rounding of their bounds, whose terms are below a thousand.
fn near(metric: Metric, a: f32, b: f32) -> bool {
    let lost = 1e-3f32;
    let tolerance = match metric {
        Metric::NegIp => lost,
        _ => (lost / b.abs().max(1e-30)).min(lost.sqrt()) + 1e-5 * b.abs(),
    };
    a == b || (a - b).abs() <= tolerance
}

#[test]
fn scan_codes_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("scan_codes_matches_its_twin");
    let code_dims: &[usize] = if small() {
        &[64, 768, 2112]
    } else {
        &[64, 256, 512, 768, 1024, 1536, 2048, 2112, 4096, 16_000]
    };
    for &code_dim in code_dims {
        for metric in METRICS {
            for scan in scans(&gpu) {
                let n_slots = if small() { 300 } else { 1500 };
                let n_queries = rng.random_range(1..=2 * scan.queries() + 3);
                let mut batch = Batch::random(&mut rng, metric, code_dim, n_slots, n_queries, 300);
                let what = format!("{scan:?} {} code_dim {code_dim}", metric.name());
                for thresholds in ["none", "some"] {
                    if thresholds == "some" {
                        batch.thresholds_from_survivors(&mut rng);
                    }
                    batch.clear();
                    let mut twin = batch.clone();
                    twin.run_twin(false);
                    let loaded = batch.upload(&device);
                    let n_blocks = rng.random_range(1..=2 * batch.items.len() as u32);
                    let params = loaded.params(&batch, false);
                    scan_codes(&device.ctx, &device.stream, scan, params, n_blocks).unwrap();
                    loaded.download(&device, &mut batch);
                    assert!(batch.guard_is_intact(), "{what}: wrote past the survivors");
                    compare_survivors(&batch, &twin, &format!("{what} thresholds {thresholds}"));
                }
                batch.clear();
                let mut twin = batch.clone();
                twin.run_twin(true);
                let loaded = batch.upload(&device);
                let params = loaded.params(&batch, true);
                scan_codes(&device.ctx, &device.stream, scan, params, 7).unwrap();
                loaded.download(&device, &mut batch);
                assert_eq!(batch.counts, twin.counts, "{what}: counts of upper bounds");
                for (at, (&ours, &theirs)) in
                    batch.survivors.iter().zip(&twin.survivors).enumerate()
                {
                    let key = |x: u64| from_ordered_bits((x >> 32) as u32);
                    let agree = ours == theirs
                        || ours as u32 == theirs as u32
                            && ours != u64::MAX
                            && theirs != u64::MAX
                            && near(metric, key(ours), key(theirs));
                    assert!(agree, "{what}: upper bound {at}: {ours:x}, twin {theirs:x}");
                }
            }
        }
    }
}

/// Both sides' survivors agree, up to rounding of the keys and what that changes at the threshold.
fn compare_survivors(ours: &Batch, twin: &Batch, what: &str) {
    for q in 0..ours.consts.len() {
        let of = |batch: &Batch| -> HashMap<u32, f32> {
            let n = batch.counts[q] as usize;
            assert!(n <= batch.cap, "{what}: room for all");
            let list = &batch.survivors[q * batch.cap..][..n];
            let map: HashMap<u32, f32> = list
                .iter()
                .map(|x| (*x as u32, from_ordered_bits((x >> 32) as u32)))
                .collect();
            assert_eq!(map.len(), n, "{what}: a slot came twice");
            map
        };
        let (ours, theirs) = (of(ours), of(twin));
        for slot in ours.keys().chain(theirs.keys()) {
            let (a, b) = match (ours.get(slot), theirs.get(slot)) {
                (Some(&a), Some(&b)) => (a, b),
                // On one side only: at the threshold.
                (Some(&key), None) | (None, Some(&key)) => (twin.thresholds[q], key),
                (None, None) => unreachable!("the slot came from one of them"),
            };
            assert!(
                near(twin.metric, a, b),
                "{what}: query {q} slot {slot}: {a}, {b}"
            );
        }
    }
}

#[test]
fn scan_codes_counts_what_has_no_room() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("scan_codes_counts_what_has_no_room");
    for scan in scans(&gpu) {
        for upper in [false, true] {
            let mut batch = Batch::random(&mut rng, Metric::L2, 512, 400, 5, 256);
            batch.cap = 11;
            batch.clear();
            let mut twin = batch.clone();
            twin.run_twin(upper);
            let loaded = batch.upload(&device);
            let params = loaded.params(&batch, upper);
            scan_codes(&device.ctx, &device.stream, scan, params, 3).unwrap();
            loaded.download(&device, &mut batch);
            assert_eq!(batch.counts, twin.counts, "{scan:?} upper {upper}");
            assert!(
                batch.guard_is_intact(),
                "{scan:?} upper {upper}: wrote past the survivors"
            );
        }
        // No item, no work.
        let mut batch = Batch::random(&mut rng, Metric::L2, 512, 40, 2, 40);
        batch.items.clear();
        let before = batch.survivors.clone();
        let loaded = batch.upload(&device);
        let params = loaded.params(&batch, false);
        scan_codes(&device.ctx, &device.stream, scan, params, 3).unwrap();
        loaded.download(&device, &mut batch);
        assert_eq!(
            (&batch.counts[..], &batch.survivors),
            (&[0, 0][..], &before),
            "{scan:?}"
        );
    }
}

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
        for metric in METRICS {
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
                    scales(g).tight,
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
