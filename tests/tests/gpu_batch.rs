//! Batches that a real GPU answers on its own, against brute force, with every kind of scan kernel. Without a GPU, every test prints
//! `skipped: <reason>` and passes. `OMEN_GPU_TEST_SMALL=1` shrinks the sizes (for compute-sanitizer).

#[path = "../../crates/gpu/tests/common/mod.rs"]
mod common;
#[path = "gpu_parity/real_gpu.rs"]
mod real_gpu;

use common::{
    DOT_METRICS, Fixture, Flavour, METRICS, check_batch, check_codes_alone, check_locked_queries,
    check_refresh_beside_searches, check_refreshes, rng, search_batch, sizes,
};
use omen_gpu::context::Scans;
use omen_gpu::{Gpu, Lists};
use omen_ivf::Metric;
use rand::Rng;
use real_gpu::{gpu, small};

/// The device with each kind of scan kernels it runs.
fn devices() -> Vec<(Scans, Gpu)> {
    let Some(gpu) = gpu() else { return Vec::new() };
    let best = gpu.context().map_or(Scans::Fma, |ctx| ctx.scans);
    let (major, minor) = omen_gpu::devices().unwrap()[0].capability;
    let image = omen_gpu::module::image_for(major, minor).unwrap();
    [Scans::Fma, Scans::Mma, Scans::Wgmma]
        .into_iter()
        .filter(|scans| *scans <= best)
        .map(|scans| (scans, Gpu::open_image(0, &image, scans).unwrap()))
        .collect()
}

