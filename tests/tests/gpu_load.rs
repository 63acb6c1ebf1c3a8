//! Loading a tier from pages: the device then holds what the pages say, whatever happens to the index meanwhile. On the simulated
//! device always, on a real one if there is one.

#[path = "gpu_load/expected.rs"]
mod expected;
#[path = "../../crates/ivf/tests/store_world/mod.rs"]
mod store_world;
#[path = "gpu_load/unpack.rs"]
mod unpack;
#[path = "gpu_load/written.rs"]
mod written;

use expected::{check_centroids, check_list};
use half::f16;
use omen_gpu::engine::LoadShape;
use omen_gpu::memory::Parts;
use omen_gpu::{Copiers, Gpu, GpuError, LoadError, Tier, TierBuilder, TierSpec};
use omen_ivf::Metric;
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::export::{export_list, for_each_centroid};
use omen_ivf::fold::fold_list;
use omen_ivf::index::{Index, read_entries, read_entry, see_list};
use omen_ivf::insert::insert;
use omen_ivf::layout::group::Filter;
use omen_ivf::list_reader::ListReader;
use omen_ivf::mem_store::MemStore;
use omen_ivf::rabitq::Encoder;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use store_world::{World, seed, tid, vector};

/// The simulated device, and the first real one or the reason why there is none.
pub fn devices() -> Vec<Gpu> {
    let mut devices = vec![Gpu::open_simulated()];
    match Gpu::open(0) {
        Ok(gpu) => devices.push(gpu),
        Err(error) => println!("skipped: {error}"),
    }
    devices
}

/// Whether sizes should be small (`OMEN_GPU_TEST_SMALL`).
pub fn small() -> bool {
    std::env::var_os("OMEN_GPU_TEST_SMALL").is_some()
}

fn builder(gpu: &Gpu, index: &Index, parts: Parts, n_slots: u64, threads: usize) -> TierBuilder {
    let spec = TierSpec::of(index);
    let copiers = Copiers::with_threads(threads);
    TierBuilder::with_parts(gpu, spec, parts, n_slots, 1 << 32, copiers).expect("the tier fits")
}

fn entries(world: &World) -> u64 {
    let lists: Vec<u32> = (0..world.index.n_lists()).collect();
    let entries = read_entries(&world.store, &world.index, &lists).unwrap();
    entries.iter().map(|e| u64::from(e.frozen_count)).sum()
}

/// What a tier of an index with such codes can hold.
fn choices(filter: Filter) -> &'static [Parts] {
    match filter {
        Filter::OneBit => &[Parts::Rows, Parts::RowsAndCodes, Parts::Codes],
        _ => &[Parts::Rows],
    }
}

/// All lists of the tier hold what the pages hold now, `n` lists in all.
fn check(world: &World, tier: &Tier, n: usize, what: &str) {
    let image = tier.read_back().unwrap();
    let mut found = 0;
    for (list, loaded) in tier.lists().iter().enumerate() {
        if let Some(loaded) = loaded {
            check_list(&world.store, &world.index, tier, &image, list as u32, what);
            found += 1;
            for i in [0, loaded.n_slots / 2, loaded.n_slots.saturating_sub(1)] {
                let expected = (i < loaded.n_slots).then_some((list as u32, i));
                if expected.is_some() {
                    assert_eq!(tier.place_of(loaded.first_slot + i), expected, "{what}");
                }
            }
        }
    }
    assert_eq!(found, n, "{what}: lists");
}

/// Whether the tier holds all that was appended to its lists.
fn has_all_appended(world: &World, tier: &Tier) -> bool {
    let all = (0..).zip(tier.lists());
    let mut loaded = all.filter_map(|(list, loaded)| Some((list, (*loaded)?)));
    loaded.all(|(list, loaded)| {
        let (store, index) = (&world.store, &world.index);
        let seen = see_list(store, index, list).unwrap();
        let (entry, mut n, all) = (seen.entry, 0, usize::MAX);
        let known = ListReader::new()
            .appended_up_to(store, index, list, &seen, all, 0, |_, _, _, _| n += 1)
            .unwrap();
        assert_eq!(known, Some(loaded.appended));
        assert_eq!(loaded.appended.n_lacking(index, &entry), 0);
        loaded.n_slots == entry.frozen_count + n
    })
}

