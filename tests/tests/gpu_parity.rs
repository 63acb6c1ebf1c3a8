//! Each launcher against its CPU twin, on a real GPU. Without one, every test prints
//! `skipped: <reason>` and passes. `OMEN_GPU_TEST_SMALL=1` shrinks the sizes (for compute-sanitizer).

#[path = "../../crates/gpu/tests/common/mod.rs"]
mod common;
#[path = "gpu_parity/dense.rs"]
mod dense;
#[path = "gpu_parity/real_gpu.rs"]
mod real_gpu;
#[path = "gpu_parity/scratch.rs"]
mod scratch;
#[path = "gpu_parity/tier_arrays.rs"]
mod tier_arrays;

use common::{BIT_METRICS, METRICS, normal, rng};
use omen_gpu::Gpu;
use omen_gpu::context::Scans;
use omen_gpu::launch::rerank::rerank;
use omen_gpu::launch::scan::{Width, scan};
use omen_gpu::launch::select::select;
use omen_gpu::params::{Found, ScanItem, ScanMode, from_ordered_bits, ordered_bits};
use omen_gpu::twin::rerank::rerank_one;
use omen_gpu::twin::scan::{ScanArrays, scan_item};
use omen_gpu::twin::select::select_smallest;
use omen_ivf::Metric;
use rand::Rng;
use real_gpu::{gpu, small};
use scratch::Scratch;
use std::collections::HashMap;
use tier_arrays::{DeviceTier, HostTier};

/// All scan kernels the device runs for a metric.
fn widths(gpu: &Gpu, metric: Metric) -> Vec<Width> {
    if let Some(only) = Width::of_metric(metric) {
        return vec![only];
    }
    let scans = gpu.context().map_or(Scans::Fma, |ctx| ctx.scans);
    let mut all = vec![Width::Fma];
    if scans >= Scans::Mma {
        all.extend(Width::all(metric, true));
    }
    if scans == Scans::Wgmma {
        all.push(Width::Wgmma);
    }
    all
}

#[test]
fn scan_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng("scan_matches_its_twin");
    let dims: &[usize] = if small() {
        &[1, 33, 300, 1100]
    } else {
        &[1, 3, 31, 32, 33, 100, 768, 1000, 1536, 4096, 16_000]
    };
    for &dim in dims {
        for metric in METRICS.into_iter().chain(BIT_METRICS) {
            for width in widths(&gpu, metric) {
                let n_slots = if small() { 400 } else { 1100 };
                let host = HostTier::random(&mut rng, metric, dim, n_slots);
                let device = DeviceTier::new(&gpu, &host);
                let n_queries = rng.random_range(1..=width.queries() + 3);
                let mut scratch = Scratch::random(&mut rng, &host, n_queries, 64, n_slots + 9);
                // Items of any number of rows and queries up to the kernel's, not aligned to anything.
                let mut first = 0;
                while first < n_slots {
                    let n = rng.random_range(1..=width.rows().min(n_slots - first));
                    let from = rng.random_range(0..n_queries);
                    scratch.items.push(ScanItem {
                        first_slot: first as u32,
                        first_row: 0,
                        first_query: from as u32,
                        n_rows: n as u16,
                        n_queries: rng.random_range(1..=width.queries().min(n_queries - from))
                            as u16,
                    });
                    first += n;
                }
                scratch.n_halves = if width == Width::Wgmma {
                    rng.random_range(1..=2)
                } else {
                    2
                };
                for thresholds in ["none", "some"] {
                    if thresholds == "some" {
                        scratch.thresholds_from_survivors(&mut rng);
                    }
                    scratch.clear_survivors();
                    let mut twin = scratch.clone();
                    let loaded = scratch.upload(&gpu);
                    scan(
                        &loaded.ctx,
                        &loaded.stream,
                        width,
                        loaded.scan_params(&device),
                        0,
                        scratch.items.len(),
                    )
                    .unwrap();
                    loaded.download(&mut scratch);

                    let tier = host.arrays();
                    let items = twin.items.clone();
                    let mut arrays = ScanArrays {
                        queries: &twin.queries,
                        consts: &twin.consts,
                        group: &twin.group,
                        thresholds: &twin.thresholds,
                        counts: &mut twin.counts,
                        survivors: &mut twin.survivors,
                        cap: twin.cap,
                        loose_scale: twin.scales.loose,
                        pairs: &[],
                        places: &[],
                        mode: ScanMode::Append,
                        n_halves: scratch.n_halves,
                        row_step: 1,
                    };
                    items
                        .iter()
                        .for_each(|item| scan_item(&tier, &mut arrays, item));
                    let what = format!(
                        "{width:?} {} dim {dim} thresholds {thresholds}",
                        metric.name()
                    );
                    compare_survivors(&host, &scratch, &twin, &what);
                }
            }
        }
    }
}

