//! What the batch tests of the simulated and of a real device share.

use super::{DOT_METRICS, Fixture, Flavour, check_slots, search_batch};
use omen_gpu::batch::tuning::Tuning;
use omen_gpu::memory::Parts;
use omen_gpu::{Batch, Gpu, Lists, LockedQueries, Source};
use omen_ivf::Metric;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// Sizes of `n` lists that add up to about `total`, some empty, one longer than the others.
pub fn sizes(rng: &mut impl Rng, n: usize, total: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = (0..n)
        .map(|_| rng.random_range(0..2 * total / n + 1))
        .collect();
    sizes[n / 2] = 0;
    sizes[n / 3] += total / 4;
    sizes
}

/// Queries of locked memory, all of them and parts, get the answers that the same queries get when they are filled in.
pub fn check_locked_queries(rng: &mut ChaCha8Rng, gpu: &Gpu) {
    let sizes = sizes(rng, 30, 3000);
    let fixture = Fixture::random(rng, Metric::L2, 50, &sizes, Flavour::Plain);
    let tier = fixture.load(gpu, 4 << 30).unwrap();
    let queries = fixture.queries(rng, 40, 10);
    let mut locked = LockedQueries::new(gpu, 40, 50).unwrap();
    let (raw, bounds) = locked.parts_mut();
    for (i, query) in queries.items.iter().enumerate() {
        raw[i * 50..(i + 1) * 50].copy_from_slice(&query.q);
        bounds[i].q_err = query.q_err;
    }
    for lists in [
        Lists::Nearest {
            probes: 7,
            spread: f32::INFINITY,
        },
        Lists::All,
    ] {
        let filled = search_batch(&tier, &queries, lists, &[]).unwrap();
        for (first, n) in [(0, 40), (0, 1), (13, 1), (5, 30)] {
            let mut batch = Batch {
                n_queries: n,
                source: Source::Locked(&locked, first),
                lists,
                skipped: &[],
                k: 10,
                want_lists: false,
                tuning: Tuning::default(),
            };
            let g = omen_ivf::bound::rounding(50);
            let found = tier
                .search_batch(&mut batch, g, Duration::from_secs(60), &mut || Ok(()))
                .unwrap();
            for q in 0..n {
                assert_eq!(found.of(q), filled.of(first + q), "{first} {n} {q}");
            }
        }
    }
}

/// Tiers of codes alone name what holds the nearest entries: random shapes of about `rows` rows and `most_queries` queries, one query alone
/// among them.
pub fn check_codes_alone(rng: &mut ChaCha8Rng, gpu: &Gpu, rows: usize, most_queries: usize) {
    for metric in DOT_METRICS {
        let dim = rng.random_range(512..900);
        let n_lists = rng.random_range(6..60);
        let sizes = sizes(rng, n_lists, rows);
        let fixture = Fixture::random(rng, metric, dim, &sizes, Flavour::Plain);
        let tier = fixture.load_parts(gpu, Parts::Codes, 4 << 30).unwrap();
        let slots = |slot| tier.place_of(slot).expect("a slot of a list");
        let n_lists = n_lists as u32;
        for (k, n) in [(1, 1), (10, rng.random_range(2..most_queries)), (200, 3)] {
            for probes in [rng.random_range(1..n_lists), n_lists] {
                let spread = match rng.random_range(0..3) {
                    0 => rng.random_range(0.0..10.0),
                    _ => f32::INFINITY,
                };
                let skipped = match rng.random_range(0..2) {
                    0 => &[][..],
                    _ => &[0, 4],
                };
                let lists = Lists::Nearest { probes, spread };
                let queries = fixture.queries(rng, n, k);
                // Four standard errors, of which one entry in 30,000 has more.
                queries.losses.allow(3 + n * rows / 8000);
                let what = format!("{} dim {dim} k {k} of {rows}, {lists:?}", metric.name());
                // Small batches are recorded: the second time a recorded graph answers.
                for _ in 0..2 {
                    let found = search_batch(&tier, &queries, lists, skipped)
                        .unwrap_or_else(|e| panic!("{what}: {e}"));
                    check_slots(&fixture, &queries, lists, skipped, &found, slots, &what);
                }
            }
        }
    }
}