#[test]
fn batches_match_brute_force() {
    let mut rng = rng("batches_match_brute_force");
    let shapes: &[(usize, usize, usize, usize)] = if small() {
        &[(3, 20, 700, 5), (100, 12, 500, 40)]
    } else {
        // (dimensions, lists, rows, queries)
        &[
            (1, 30, 4000, 7),
            (3, 40, 6000, 9),
            (96, 60, 900, 300),
            (100, 50, 6000, 33),
            (768, 20, 600, 150),
            (1000, 20, 3000, 5),
            (4096, 9, 200, 40),
            (16_000, 3, 200, 2),
        ]
    };
    for (scans, gpu) in devices() {
        for &(dim, n_lists, rows, batch) in shapes {
            for metric in METRICS {
                let sizes = sizes(&mut rng, n_lists, rows);
                let fixture = Fixture::random(&mut rng, metric, dim, &sizes, Flavour::Plain);
                let tier = fixture.load(&gpu, 8 << 30).unwrap();
                for k in [1, 10, 200] {
                    let queries = fixture.queries(&mut rng, batch, k);
                    let probes = rng.random_range(1..=n_lists as u32);
                    let spread = match rng.random_range(0..2) {
                        0 => f32::INFINITY,
                        _ => rng.random_range(0.0..10.0),
                    };
                    for lists in [Lists::Nearest { probes, spread }, Lists::All] {
                        let skipped = match rng.random_range(0..2) {
                            0 => &[][..],
                            _ => &[n_lists as u32 / 3, 1],
                        };
                        let what = format!("{scans:?} {} dim {dim} {lists:?} k {k}", metric.name());
                        let found = search_batch(&tier, &queries, lists, skipped)
                            .unwrap_or_else(|e| panic!("{what}: {e}"));
                        check_batch(&fixture, &queries, lists, skipped, &found, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn what_the_rounds_lose_is_searched_again() {
    let mut rng = rng("what_the_rounds_lose_is_searched_again");
    let n = if small() { 5000 } else { 60_000 };
    for (scans, gpu) in devices() {
        for flavour in [Flavour::Offset, Flavour::Duplicates, Flavour::Approaching] {
            for metric in METRICS {
                let fixture = Fixture::random(&mut rng, metric, 8, &[20, n, 500], flavour);
                let tier = fixture.load(&gpu, 8 << 30).unwrap();
                let queries = fixture.queries(&mut rng, 3, 10);
                for lists in [
                    Lists::Nearest {
                        probes: 2,
                        spread: f32::INFINITY,
                    },
                    Lists::All,
                ] {
                    let found = search_batch(&tier, &queries, lists, &[]).unwrap();
                    let what = format!("{scans:?} {flavour:?} {} {lists:?}", metric.name());
                    check_batch(&fixture, &queries, lists, &[], &found, &what);
                }
            }
        }
    }
}

#[test]
fn the_same_batch_gives_the_same_answer_again() {
    // The second time a recorded graph answers; in between others use the memory.
    let mut rng = rng("the_same_batch_gives_the_same_answer_again");
    for (scans, gpu) in devices() {
        let sizes = sizes(&mut rng, 30, 3000);
        let fixture = Fixture::random(&mut rng, Metric::L2, 96, &sizes, Flavour::Plain);
        let tier = fixture.load(&gpu, 8 << 30).unwrap();
        let lists = Lists::Nearest {
            probes: 9,
            spread: f32::INFINITY,
        };
        for batch in [1, 2, 16, 64, 65, 300] {
            let queries = fixture.queries(&mut rng, batch, 10);
            let first = search_batch(&tier, &queries, lists, &[]).unwrap();
            let other = fixture.queries(&mut rng, batch, 10);
            search_batch(&tier, &other, lists, &[]).unwrap();
            search_batch(&tier, &other, Lists::All, &[]).unwrap();
            let again = search_batch(&tier, &queries, lists, &[]).unwrap();
            for q in 0..batch {
                assert_eq!(
                    first.of(q),
                    again.of(q),
                    "{scans:?} batch {batch} query {q}"
                );
            }
        }
    }
}

#[test]
fn codes_leave_out_nothing_that_counts() {
    let mut rng = rng("codes_leave_out_nothing_that_counts");
    let rows = if small() { 800 } else { 4000 };
    for (scans, gpu) in devices() {
        for (dim, batch) in [(512, 1), (520, 9), (768, 70), (1536, 3)] {
            for metric in DOT_METRICS {
                let sizes = sizes(&mut rng, 40, rows);
                let fixture = Fixture::random(&mut rng, metric, dim, &sizes, Flavour::Plain);
                let tier = fixture.load_with_codes(&gpu, 8 << 30).unwrap();
                for k in [1, 10, 100] {
                    let queries = fixture.queries(&mut rng, batch, k);
                    queries.losses.allow(1 + batch * k / 500);
                    let lists = Lists::Nearest {
                        probes: rng.random_range(5..=39),
                        spread: f32::INFINITY,
                    };
                    let found = search_batch(&tier, &queries, lists, &[3]).unwrap();
                    let what = format!("{scans:?} {} dim {dim} k {k}", metric.name());
                    check_batch(&fixture, &queries, lists, &[3], &found, &what);
                }
            }
        }
    }
}

#[test]
fn codes_alone_name_the_nearest() {
    let mut rng = rng("codes_alone_name_the_nearest");
    let shapes: &[(usize, usize)] = if small() {
        &[(800, 10)]
    } else {
        // (rows, most queries)
        &[(800, 300), (6000, 70), (30_000, 9)]
    };
    for (_, gpu) in devices() {
        for &(rows, most_queries) in shapes {
            check_codes_alone(&mut rng, &gpu, rows, most_queries);
        }
    }
}

#[test]
fn locked_queries_give_the_same_answers() {
    let mut rng = rng("locked_queries_give_the_same_answers");
    for (_, gpu) in devices() {
        check_locked_queries(&mut rng, &gpu);
    }
}

#[test]
fn lists_are_refreshed_beside_searches() {
    let mut rng = rng("lists_are_refreshed_beside_searches");
    for (scans, gpu) in devices() {
        println!("{scans:?}");
        check_refreshes(&mut rng, &gpu, if small() { 600 } else { 6_000 });
        check_refresh_beside_searches(&mut rng, &gpu);
    }
}
