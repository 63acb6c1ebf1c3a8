//! The whole tier on a real GPU: against brute force, under interrupts, timeouts and limits, and with every image. Without a
//! GPU, every test prints `skipped: <reason>` and passes. `OMEN_GPU_TEST_SMALL=1` shrinks the sizes.

#[path = "../../crates/gpu/tests/common/mod.rs"]
mod common;
#[path = "gpu_parity/real_gpu.rs"]
mod real_gpu;

use common::{Fixture, Flavour, METRICS, check, rng, search};
use omen_gpu::context::Scans;
use omen_gpu::{Gpu, GpuError};
use omen_ivf::Metric;
use real_gpu::{gpu, small};
use std::time::{Duration, Instant};

#[test]
fn tier_search_matches_brute_force() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng("tier_search_matches_brute_force");
    let full: &[(usize, usize, usize)] = &[
        (1, 9000, 5),
        (3, 12_000, 33),
        (64, 5000, 64),
        (100, 6000, 8),
        (768, 1500, 40),
        (1000, 800, 3),
        (4096, 300, 4),
        (16_000, 120, 2),
    ];
    for &(dim, rows, batch) in if small() { &[(40, 600, 9)][..] } else { full } {
        for metric in METRICS {
            for flavour in [Flavour::Plain, Flavour::Offset, Flavour::Duplicates] {
                let sizes = [0, rows / 2, 1, rows / 3, rows / 6];
                let fixture = Fixture::random(&mut rng, metric, dim, &sizes, flavour);
                let tier = fixture.load(&gpu, 1 << 32).unwrap();
                for k in [1, 10, 1000] {
                    let queries = fixture.queries(&mut rng, batch, k);
                    let what = format!("{flavour:?} {} dim {dim}", metric.name());
                    let enough = flavour == Flavour::Plain && dim >= 64;
                    check(
                        &fixture,
                        &queries,
                        &search(&tier, &queries).unwrap(),
                        enough,
                        &what,
                    );
                }
            }
        }
    }
}

#[test]
fn survivors_without_room_are_searched_again() {
    let Some(gpu) = gpu() else { return };
    if small() {
        println!("skipped: needs 60,000 rows");
        return;
    }
    let mut rng = rng("survivors_without_room_are_searched_again");
    let fixture = Fixture::random(&mut rng, Metric::L2, 8, &[60_000], Flavour::Approaching);
    let tier = fixture.load(&gpu, 1 << 32).unwrap();
    let queries = fixture.queries(&mut rng, 5, 10);
    check(
        &fixture,
        &queries,
        &search(&tier, &queries).unwrap(),
        false,
        "approaching",
    );
}

#[test]
fn interrupts_timeouts_and_loss_are_typed_and_quick() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng("interrupts_timeouts_and_loss_are_typed_and_quick");
    let n = if small() { 3000 } else { 100_000 };
    let fixture = Fixture::random(&mut rng, Metric::L2, 64, &[n], Flavour::Plain);
    let tier = fixture.load(&gpu, 1 << 32).unwrap();
    let queries = fixture.queries(&mut rng, if small() { 4 } else { 64 }, 10);
    let queries = common::Queries {
        items: queries
            .items
            .into_iter()
            .map(|q| common::Query {
                lists: vec![0],
                ..q
            })
            .collect(),
        k: 10,
        losses: queries.losses,
    };
    let run = |deadline, poll: &mut dyn FnMut() -> Result<(), GpuError>| {
        tier.search(&queries.tier_queries(), 2e-6, deadline, poll)
    };
    assert_eq!(
        run(Duration::from_secs(9), &mut || Err(GpuError::Interrupted)).unwrap_err(),
        GpuError::Interrupted
    );
    check(
        &fixture,
        &queries,
        &run(Duration::from_secs(9), &mut || Ok(())).unwrap(),
        true,
        "after an interrupt",
    );
    assert!(!gpu.is_lost());
    // Work that is done at the first look is in time, whatever the deadline.
    let late = (0..1000).find_map(|_| run(Duration::ZERO, &mut || Ok(())).err());
    assert_eq!(late, Some(GpuError::TimedOut));
    let start = Instant::now();
    assert!(matches!(
        run(Duration::from_secs(9), &mut || Ok(())),
        Err(GpuError::Lost(_))
    ));
    assert!(gpu.is_lost() && matches!(gpu.memory(), Err(GpuError::Lost(_))));
    drop(tier);
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "a lost device must not hold anyone up"
    );
    // The device itself is fine: it can be opened again.
    let again = Gpu::open(0).unwrap();
    let tier = fixture.load(&again, 1 << 32).unwrap();
    check(
        &fixture,
        &queries,
        &search(&tier, &queries).unwrap(),
        true,
        "opened again",
    );
}

#[test]
fn memory_is_limited_and_given_back() {
    let Some(gpu) = gpu() else { return };
    let mut rng = rng("memory_is_limited_and_given_back");
    let fixture = Fixture::random(&mut rng, Metric::L2, 64, &[1000], Flavour::Plain);
    assert!(
        matches!(fixture.load(&gpu, 1000), Err(GpuError::OutOfMemory { needed, available: 1000 }) if needed > 1000)
    );
    let tier = fixture.load(&gpu, 1 << 30).unwrap();
    search(&tier, &fixture.queries(&mut rng, 3, 5)).unwrap();
    assert_eq!(gpu.allocated(), tier.bytes());
    drop(tier);
    assert_eq!(gpu.allocated(), 0);
}

#[test]
fn every_image_that_runs_here_searches() {
    let Some(gpu) = gpu() else { return };
    if small() {
        println!("skipped: compiling PTX under a sanitizer takes minutes");
        return;
    }
    let mut rng = rng("every_image_that_runs_here_searches");
    let fixture = Fixture::random(&mut rng, Metric::Cosine, 100, &[500, 3000], Flavour::Plain);
    let best = gpu.context().map_or(Scans::Fma, |ctx| ctx.scans);
    let mut searched = 0;
    for image in omen_gpu::module::images() {
        for scans in [Scans::Fma, best.min(Scans::Mma)] {
            let other = match Gpu::open_image(0, &image, scans) {
                Ok(other) => other,
                Err(GpuError::Unsupported(_)) => continue, // made for another generation
                Err(error) => panic!("{}: {error}", image.arch),
            };
            let tier = fixture.load(&other, 1 << 30).unwrap();
            let queries = fixture.queries(&mut rng, 20, 10);
            check(
                &fixture,
                &queries,
                &search(&tier, &queries).unwrap(),
                true,
                &image.arch,
            );
            println!("searched with {}, {scans:?}", image.arch);
            searched += 1;
        }
    }
    assert!(searched >= 2, "at least the image chosen by default");
}
