//! Scans without items: every row against every query.

use crate::common::{METRICS, rng};
use crate::real_gpu::{gpu, small};
use crate::scratch::Scratch;
use crate::tier_arrays::{DeviceTier, HostTier};
use crate::{compare_survivors, widths};
use omen_gpu::Gpu;
use omen_gpu::launch::scan::{Width, scan_planned};
use omen_gpu::params::{ScanItem, ScanMode, ScanParams};
use omen_gpu::twin::scan::{ScanArrays, centroid_rank, scan_item};
use omen_ivf::Metric;
use rand::Rng;

/// What stays where no rank is written.
const UNWRITTEN: u64 = u64::MAX;

/// (rows, queries) of a scan: odd and even numbers of row tiles, one row, all widths of the product, and more pairs of tiles than a
/// device has multiprocessors.
fn shapes(rng: &mut impl Rng) -> Vec<(usize, usize)> {
    let mut shapes = vec![
        (1, 1),
        (1, rng.random_range(257..=600)),
        (128, rng.random_range(1..=16)),
        (129, rng.random_range(17..=64)),
        (rng.random_range(257..=384), rng.random_range(65..=128)),
        (rng.random_range(385..=512), rng.random_range(129..=256)),
        (rng.random_range(513..=640), rng.random_range(257..=600)),
    ];
    if !small() {
        shapes.push((rng.random_range(40_000..45_000), rng.random_range(17..=20)));
    }
    shapes
}

/// Two dimensions for so many rows, whose pitch may or may not be a multiple of 64.
fn dims(rng: &mut impl Rng, n_rows: usize) -> [usize; 2] {
    let mut one_of = |dims: &[usize]| dims[rng.random_range(0..dims.len())];
    let few = one_of(&[1, 32, 33, 64]);
    if n_rows > 1000 || small() {
        [few, one_of(&[90, 120])]
    } else {
        [few, one_of(&[90, 300, 768, 800, 1000])]
    }
}

/// The scan's parameters: rows `0..n_rows`, all queries.
fn dense(params: ScanParams, n_rows: usize, n_queries: usize) -> ScanParams {
    ScanParams {
        items: 0,
        group: 0,
        n_rows: n_rows as u32,
        n_queries: n_queries as u32,
        ..params
    }
}

fn halves(rng: &mut impl Rng, width: Width) -> u32 {
    match width {
        Width::Wgmma => rng.random_range(1..=2),
        _ => 2,
    }
}

fn append(gpu: &Gpu, rng: &mut impl Rng, host: &HostTier, n_rows: usize, n_queries: usize) {
    let device = DeviceTier::new(gpu, host);
    for width in widths(gpu, host.metric) {
        let mut scratch = Scratch::random(rng, host, n_queries, 8, n_rows + 9);
        scratch.n_halves = halves(rng, width);
        for thresholds in ["none", "some"] {
            if thresholds == "some" {
                scratch.thresholds_from_survivors(rng);
            }
            scratch.clear_survivors();
            let mut twin = scratch.clone();
            let loaded = scratch.upload(gpu);
            let params = dense(loaded.scan_params(&device), n_rows, n_queries);
            scan_planned(&loaded.ctx, &loaded.stream, width, params).unwrap();
            loaded.download(&mut scratch);

            let group: Vec<u32> = (0..n_queries as u32).collect();
            let mut arrays = ScanArrays {
                queries: &twin.queries,
                consts: &twin.consts,
                group: &group,
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
            let item = ScanItem {
                first_slot: 0,
                first_row: 0,
                first_query: 0,
                n_rows: n_rows as u16,
                n_queries: n_queries as u16,
            };
            scan_item(&host.arrays(), &mut arrays, &item);
            let what = format!(
                "{width:?} {} dim {} rows {n_rows} queries {n_queries} thresholds {thresholds}",
                host.metric.name(),
                host.dim
            );
            compare_survivors(host, &scratch, &twin, &what);
            assert!(
                scratch.guard_is_intact(),
                "{what}: wrote past the survivors"
            );
        }
    }
}

#[test]
fn dense_scan_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng("dense_scan_matches_its_twin");
    for metric in METRICS {
        for (n_rows, n_queries) in shapes(&mut rng) {
            for dim in dims(&mut rng, n_rows) {
                // The rows end before the tier does, or with it.
                let n_slots = n_rows + rng.random_range(0..2) * rng.random_range(1..200);
                let mut host = HostTier::random(&mut rng, metric, dim, n_slots);
                if rng.random() {
                    // An infinite radius has every row of its tile looked at closely; without any, most are not.
                    host.err.iter_mut().for_each(|x| *x = x.min(0.01));
                }
                append(&gpu, &mut rng, &host, n_rows, n_queries);
            }
        }
    }
}

fn rank(gpu: &Gpu, rng: &mut impl Rng, host: &HostTier, n_queries: usize) {
    let n_rows = host.norm_sq.len();
    let device = DeviceTier::new(gpu, host);
    for width in widths(gpu, Metric::L2) {
        // The ranks lie where survivors do otherwise: two for one, and some room.
        let mut scratch = Scratch::random(rng, host, n_queries, 8, n_rows.div_ceil(2) + 3);
        scratch.n_halves = halves(rng, width);
        let loaded = scratch.upload(gpu);
        let mut params = dense(loaded.scan_params(&device), n_rows, n_queries);
        params.mode = ScanMode::Rank as u32;
        params.ranks = params.survivors;
        // Centroids have neither.
        (params.tier.err, params.tier.live, params.survivors) = (0, 0, 0);
        scan_planned(&loaded.ctx, &loaded.stream, width, params).unwrap();
        loaded.download(&mut scratch);

        let what = format!(
            "{width:?} {} dim {} rows {n_rows} queries {n_queries}",
            host.metric.name(),
            host.dim
        );
        let ranks: &[f32] = bytemuck::cast_slice(&scratch.survivors);
        let rows: Vec<f32> = host.rows.iter().map(|x| x.to_f32()).collect();
        for (q, query) in scratch.queries.chunks(host.pitch).enumerate() {
            let consts = &scratch.consts[q];
            let slack = if scratch.n_halves == 2 {
                consts.slack
            } else {
                consts.slack_high
            };
            for (slot, row) in rows.chunks(host.pitch).enumerate() {
                let dot: f32 = query.iter().zip(row).map(|(a, b)| a * b).sum();
                let norm_sq = host.norm_sq[slot];
                let expected = centroid_rank(host.metric, consts.norm_sq, dot, norm_sq);
                // The slack covers what rounding does to the product.
                let sizes = match host.metric {
                    Metric::NegIp => (consts.norm_sq * norm_sq).sqrt(),
                    _ => consts.norm_sq + norm_sq,
                };
                let near = slack * norm_sq.sqrt() * 2.0 + 1e-5 * sizes;
                let ours = ranks[q * n_rows + slot];
                assert!(
                    (ours - expected).abs() <= near,
                    "{what}: query {q} row {slot}: {ours}, expected {expected}"
                );
            }
        }
        let used = (n_rows * n_queries).div_ceil(2);
        assert!(
            scratch.survivors[used..].iter().all(|&x| x == UNWRITTEN) && scratch.guard_is_intact(),
            "{what}: wrote past the ranks"
        );
    }
}

#[test]
fn dense_ranks_are_right() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng("dense_ranks_are_right");
    for metric in METRICS {
        for (n_rows, n_queries) in shapes(&mut rng) {
            for dim in dims(&mut rng, n_rows) {
                let host = HostTier::random(&mut rng, metric, dim, n_rows);
                rank(&gpu, &mut rng, &host, n_queries);
            }
        }
    }
}