#[test]
fn the_tier_holds_what_the_pages_hold() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let sizes: &[(u32, u32)] = if small() {
        &[(3, 300), (100, 100), (768, 70)]
    } else {
        &[
            (1, 5000),
            (3, 3000),
            (64, 1000),
            (100, 1000),
            (513, 300),
            (768, 400),
            (1000, 200),
            (4033, 60),
            (16_000, 40),
        ]
    };
    for gpu in devices() {
        for &(dim, n) in sizes {
            for round in 0..2 {
                let n_lists = rng.random_range(1..9);
                let mut world = World::new(Metric::L2, dim, n_lists, n, rng.random());
                if round == 1 {
                    world.delete(0.2);
                    for _ in 0..n / 8 {
                        world.insert();
                    }
                    let list = rng.random_range(0..n_lists);
                    fold_list(&world.store, &world.index, list).unwrap();
                }
                if rng.random() {
                    world.store.limit_pins(rng.random_range(1..5));
                }
                let filter = world.index.meta.shape().filter;
                for &parts in choices(filter) {
                    let threads = rng.random_range(0..4);
                    let what = format!("dim {dim}, {n_lists} lists, {filter:?}, {parts:?}");
                    let mut lists: Vec<u32> = (0..n_lists).collect();
                    lists.shuffle(&mut rng);
                    lists.truncate(rng.random_range(1..=n_lists as usize));
                    // Without room for what was appended, a list is there without it.
                    let room: u64 = if rng.random() { u64::from(n) } else { 0 };
                    let n_slots = entries(&world) + room;
                    let mut builder = builder(&gpu, &world.index, parts, n_slots, threads);
                    if rng.random() {
                        builder.set_load_shape(LoadShape {
                            n_areas: rng.random_range(1..5),
                            area_bytes: rng.random_range(1 << 20..3 << 20),
                            job_bytes: rng.random_range(1 << 13..1 << 20),
                        });
                    }
                    builder
                        .load_lists(&world.store, &world.index, &lists)
                        .unwrap();
                    builder.load_centroids(&world.store, &world.index).unwrap();
                    assert_eq!(world.store.n_pins(), 0, "{what}: pins left");
                    let tier = builder.finish().unwrap();
                    assert!(tier.has_centroids());
                    check(&world, &tier, lists.len(), &what);
                    let wants_all = parts.rows() && (room > 0 || round == 0);
                    assert!(!wants_all || has_all_appended(&world, &tier), "{what}");
                    check_centroids(&world.store, &world.index, &tier);
                }
            }
        }
    }
}

#[test]
fn more_than_all_staging_areas_hold() {
    let mut rng = StdRng::seed_from_u64(seed());
    // Rows of 32 kB, in lists smaller and larger than an area; and small rows, many items of groups.
    let sizes: &[(u32, u32, u32)] = if small() {
        &[(16_000, 5, 300)]
    } else {
        &[(16_000, 5, 1500), (40, 3, 100_000)]
    };
    for &(dim, n_lists, n) in sizes {
        let world = World::new(Metric::NegIp, dim, n_lists, n, rng.random());
        let lists: Vec<u32> = (0..n_lists).collect();
        for gpu in devices() {
            for &parts in choices(world.index.meta.shape().filter) {
                let mut builder = builder(&gpu, &world.index, parts, u64::from(n), 2);
                builder
                    .load_lists(&world.store, &world.index, &lists)
                    .unwrap();
                let tier = builder.finish().unwrap();
                check(&world, &tier, lists.len(), &format!("dim {dim} {parts:?}"));
            }
        }
    }
}

/// First row number of entries that come and go during a test.
const PASSING: u32 = 1_000_000;

/// Disturbs the index between two reads.
fn disturb(store: &MemStore, rng: &mut StdRng) {
    let index = Index::open(store).unwrap();
    let list = rng.random_range(0..index.n_lists());
    match rng.random_range(0..4) {
        0 | 1 => drop(fold_list(store, &index, list).unwrap()),
        2 => {
            for _ in 0..rng.random_range(1..20) {
                let row = tid(PASSING + rng.random_range(0..1_000_000));
                insert(store, &index, &vector(rng, index.meta.dim), row).unwrap();
            }
        }
        _ => drop(
            bulk_delete(store, &index, &mut |t| {
                t >= tid(PASSING) && t.offset % 2 == 0
            })
            .unwrap(),
        ),
    }
}

#[test]
fn lists_rewritten_meanwhile_are_those_of_their_generations() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let n_lists = 4;
    let mut world = World::new(Metric::L2, 100, n_lists, 600, seed);
    world.delete(0.1);
    let lists: Vec<u32> = (0..n_lists).collect();
    let (mut current, mut moved) = (0, 0);
    for gpu in devices() {
        for round in 0..if small() { 10 } else { 100 } {
            let parts = *choices(world.index.meta.shape().filter)
                .get(round % 3)
                .unwrap_or(&Parts::Rows);
            let mut of_hook = StdRng::seed_from_u64(rng.random());
            let mut left = of_hook.random_range(0..4);
            let before = entries(&world);
            world.store.set_hook(move |store, _| {
                if left > 0 && of_hook.random_bool(0.03) {
                    left -= 1;
                    disturb(store, &mut of_hook);
                }
            });
            let mut builder = builder(&gpu, &world.index, parts, before + 2000, round % 3);
            builder
                .load_lists(&world.store, &world.index, &lists)
                .unwrap();
            world.store.clear_hook();
            assert_eq!(world.store.n_pins(), 0);
            let tier = builder.finish().unwrap();
            let image = tier.read_back().unwrap();
            let n_slots: u64 = tier
                .lists()
                .iter()
                .flatten()
                .map(|l| u64::from(l.n_slots))
                .sum();
            let last = tier
                .lists()
                .iter()
                .flatten()
                .map(|l| l.first_slot + l.n_slots)
                .max();
            // A list read twice leaves a gap.
            moved += u32::from(u64::from(last.unwrap_or(0)) > n_slots);
            for &list in &lists {
                let now = read_entry(&world.store, &world.index, list).unwrap();
                if tier.current(list, &now).is_some() {
                    current += 1;
                    let (store, index) = (&world.store, &world.index);
                    check_list(store, index, &tier, &image, list, "disturbed");
                }
            }
        }
    }
    assert!(current > 20, "{current} lists stayed current");
    assert!(moved > 0 || small(), "no list was read twice");
}

