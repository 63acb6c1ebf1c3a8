//! Batches that the device answers on its own, on the simulated device, against brute force.

mod common;

use common::{
    DOT_METRICS, Fixture, Flavour, METRICS, check_batch, check_locked_queries, rng, search_batch,
    sizes,
};
use omen_gpu::batch::plan::{BatchPlan, TierShape, Wanted};
use omen_gpu::batch::tuning::Tuning;
use omen_gpu::context::Scans;
use omen_gpu::{Gpu, GpuError, Lists};
use omen_ivf::Metric;
use rand::Rng;

const NO_LIMIT: u64 = 1 << 32;

#[test]
fn batches_match_brute_force() {
    let mut rng = rng("batches_match_brute_force");
    let gpu = Gpu::open_simulated();
    for (dim, n_lists, rows, batch) in [(3, 40, 9000, 9), (96, 50, 6000, 33), (768, 20, 1500, 5)] {
        for metric in METRICS {
            let sizes = sizes(&mut rng, n_lists, rows);
            let fixture = Fixture::random(&mut rng, metric, dim, &sizes, Flavour::Plain);
            let tier = fixture.load(&gpu, NO_LIMIT).unwrap();
            for k in [1, 10, 200] {
                let queries = fixture.queries(&mut rng, batch, k);
                let probes = rng.random_range(1..=n_lists as u32);
                for lists in [
                    Lists::Nearest {
                        probes,
                        spread: f32::INFINITY,
                    },
                    Lists::Nearest {
                        probes,
                        spread: rng.random_range(0.0..10.0),
                    },
                    Lists::All,
                ] {
                    for skipped in [&[][..], &[n_lists as u32 / 3, 7]] {
                        let found = search_batch(&tier, &queries, lists, skipped).unwrap();
                        let what = format!("{} dim {dim} {lists:?} k {k}", metric.name());
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
    for flavour in [Flavour::Offset, Flavour::Duplicates, Flavour::Approaching] {
        for metric in METRICS {
            let fixture = Fixture::random(&mut rng, metric, 8, &[20, 30_000, 500], flavour);
            let tier = fixture.load(&Gpu::open_simulated(), NO_LIMIT).unwrap();
            let queries = fixture.queries(&mut rng, 3, 10);
            for lists in [
                Lists::Nearest {
                    probes: 2,
                    spread: f32::INFINITY,
                },
                Lists::All,
            ] {
                let found = search_batch(&tier, &queries, lists, &[]).unwrap();
                let what = format!("{flavour:?} {} {lists:?}", metric.name());
                check_batch(&fixture, &queries, lists, &[], &found, &what);
            }
        }
    }
}

#[test]
fn little_scratch_means_small_parts() {
    let mut rng = rng("little_scratch_means_small_parts");
    let fixture = Fixture::random(&mut rng, Metric::L2, 64, &[2000, 1000, 40], Flavour::Plain);
    let tier = fixture.load(&Gpu::open_simulated(), 36 << 20).unwrap();
    let queries = fixture.queries(&mut rng, 700, 5);
    let lists = Lists::Nearest {
        probes: 2,
        spread: f32::INFINITY,
    };
    let found = search_batch(&tier, &queries, lists, &[]).unwrap();
    check_batch(&fixture, &queries, lists, &[], &found, "small parts");
}

#[test]
fn batches_refuse_what_they_cannot_do() {
    let mut rng = rng("batches_refuse_what_they_cannot_do");
    let fixture = Fixture::random(&mut rng, Metric::L2, 16, &[100, 50], Flavour::Plain);
    let tier = fixture.load(&Gpu::open_simulated(), NO_LIMIT).unwrap();
    let mut queries = fixture.queries(&mut rng, 3, 5);
    let unsupported = |queries: &common::Queries| {
        let found = search_batch(&tier, queries, Lists::All, &[]);
        assert!(matches!(found, Err(GpuError::Unsupported(_))), "{found:?}");
    };
    assert!(search_batch(&tier, &queries, Lists::All, &[]).is_ok());
    queries.k = 100_000;
    unsupported(&queries);
    queries.k = 5;
    queries.items[1].q[3] = f32::NAN;
    unsupported(&queries);
}

#[test]
fn codes_leave_out_nothing_that_counts() {
    let mut rng = rng("codes_leave_out_nothing_that_counts");
    let gpu = Gpu::open_simulated();
    for (dim, batch) in [(512, 3), (520, 9), (768, 20)] {
        for metric in DOT_METRICS {
            let sizes = sizes(&mut rng, 40, 4000);
            let fixture = Fixture::random(&mut rng, metric, dim, &sizes, Flavour::Plain);
            let tier = fixture.load_with_codes(&gpu, NO_LIMIT).unwrap();
            for k in [1, 10, 100] {
                let queries = fixture.queries(&mut rng, batch, k);
                queries.losses.allow(1 + batch * k / 500);
                let lists = Lists::Nearest {
                    probes: rng.random_range(5..=39),
                    spread: f32::INFINITY,
                };
                let found = search_batch(&tier, &queries, lists, &[3]).unwrap();
                let what = format!("{} dim {dim} k {k}", metric.name());
                check_batch(&fixture, &queries, lists, &[3], &found, &what);
            }
        }
    }
}

#[test]
fn locked_queries_give_the_same_answers() {
    let mut rng = rng("locked_queries_give_the_same_answers");
    check_locked_queries(&mut rng, &Gpu::open_simulated());
}

#[test]
fn all_lists_are_searched_by_rows() {
    let tier = TierShape {
        metric: Metric::L2,
        dim: 768,
        bit_words: 0,
        row_pitch: 768,
        n_lists: 100,
        n_slots: 10_000,
        longest: 300,
        scans: Scans::Wgmma,
        code_dim: 768,
        has_rows: true,
    };
    let by_codes = |probes, spread| {
        let wanted = Wanted {
            n_queries: 1,
            k: 10,
            probes,
            spread,
            rounding: 1e-6,
            want_lists: true,
        };
        let plan = BatchPlan::new(tier, wanted, Tuning::default()).unwrap();
        plan.codes.is_some()
    };
    assert!(by_codes(Some(99), f32::INFINITY) && by_codes(Some(100), 5.0));
    // As where some lists are out of date.
    assert!(!by_codes(Some(100), f32::INFINITY) && !by_codes(None, f32::INFINITY));
}
