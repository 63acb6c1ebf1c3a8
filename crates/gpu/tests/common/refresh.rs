//! Refreshing single lists of a tier: answers are those of a tier loaded anew, also while lists are being written. For the simulated and for a
//! real device.

use super::{Fixture, Flavour, METRICS, centroids, check_batch, check_slots, search_batch, sizes};
use omen_gpu::memory::Parts;
use omen_gpu::{BatchFound, Copiers, Gpu, GpuError, Lists, Refresh, Tier, TierBuilder, TierList};
use omen_ivf::Metric;
use omen_ivf::layout::group::{Filter, GroupShape};
use omen_ivf::rabitq::Encoder;
use omen_ivf::rotation::Rotation;
use rand::Rng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const NO_LIMIT: u64 = 1 << 32;
/// As the fixture's.
const SEED: u64 = 17;

/// Writes these lists as the fixture has them now; those for which there was no room stay as they were. What is to be taken over.
fn write_lists(
    refresh: Refresh,
    fixture: &Fixture,
    changed: &[u32],
    generation: u32,
) -> Vec<Option<TierList>> {
    let dim = fixture.spec.dim;
    let has_codes = refresh.plan.parts.codes();
    let mut builder = TierBuilder::refresh(refresh, Copiers::none()).unwrap();
    let shape = GroupShape::new(Filter::OneBit, dim as u32);
    let rotation = Rotation::new(SEED, dim, shape.code_dim as usize);
    let centroids = centroids(fixture);
    for &list in changed {
        let entries = &fixture.lists[list as usize];
        builder.begin_list(list);
        for (slot, e) in entries.iter().enumerate() {
            builder.push(slot as u32, e.tid, e.live, e.err, &e.row);
        }
        let n = entries.len() as u32;
        let done = if has_codes {
            let centroid = &centroids[list as usize * dim..][..dim];
            let encoder = Encoder::new(fixture.spec.metric, Filter::OneBit, &rotation, centroid);
            builder.end_list_encoded(n, generation, generation, &encoder)
        } else {
            builder.end_list(n, generation, generation)
        };
        if let Err(error) = done {
            assert!(matches!(error, GpuError::OutOfMemory { .. }), "{error}");
        }
    }
    builder.end().unwrap().lists
}

/// Some lists get other entries: fewer, more, dead ones, none.
fn change(rng: &mut ChaCha8Rng, fixture: &mut Fixture, n_changed: usize) -> Vec<u32> {
    let n_lists = fixture.lists.len();
    let mut changed = Vec::new();
    for list in sample(rng, n_lists, n_changed) {
        let n = fixture.lists[list].len();
        let n = rng.random_range(0..=n + n / 8 + 1);
        let other = Fixture::random(
            rng,
            fixture.spec.metric,
            fixture.spec.dim,
            &[n],
            fixture.flavour,
        );
        let mut entries = other.lists.into_iter().next().unwrap();
        for entry in &mut entries {
            entry.tid.block += 1_000_000 * (list as u32 + 1);
        }
        fixture.lists[list] = entries;
        changed.push(list as u32);
    }
    changed
}

/// A tier with room for half as much again.
pub fn tier_with_room(gpu: &Gpu, fixture: &Fixture, parts: Parts) -> Tier {
    let n_slots = fixture.n_slots() * 3 / 2;
    fixture.load_into(gpu, parts, n_slots, NO_LIMIT).unwrap()
}

pub fn check_answers(
    rng: &mut ChaCha8Rng,
    fixture: &Fixture,
    tier: &Tier,
    skipped: &[u32],
    what: &str,
) {
    let n_lists = fixture.spec.n_lists as u32;
    let mut all = vec![Lists::Nearest {
        probes: rng.random_range(1..n_lists),
        spread: f32::INFINITY,
    }];
    if tier.parts().rows() {
        all.push(Lists::All);
    }
    for lists in all {
        let queries = fixture.queries(rng, 9, 10);
        queries.losses.allow(2);
        let found = search_batch(tier, &queries, lists, skipped).unwrap();
        if tier.parts().rows() {
            check_batch(fixture, &queries, lists, skipped, &found, what);
            check_found_slots(fixture, tier, &found, what);
        } else {
            let slots = |slot| tier.place_of(slot).expect("a slot of a list");
            check_slots(fixture, &queries, lists, skipped, &found, slots, what);
        }
    }
}

