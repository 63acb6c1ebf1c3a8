//! The kernels of the code scan against their CPU twins, on a real GPU. Without one, every test prints
//! `skipped: <reason>` and passes. `OMEN_GPU_TEST_SMALL=1` shrinks the sizes (for compute-sanitizer).

#[path = "gpu_codes/batch.rs"]
mod batch;
#[path = "../../crates/gpu/tests/common/mod.rs"]
mod common;
#[path = "gpu_codes/device.rs"]
mod device;
#[path = "gpu_codes/loaded.rs"]
mod loaded;
#[path = "gpu_parity/real_gpu.rs"]
mod real_gpu;
#[path = "gpu_codes/rerank.rs"]
mod rerank;
#[allow(dead_code)]
#[path = "gpu_parity/tier_arrays.rs"]
mod tier_arrays;

use batch::Batch;
use common::{DOT_METRICS, normal, rng};
use device::Device;
use omen_gpu::launch::prepare_codes::{SHARED_DIM, prepare_codes};
use omen_gpu::launch::scan_codes::{CodeScan, scan_codes};
use omen_gpu::memory::pitch_of;
use omen_gpu::params::{CodeConsts, PrepareCodesParams, from_ordered_bits};
use omen_gpu::{Gpu, twin};
use omen_ivf::Metric;
use omen_ivf::rotation::Rotation;
use rand::Rng;
use real_gpu::{gpu, small};
use std::collections::HashMap;

/// All code scan kernels the device runs.
fn scans(gpu: &Gpu) -> Vec<CodeScan> {
    if gpu
        .context()
        .is_some_and(|ctx| ctx.scans >= omen_gpu::context::Scans::Mma)
    {
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
        for metric in DOT_METRICS {
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
