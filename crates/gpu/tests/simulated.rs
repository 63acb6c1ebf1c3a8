//! The tier over the simulated device against brute force: bounds, frontier, order, and every path above the launches.

mod common;

use common::{Fixture, Flavour, METRICS, check, rng, search};
use half::f16;
use omen_gpu::memory::MIN_SCRATCH_BYTES;
use omen_gpu::{Gpu, GpuError, TierBuilder, TierSpec};
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::{Metric, Tid};
use rand::Rng;
use std::time::Duration;

const NO_LIMIT: u64 = 1 << 32;

/// Sizes of lists that add up to about `total`, some empty, some of one row.
fn sizes(rng: &mut impl Rng, total: usize) -> Vec<usize> {
    let mut sizes = vec![0, 1, total / 2];
    while sizes.iter().sum::<usize>() < total {
        sizes.push(rng.random_range(0..total / 4 + 2));
    }
    sizes
}

#[test]
fn search_matches_brute_force_in_every_dimension() {
    let mut rng = rng("search_matches_brute_force_in_every_dimension");
    let gpu = Gpu::open_simulated();
    for (dim, rows, batch) in [
        (1, 9000, 5),
        (3, 12_000, 17),
        (64, 5000, 64),
        (100, 6000, 8),
        (768, 1500, 9),
        (1000, 800, 3),
        (4096, 300, 4),
        (16_000, 120, 2),
    ] {
        for metric in METRICS {
            let sizes = sizes(&mut rng, rows);
            let fixture = Fixture::random(&mut rng, metric, dim, &sizes, Flavour::Plain);
            let tier = fixture.load(&gpu, NO_LIMIT).unwrap();
            for k in [1, 10, 1000] {
                let queries = fixture.queries(&mut rng, batch, k);
                let what = format!("{} dim {dim}", metric.name());
                // One dimension has no gaps to speak of between the keys: the margin may not suffice.
                check(
                    &fixture,
                    &queries,
                    &search(&tier, &queries).unwrap(),
                    dim >= 64,
                    &what,
                );
            }
        }
    }
}

#[test]
fn bounds_hold_where_digits_cancel_and_rows_repeat() {
    let mut rng = rng("bounds_hold_where_digits_cancel_and_rows_repeat");
    let gpu = Gpu::open_simulated();
    for flavour in [Flavour::Offset, Flavour::Duplicates] {
        for metric in METRICS {
            for dim in [3, 32, 100] {
                let sizes = sizes(&mut rng, 6000);
                let fixture = Fixture::random(&mut rng, metric, dim, &sizes, flavour);
                let tier = fixture.load(&gpu, NO_LIMIT).unwrap();
                for k in [1, 100] {
                    let queries = fixture.queries(&mut rng, 6, k);
                    let what = format!("{flavour:?} {} dim {dim}", metric.name());
                    check(
                        &fixture,
                        &queries,
                        &search(&tier, &queries).unwrap(),
                        false,
                        &what,
                    );
                }
            }
        }
    }
}

#[test]
fn rows_that_come_ever_nearer_are_found_in_guaranteed_rounds() {
    let mut rng = rng("rows_that_come_ever_nearer_are_found_in_guaranteed_rounds");
    let fixture = Fixture::random(&mut rng, Metric::L2, 8, &[60_000], Flavour::Approaching);
    let tier = fixture.load(&Gpu::open_simulated(), NO_LIMIT).unwrap();
    let queries = fixture.queries(&mut rng, 3, 10);
    check(
        &fixture,
        &queries,
        &search(&tier, &queries).unwrap(),
        false,
        "approaching",
    );
}

#[test]
fn all_rows_come_if_k_asks_for_them() {
    let mut rng = rng("all_rows_come_if_k_asks_for_them");
    let fixture = Fixture::random(
        &mut rng,
        Metric::NegIp,
        16,
        &[300, 0, 5000],
        Flavour::Offset,
    );
    let tier = fixture.load(&Gpu::open_simulated(), NO_LIMIT).unwrap();
    let queries = fixture.queries(&mut rng, 2, 10_000);
    let results = search(&tier, &queries).unwrap();
    check(&fixture, &queries, &results, true, "all");
    assert!(results.iter().all(|r| r.frontier == f32::INFINITY));
}

#[test]
fn little_scratch_means_small_batches() {
    let mut rng = rng("little_scratch_means_small_batches");
    let fixture = Fixture::random(&mut rng, Metric::Cosine, 64, &[2000, 1000], Flavour::Plain);
    let need = TierBuilder::bytes_needed(&fixture.spec, fixture.n_slots()).unwrap();
    assert!(matches!(
        fixture.load(&Gpu::open_simulated(), need - 1),
        Err(GpuError::OutOfMemory { needed, available }) if needed == need && available == need - 1
    ));
    let tier = fixture.load(&Gpu::open_simulated(), need).unwrap();
    let queries = fixture.queries(&mut rng, 300, 5);
    check(
        &fixture,
        &queries,
        &search(&tier, &queries).unwrap(),
        true,
        "small batches",
    );
    assert!(tier.bytes() <= need && tier.bytes() > need - MIN_SCRATCH_BYTES);
}

