//! Tiers of codes alone, on the simulated device: what they name holds the nearest entries, and what they cannot do is said.

mod common;

use common::{
    Fixture, Flavour, centroids, check_codes_alone, check_slots, rng, search, search_batch,
};
use omen_gpu::memory::{MIN_SCRATCH_BYTES, Parts};
use omen_gpu::{Gpu, GpuError, Lists, Tier};
use omen_ivf::Metric;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

const NO_LIMIT: u64 = 1 << 32;

fn nearest(probes: u32) -> Lists {
    Lists::Nearest {
        probes,
        spread: f32::INFINITY,
    }
}

fn tier_of(rng: &mut ChaCha8Rng, sizes: &[usize], flavour: Flavour) -> (Fixture, Tier) {
    let fixture = Fixture::random(rng, Metric::L2, 512, sizes, flavour);
    let gpu = Gpu::open_simulated();
    let tier = fixture.load_parts(&gpu, Parts::Codes, NO_LIMIT).unwrap();
    (fixture, tier)
}

#[test]
fn the_nearest_are_among_those_named() {
    let mut rng = rng("the_nearest_are_among_those_named");
    let gpu = Gpu::open_simulated();
    // Few rows: all of them are kept. Many: most are left out.
    for (rows, most_queries) in [(800, 40), (6000, 6)] {
        check_codes_alone(&mut rng, &gpu, rows, most_queries);
    }
}

#[test]
fn little_memory_means_small_parts() {
    let mut rng = rng("little_memory_means_small_parts");
    let fixture = Fixture::random(&mut rng, Metric::L2, 512, &[300, 200], Flavour::Plain);
    let gpu = Gpu::open_simulated();
    let limit = MIN_SCRATCH_BYTES + (1 << 20);
    let tier = fixture.load_parts(&gpu, Parts::Codes, limit).unwrap();
    let queries = fixture.queries(&mut rng, 150, 5);
    queries.losses.allow(40);
    let found = search_batch(&tier, &queries, nearest(2), &[]).unwrap();
    let slots = |slot| tier.place_of(slot).unwrap();
    check_slots(&fixture, &queries, nearest(2), &[], &found, slots, "parts");
}

#[test]
fn survivors_without_room_are_told() {
    let mut rng = rng("survivors_without_room_are_told");
    // Queries beside the first list, all of whose rows are farther than those of the others.
    let sizes = [5000, 20_000, 20_000];
    let (fixture, tier) = tier_of(&mut rng, &sizes, Flavour::Approaching);
    let mut queries = fixture.queries(&mut rng, 2, 10);
    let centroids = centroids(&fixture);
    queries.items[0].q = centroids[..512].iter().map(|x| x.to_f32()).collect();
    queries.items[1].q = vec![1000.0; 512];
    let found = search_batch(&tier, &queries, nearest(3), &[]).unwrap();
    assert!(found.heads[0].overflow != 0, "{:?}", found.heads[0]);
    assert!(found.heads[1].overflow == 0, "{:?}", found.heads[1]);
}

#[test]
fn what_codes_alone_cannot_do_is_refused() {
    let mut rng = rng("what_codes_alone_cannot_do_is_refused");
    let (fixture, tier) = tier_of(&mut rng, &[100, 50], Flavour::Plain);
    let mut queries = fixture.queries(&mut rng, 3, 5);
    let refused = |queries: &common::Queries, lists, skipped: &[u32]| {
        let found = search_batch(&tier, queries, lists, skipped);
        assert!(matches!(found, Err(GpuError::Unsupported(_))), "{found:?}");
    };
    // Codes may err.
    refused(&queries, Lists::All, &[]);
    refused(&queries, Lists::All, &[1]);
    assert!(matches!(
        search(&tier, &queries),
        Err(GpuError::Unsupported(_))
    ));
    queries.k = 100_000;
    refused(&queries, nearest(2), &[]);
    queries.k = 5;
    // A query that keys cannot bear is told beside the others.
    let odd = rng.random_range(0..3);
    queries.items[odd].q[3] = f32::NAN;
    let found = search_batch(&tier, &queries, nearest(2), &[]).unwrap();
    for (i, head) in found.heads.iter().enumerate() {
        assert_eq!(head.overflow != 0, i == odd, "query {i}: {head:?}");
    }
}