/// The slots that come with what was found are those of the entries.
fn check_found_slots(fixture: &Fixture, tier: &Tier, found: &BatchFound, what: &str) {
    for q in 0..found.heads.len() {
        for found in found.of(q) {
            let (list, slot) = tier.place_of(found.slot).expect("a slot of a list");
            let tid = fixture.lists[list as usize][slot as usize].tid;
            assert_eq!(
                (found.tid_block, found.tid_offset),
                (tid.block, tid.offset),
                "{what}"
            );
        }
    }
}

/// Lists change again and again, and are refreshed as far as there is room.
pub fn check_refreshes(rng: &mut ChaCha8Rng, gpu: &Gpu, total: usize) {
    for metric in METRICS {
        for parts in [Parts::Rows, Parts::RowsAndCodes, Parts::Codes] {
            if metric == Metric::L1 && parts.codes() {
                continue; // which has none
            }
            let dim = rng.random_range(512..600);
            let sizes = sizes(rng, 30, total);
            // The centroids of the tier stay as they are, those of the test's entries do not: whatever the rows, lists are chosen by the former.
            let mut fixture = Fixture::random(rng, metric, dim, &sizes, Flavour::Plain);
            fixture.keep_centroids();
            let mut tier = tier_with_room(gpu, &fixture, parts);
            let (mut stale, mut n_refreshed) = (BTreeSet::new(), 0);
            for generation in 2..7 {
                let what = format!("{} {parts:?} generation {generation}", metric.name());
                let n_changed = rng.random_range(4..12);
                stale.extend(change(rng, &mut fixture, n_changed));
                let changed: Vec<u32> = stale.iter().copied().collect();
                let refresh = tier.begin_refresh().unwrap();
                let lists = write_lists(refresh, &fixture, &changed, generation);
                // Not in force yet.
                check_answers(rng, &fixture, &tier, &changed, &what);
                tier.end_refresh(lists).unwrap();
                stale.retain(|&list| tier.lists()[list as usize].unwrap().layout_gen != generation);
                n_refreshed += changed.len() - stale.len();
                let left: Vec<u32> = stale.iter().copied().collect();
                check_answers(rng, &fixture, &tier, &left, &what);
            }
            // There is not always room: a list may be larger than all that is free.
            assert!(n_refreshed > 8, "{n_refreshed} {stale:?}");
        }
    }
}

/// Lists are written while others are searched.
pub fn check_refresh_beside_searches(rng: &mut ChaCha8Rng, gpu: &Gpu) {
    let mut fixture = Fixture::random(rng, Metric::L2, 520, &[120; 20], Flavour::Plain);
    fixture.keep_centroids();
    let tier = tier_with_room(gpu, &fixture, Parts::RowsAndCodes);
    let changed = change(rng, &mut fixture, 8);
    let refreshes: Vec<Refresh> = (0..100).map(|_| tier.begin_refresh().unwrap()).collect();
    let (n_written, ends) = (&AtomicUsize::new(0), &AtomicBool::new(false));
    let (of_writer, of_all) = (&fixture, &changed);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for refresh in refreshes {
                if !ends.load(Ordering::Relaxed) {
                    write_lists(refresh, of_writer, of_all, 2);
                    n_written.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..20 {
            check_answers(rng, &fixture, &tier, &changed, "meanwhile");
        }
        ends.store(true, Ordering::Relaxed);
    });
    assert!(n_written.load(Ordering::Relaxed) > 0);
}