#[test]
fn a_list_read_again_replaces_what_was_pushed() {
    let mut rng = rng("a_list_read_again_replaces_what_was_pushed");
    let (dim, n) = (2000, 5000); // several staging areas
    let fixture = Fixture::random(&mut rng, Metric::L2, dim, &[n, 40], Flavour::Plain);
    let mut builder = TierBuilder::begin(
        &Gpu::open_simulated(),
        fixture.spec,
        n as u64 + 40,
        NO_LIMIT,
    )
    .unwrap();
    let garbage = vec![f16::from_f32(1.0); dim];
    for (number, list) in fixture.lists.iter().enumerate() {
        builder.begin_list(number as u32);
        for restart in [list.len() * 3 / 4, list.len() / 3, list.len()] {
            for slot in 0..restart {
                builder.push(slot as u32, Tid::new(9, 9), true, 0.5, &garbage);
            }
        }
        for (slot, e) in list.iter().enumerate() {
            builder.push(slot as u32, e.tid, e.live, e.err, &e.row);
        }
        builder.end_list(list.len() as u32, 3, 4).unwrap();
    }
    let tier = builder.finish().unwrap();
    let at = |delete_gen: u32| ListEntry {
        delete_gen,
        ..ListEntry::empty(3)
    };
    assert!(tier.current(0, &at(4)).is_some());
    assert!(tier.current(0, &at(5)).is_none() && tier.current(2, &at(4)).is_none());
    let queries = fixture.queries(&mut rng, 4, 10);
    check(
        &fixture,
        &queries,
        &search(&tier, &queries).unwrap(),
        true,
        "restarted",
    );
}

#[test]
fn a_list_that_fails_is_left_out_and_the_others_serve() {
    let gpu = Gpu::open_simulated();
    let spec = TierSpec::of_vectors(Metric::L2, 4, 4);
    let mut builder = TierBuilder::begin(&gpu, spec, 10, NO_LIMIT).unwrap();
    let row = [f16::ONE; 4];
    let mut load = |list: u32, n: u32, claimed: u32| {
        builder.begin_list(list);
        for slot in 0..n {
            builder.push(slot, Tid::new(list, slot as u16 + 1), true, 0.0, &row);
        }
        builder.end_list(claimed, 1, 0)
    };
    assert!(load(0, 3, 3).is_ok());
    assert!(
        matches!(load(1, 8, 8), Err(GpuError::OutOfMemory { .. })),
        "room for ten entries in all"
    );
    assert!(
        matches!(load(1, 2, 3), Err(GpuError::Other(_))),
        "fewer entries than claimed"
    );
    assert!(load(3, 7, 7).is_ok());
    let tier = builder.finish().unwrap();
    let query = |lists| omen_gpu::TierQuery {
        q: &[1.0; 4],
        q_norm: 2.0,
        q_err: 0.0,
        lists,
        k: 20,
    };
    let run = |lists| {
        tier.search(
            &[query(lists)],
            1e-6,
            Duration::from_secs(1),
            &mut || Ok(()),
        )
    };
    let found = run(&[3, 0]).unwrap();
    assert_eq!(found[0].items.len(), 10);
    assert_eq!(run(&[0, 1]).unwrap_err(), GpuError::NotResident(1));
    assert_eq!(run(&[7]).unwrap_err(), GpuError::NotResident(7));
}

#[test]
fn what_cannot_be_done_is_typed() {
    let mut rng = rng("what_cannot_be_done_is_typed");
    let fixture = Fixture::random(&mut rng, Metric::L2, 4, &[100], Flavour::Plain);
    let tier = fixture.load(&Gpu::open_simulated(), NO_LIMIT).unwrap();
    let queries = fixture.queries(&mut rng, 1, 200_000);
    assert!(
        matches!(search(&tier, &queries), Err(GpuError::Unsupported(_))),
        "k too large"
    );
    let query = |q| omen_gpu::TierQuery {
        q,
        q_norm: 2.0,
        q_err: 0.0,
        lists: &[0],
        k: 1,
    };
    let run = |q, poll: &mut dyn FnMut() -> Result<(), GpuError>| {
        tier.search(&[query(q)], 1e-6, Duration::from_secs(1), poll)
    };
    assert!(matches!(
        run(&[f32::NAN; 4], &mut || Ok(())),
        Err(GpuError::Unsupported(_))
    ));
    assert!(matches!(
        run(&[1e20; 4], &mut || Ok(())),
        Err(GpuError::Unsupported(_))
    ));
    assert!(
        matches!(run(&[1.0; 3], &mut || Ok(())), Err(GpuError::Other(_))),
        "wrong dimension"
    );
    assert_eq!(
        run(&[1.0; 4], &mut || Err(GpuError::Interrupted)).unwrap_err(),
        GpuError::Interrupted
    );
    assert_eq!(
        run(&[1.0; 4], &mut || Ok(())).unwrap().len(),
        1,
        "an interrupt does no lasting harm"
    );
    assert_eq!(
        tier.search(&[], 1e-6, Duration::from_secs(1), &mut || Ok(()))
            .unwrap(),
        vec![]
    );
}

#[test]
fn without_a_device_everything_says_so() {
    match omen_gpu::devices() {
        Ok(devices) => println!("devices here: {devices:?}"),
        Err(error) => {
            assert!(
                matches!(error, GpuError::NoDriver | GpuError::NoDevice),
                "{error}"
            );
            assert_eq!(Gpu::open(0).err(), Some(error));
        }
    }
}