/// Both sides' survivors agree, up to rounding of the keys and what that changes at the threshold.
fn compare_survivors(host: &HostTier, gpu: &Scratch, twin: &Scratch, what: &str) {
    for q in 0..gpu.consts.len() {
        let of = |s: &Scratch| -> HashMap<u32, f32> {
            assert!(s.counts[q] as usize <= s.cap, "{what}: room for all");
            let list = &s.survivors[q * s.cap..][..s.counts[q] as usize];
            let map: HashMap<u32, f32> = list
                .iter()
                .map(|x| (*x as u32, from_ordered_bits((x >> 32) as u32)))
                .collect();
            assert_eq!(map.len(), list.len(), "{what}: a slot came twice");
            map
        };
        let (ours, theirs) = (of(gpu), of(twin));
        for slot in ours.keys().chain(theirs.keys()) {
            // The slack covers every way to round, and a root doubles what is lost near 0.
            let norm = host.norm_sq[*slot as usize].sqrt();
            let slack = if gpu.n_halves == 2 {
                twin.consts[q].slack
            } else {
                twin.consts[q].slack_high
            };
            let lost = slack * norm * 2.0 + 1e-6 * (twin.consts[q].norm_sq + norm * norm);
            let near = |key: f32| {
                if host.metric.is_of_bits() {
                    0.0 // counts are exact
                } else if host.metric == Metric::NegIp {
                    lost
                } else {
                    (lost / key.max(1e-30)).min(lost.sqrt() * 2.0) + 1e-5 * key
                }
            };
            match (ours.get(slot), theirs.get(slot)) {
                (Some(&a), Some(&b)) => assert!(
                    a == b || (a - b).abs() <= near(b),
                    "{what}: query {q} slot {slot}: {a}, twin {b}"
                ),
                (Some(&key), None) | (None, Some(&key)) => {
                    let threshold = twin.thresholds[q];
                    assert!(
                        threshold.is_finite(),
                        "{what}: query {q} slot {slot} on one side only"
                    );
                    assert!(
                        (threshold - key).abs() <= near(key),
                        "{what}: query {q} slot {slot}: {key}, threshold {threshold}"
                    );
                }
                (None, None) => unreachable!("the slot came from one of them"),
            }
        }
    }
}

#[test]
fn scan_counts_what_has_no_room() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng("scan_counts_what_has_no_room");
    let metrics = [Metric::L2, Metric::L1, Metric::Hamming];
    let all = metrics.map(|metric| widths(&gpu, metric).into_iter().map(move |w| (metric, w)));
    for (metric, width) in all.into_iter().flatten() {
        let mut host = HostTier::random(&mut rng, metric, 40, 120);
        host.live.fill(u32::MAX);
        let device = DeviceTier::new(&gpu, &host);
        let mut scratch = Scratch::random(&mut rng, &host, 2, 5, 50);
        scratch.items.push(ScanItem {
            first_slot: 0,
            first_row: 0,
            first_query: 0,
            n_rows: 120,
            n_queries: 2,
        });
        let loaded = scratch.upload(&gpu);
        scan(
            &loaded.ctx,
            &loaded.stream,
            width,
            loaded.scan_params(&device),
            0,
            1,
        )
        .unwrap();
        select(&loaded.ctx, &loaded.stream, loaded.select_params(), 2).unwrap();
        loaded.download(&mut scratch);
        assert_eq!(
            (&scratch.counts[..], &scratch.overflows[..]),
            (&[5, 5][..], &[1, 1][..]),
            "{width:?}"
        );
        assert!(
            scratch.guard_is_intact(),
            "{width:?} wrote past the survivors"
        );
    }
}