#[test]
fn a_load_can_end_at_any_time() {
    let mut rng = StdRng::seed_from_u64(seed());
    let mut world = World::new(Metric::Cosine, 600, 5, 400, rng.random());
    let lists: Vec<u32> = (0..5).collect();
    world.delete(0.1);
    for gpu in devices() {
        for round in 0..if small() { 4 } else { 60 } {
            let mut builder = builder(&gpu, &world.index, Parts::Rows, 400, round % 3);
            let pins = world.store.n_pins();
            if round % 2 == 0 {
                world.store.fail_after(rng.random_range(1..150));
                match builder.load_lists(&world.store, &world.index, &lists) {
                    Err(LoadError::Index(_)) | Ok(()) => {}
                    Err(LoadError::Gpu(error)) => panic!("{error}"),
                }
                assert_eq!(world.store.n_pins(), pins, "pins left");
            } else {
                let mut left = rng.random_range(1..150);
                world.store.set_hook(move |_, _| {
                    left -= 1;
                    assert!(left > 0, "the host cancels by unwinding");
                });
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    builder.load_lists(&world.store, &world.index, &lists)
                }));
                world.store.clear_hook();
                if let Ok(ended) = ended {
                    ended.unwrap();
                }
            }
            world.store.fail_after(i64::MAX);
            drop(builder);
        }
    }
}

#[test]
fn lists_without_room_stay_out() {
    let world = World::new(Metric::L2, 64, 3, 500, seed());
    let sizes: Vec<u64> = (0..3)
        .map(|list| {
            read_entry(&world.store, &world.index, list)
                .unwrap()
                .frozen_count
                .into()
        })
        .collect();
    for gpu in devices() {
        let mut builder = builder(&gpu, &world.index, Parts::Rows, sizes[2] + sizes[1], 1);
        builder
            .load_lists(&world.store, &world.index, &[2, 1, 0])
            .unwrap();
        let tier = builder.finish().unwrap();
        assert_eq!(tier.lists()[0].is_some(), sizes[0] == 0);
        check(&world, &tier, if sizes[0] == 0 { 3 } else { 2 }, "no room");
    }
}

/// Entry by entry, with codes made on the way, the same arrays come out.
#[test]
fn entry_by_entry_gives_the_same_tier() {
    let mut rng = StdRng::seed_from_u64(seed());
    let mut compared = 0;
    while compared < 4 {
        let dim = rng.random_range(1..900);
        let mut world = World::new(Metric::L2, dim, 3, 300, rng.random());
        world.delete(0.1);
        if world.index.meta.shape().filter != Filter::OneBit {
            continue;
        }
        compared += 1;
        let (store, index) = (&world.store, &world.index);
        let mut centroids: Vec<f16> = Vec::new();
        for_each_centroid(store, index, |_, row| centroids.extend_from_slice(row)).unwrap();
        for gpu in devices() {
            for parts in [Parts::Rows, Parts::RowsAndCodes, Parts::Codes] {
                let mut builder = builder(&gpu, index, parts, 300, 0);
                builder.set_centroids(&centroids).unwrap();
                for list in 0..3 {
                    builder.begin_list(list);
                    let entry =
                        export_list(store, index, list, &mut |slot, tid, live, err, row| {
                            builder.push(slot, tid, live, err, row);
                        })
                        .unwrap();
                    let centroid = &centroids[list as usize * dim as usize..][..dim as usize];
                    let encoder =
                        Encoder::new(index.metric(), Filter::OneBit, &index.rotation, centroid);
                    let (n, layout, delete) =
                        (entry.frozen_count, entry.layout_gen, entry.delete_gen);
                    if parts.codes() {
                        builder
                            .end_list_encoded(n, layout, delete, &encoder)
                            .unwrap();
                    } else {
                        builder.end_list(n, layout, delete).unwrap();
                    }
                }
                let tier = builder.finish().unwrap();
                check(&world, &tier, 3, &format!("dim {dim} {parts:?}"));
                check_centroids(store, index, &tier);
            }
        }
    }
    let gpu = Gpu::open_simulated();
    let world = World::new(Metric::L2, 8, 1, 10, rng.random());
    let mut builder = builder(&gpu, &world.index, Parts::RowsAndCodes, 10, 0);
    builder.begin_list(0);
    assert!(
        matches!(builder.end_list(0, 1, 0), Err(GpuError::Other(_))),
        "codes are wanted"
    );
}