#[test]
fn select_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng("select_matches_its_twin");
    let host = HostTier::random(&mut rng, Metric::L2, 1, 1);
    for (cap, keep) in [
        (1, 1),
        (40, 7),
        (2000, 74),
        (20_000, 74),
        (20_000, 12_564),
        (70_000, 65_600),
    ] {
        if small() && cap > 2000 {
            continue;
        }
        let n_queries = 12;
        let mut scratch = Scratch::random(&mut rng, &host, n_queries, keep, cap);
        for q in 0..n_queries {
            let n = match q {
                0 => 0,
                1 => keep,
                2 => cap,
                3 => cap + 5,
                4 => keep.saturating_sub(1),
                _ => rng.random_range(0..=cap),
            };
            scratch.counts[q] = n as u32;
            let keys = q % 4;
            for (i, x) in scratch.survivors[q * cap..(q + 1) * cap]
                .iter_mut()
                .enumerate()
            {
                let key: f32 = match keys {
                    0 => normal(&mut rng),
                    1 => 1.0,
                    2 => 1.0 + rng.random_range(0..3) as f32 * f32::EPSILON,
                    _ => [f32::NEG_INFINITY, -1.0, 0.0, 1e30][rng.random_range(0..4)],
                };
                *x = (u64::from(ordered_bits(key)) << 32) | (i as u64 * 7919 % 100_003);
            }
        }
        let mut twin = scratch.clone();
        let loaded = scratch.upload(&gpu);
        for _ in 0..2 {
            // The second time nothing is left to do.
            select(
                &loaded.ctx,
                &loaded.stream,
                loaded.select_params(),
                n_queries,
            )
            .unwrap();
        }
        loaded.download(&mut scratch);
        for q in 0..n_queries {
            let what = format!("cap {cap} keep {keep} query {q}");
            let survivors = &mut twin.survivors[q * cap..(q + 1) * cap];
            select_smallest(
                survivors,
                &mut twin.counts[q],
                &mut twin.thresholds[q],
                &mut twin.overflows[q],
                keep,
            );
            assert_eq!(scratch.counts[q], twin.counts[q], "{what}");
            assert_eq!(scratch.overflows[q], twin.overflows[q], "{what}");
            assert_eq!(
                scratch.thresholds[q].to_bits(),
                twin.thresholds[q].to_bits(),
                "{what}"
            );
            let n = twin.counts[q] as usize;
            let mut ours = scratch.survivors[q * cap..][..n].to_vec();
            ours.sort_unstable();
            survivors[..n].sort_unstable();
            assert_eq!(ours, survivors[..n], "{what}");
        }
        assert!(
            scratch.guard_is_intact(),
            "cap {cap}: wrote past the survivors"
        );
    }
}

#[test]
fn rerank_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng("rerank_matches_its_twin");
    for dim in if small() {
        vec![1, 40]
    } else {
        vec![1, 32, 100, 768, 1000, 4096, 16_000]
    } {
        for metric in METRICS.into_iter().chain(BIT_METRICS) {
            let host = HostTier::random(&mut rng, metric, dim, 200);
            let device = DeviceTier::new(&gpu, &host);
            let (n_queries, keep) = (3, 21);
            let mut scratch = Scratch::random(&mut rng, &host, n_queries, keep, 40);
            for q in 0..n_queries {
                scratch.counts[q] = [0, 13, 21][q];
                for x in &mut scratch.survivors[q * 40..(q + 1) * 40] {
                    *x = rng.random_range(0..200) | (rng.random_range(0..1 << 32) << 32);
                }
            }
            let loaded = scratch.upload(&gpu);
            rerank(
                &loaded.ctx,
                &loaded.stream,
                loaded.rerank_params(&device),
                n_queries,
            )
            .unwrap();
            loaded.download(&mut scratch);
            for q in 0..n_queries {
                let query = scratch.query(q);
                for i in 0..keep {
                    let ours = scratch.out[q * keep + i];
                    if i >= scratch.counts[q] as usize {
                        assert_eq!(ours, Found::default(), "written beyond the count");
                        continue;
                    }
                    let twin = rerank_one(
                        &host.arrays(),
                        query,
                        &scratch.consts[q],
                        scratch.scales,
                        scratch.survivors[q * 40 + i],
                    );
                    assert_eq!(
                        (ours.tid_block, ours.tid_offset, ours.slot),
                        (twin.tid_block, twin.tid_offset, twin.slot)
                    );
                    let slot = scratch.survivors[q * 40 + i] as u32 as usize;
                    let norm = host.norm_sq[slot].sqrt();
                    let size = if metric == Metric::NegIp {
                        norm * scratch.consts[q].norm
                    } else {
                        twin.key + host.err[slot]
                    };
                    let near = match metric.is_of_bits() {
                        true => 0.0,
                        false => size * 1e-5 + 1e-5,
                    };
                    let agree = |a: f32, b: f32| a == b || (a - b).abs() <= near;
                    assert!(
                        agree(ours.key, twin.key) && agree(ours.ceiling, twin.ceiling),
                        "dim {dim}: {ours:?}, twin {twin:?}"
                    );
                }
            }
        }
    }
}
