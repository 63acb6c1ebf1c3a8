//! A tier loaded through the region is the tier loaded directly. Loader and host are threads over one piece of memory.

#[path = "../../ivf/tests/store_world/mod.rs"]
mod store_world;
#[path = "load/world.rs"]
mod world;

use bytemuck::Zeroable;
use half::f16;
use omen_gpu::engine::TierWriter;
use omen_gpu::memory::{Parts, TierPlan};
use omen_gpu::{Copiers, GpuError, Lists, TierBuilder, TierSpec};
use omen_ivf::layout::group::Filter;
use omen_ivf::rabitq::Encoder;
use omen_ivf::rotation::Rotation;
use omen_ivf::{Metric, Tid};
use omen_service::load::{LoadRegion, Room, Wanted, begin, finish};
use omen_service::message::TierKey;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use store_world::{World, seed};
use world::{Memory, Server, choices, direct, go_on, search, search_for, until, wanted};

const LIMIT: u64 = 1 << 32;

#[test]
fn a_tier_loaded_by_another_is_the_same() {
    let mut rng = StdRng::seed_from_u64(seed());
    let mut with_codes = 0;
    // The last one is more than the areas hold.
    for (dim, n) in [
        (3, 2000),
        (64, 900),
        (513, 300),
        (768, 300),
        (1000, 200),
        (4000, 700),
    ] {
        for metric in [Metric::L2, Metric::NegIp, Metric::Cosine] {
            let n_lists = rng.random_range(1..9);
            let mut world = World::new(metric, dim, n_lists, n, rng.random());
            world.delete(0.1);
            let filter = world.index.meta.shape().filter;
            for &parts in choices(filter) {
                let server = Server::new(match rng.random_range(0..3) {
                    0 => (1, 4 << 20),
                    1 => (2, 4 << 20),
                    _ => (LoadRegion::N_AREAS, LoadRegion::AREA_BYTES),
                });
                let mut lists: Vec<u32> = (0..n_lists).collect();
                lists.shuffle(&mut rng);
                lists.truncate(rng.random_range(1..=n_lists as usize));
                let threads = rng.random_range(0..3);
                let what = format!("{} {dim} {filter:?} {parts:?}", metric.name());
                let expected = direct(&server.gpu, &world, &lists, parts, LIMIT);

                let wanted = wanted(&world, parts, LIMIT);
                let copiers = Copiers::with_threads(threads);
                let mut builder = begin(&server.region, 5, wanted, copiers, go_on()).unwrap();
                assert_eq!(server.region.owner(), Some(5));
                builder.load_centroids(&world.store, &world.index).unwrap();
                builder
                    .load_lists(&world.store, &world.index, &lists)
                    .unwrap();
                assert_eq!(world.store.n_pins(), 0);
                let finished = finish(builder).unwrap();
                let (key, tier) = server.tier();
                assert_eq!(key, wanted.key);
                assert_eq!(server.region.owner(), Some(5), "until it is taken over");
                assert!(server.region.is_loading());
                drop(finished);
                assert_eq!(server.region.owner(), None);
                assert!(!server.region.is_loading());

                assert_eq!(tier.spec(), expected.spec(), "{what}");
                assert_eq!(tier.parts(), parts, "{what}");
                assert_eq!(tier.lists(), expected.lists(), "{what}");
                assert!(tier.has_centroids() && tier.bytes() == expected.bytes());
                let (found, right) = (tier.read_back().unwrap(), expected.read_back().unwrap());
                assert!(found.bytes() == right.bytes(), "{what}: the arrays differ");
                if parts.rows() {
                    let seed = rng.random();
                    let answers = search(&tier, &world, seed);
                    assert_eq!(answers, search(&expected, &world, seed), "{what}");
                    let n_slots: u32 = tier.lists().iter().flatten().map(|l| l.n_slots).sum();
                    let found = answers.unwrap().heads;
                    // Some lists are empty.
                    assert!(n_slots < 100 || found.iter().all(|head| head.count > 0));
                    with_codes += u32::from(parts.codes());
                }
                until("the region is free", || server.region.owner().is_none());
            }
        }
    }
    println!("{with_codes} tiers with codes and rows");
}

/// Rows far from the origin, so that codes searched with a wrong rotation lose most; pushed entry by entry.
struct Clusters {
    rotation: Rotation,
    /// `[N_LISTS, DIM]`
    centroids: Vec<f16>,
    /// `[N_LISTS, LIST_ROWS]`
    rows: Vec<Vec<Vec<f16>>>,
    queries: Vec<Vec<f32>>,
}

const DIM: usize = 128;
const N_LISTS: usize = 20;
const LIST_ROWS: usize = 250;

impl Clusters {
    fn random(rng: &mut StdRng) -> Self {
        let mut near = |middle: &[f32], width: f32| -> Vec<f32> {
            let moved = |x: &f32| x + width * rng.random_range(-1.0f32..1.0);
            middle.iter().map(moved).collect()
        };
        let half = |row: Vec<f32>| -> Vec<f16> { row.into_iter().map(f16::from_f32).collect() };
        let offset = near(&[0.0; DIM], 3.0);
        let middles: Vec<Vec<f32>> = (0..N_LISTS).map(|_| near(&offset, 0.1)).collect();
        let mut rows = Vec::new();
        for middle in &middles {
            rows.push((0..LIST_ROWS).map(|_| half(near(middle, 1.0))).collect());
        }
        Self {
            queries: middles.iter().map(|middle| near(middle, 0.3)).collect(),
            centroids: middles.into_iter().flat_map(half).collect(),
            rows,
            rotation: Rotation::new(rng.random(), DIM, DIM),
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            key: TierKey::zeroed(),
            spec: TierSpec::of_vectors(Metric::L2, DIM, N_LISTS),
            parts: Parts::RowsAndCodes,
            n_slots: (N_LISTS * LIST_ROWS) as u64,
            byte_limit: LIMIT,
            displaces_last: false,
        }
    }

    fn push_all<W: TierWriter + ?Sized>(&self, builder: &mut TierBuilder<W>) {
        builder.set_rotation(&self.rotation);
        builder.set_centroids(&self.centroids).unwrap();
        for (list, rows) in (0..).zip(&self.rows) {
            builder.begin_list(list);
            for (slot, row) in (0..).zip(rows) {
                builder.push(slot, Tid::new(list, slot as u16 + 1), true, 1e-3, row);
            }
            let centroid = &self.centroids[list as usize * DIM..][..DIM];
            let encoder = Encoder::new(Metric::L2, Filter::OneBit, &self.rotation, centroid);
            builder
                .end_list_encoded(LIST_ROWS as u32, 1, list, &encoder)
                .unwrap();
        }
    }
}

#[test]
fn codes_are_searched_alike() {
    let mut rng = StdRng::seed_from_u64(seed());
    let server = Server::new((2, 4 << 20));
    let data = Clusters::random(&mut rng);
    let wanted = data.wanted();
    let (gpu, copiers) = (&server.gpu, Copiers::none());
    let Wanted {
        spec,
        parts,
        n_slots,
        ..
    } = wanted;
    let mut builder = TierBuilder::with_parts(gpu, spec, parts, n_slots, LIMIT, copiers).unwrap();
    data.push_all(&mut builder);
    let expected = builder.finish().unwrap();
    let mut builder = begin(&server.region, 5, wanted, Copiers::none(), go_on()).unwrap();
    data.push_all(&mut builder);
    finish(builder).unwrap();
    let (_, tier) = server.tier();
    let nearest = Lists::Nearest {
        probes: 15,
        spread: f32::INFINITY,
    };
    let right = search_for(&expected, &data.queries, nearest).unwrap();
    assert_eq!(search_for(&tier, &data.queries, nearest).unwrap(), right);
    assert!(right.heads.iter().all(|head| head.count == 10));
}

#[test]
fn what_does_not_fit_is_told_with_numbers() {
    let server = Server::new((2, 4 << 20));
    let world = World::new(Metric::L2, 100, 3, 900, seed());
    let needed = wanted(&world, Parts::Rows, 0);
    let plan = TierPlan::new(&needed.spec, Parts::Rows, needed.n_slots).unwrap();
    let bytes = plan.bytes_needed();
    let tried = |byte_limit: u64, region: &LoadRegion| {
        let wanted = wanted(&world, Parts::Rows, byte_limit);
        begin(region, 1, wanted, Copiers::none(), go_on()).err()
    };
    let short = |available: u64| {
        let needed = bytes;
        Some(GpuError::OutOfMemory { needed, available })
    };
    assert_eq!(tried(bytes - 1, &server.region), short(bytes - 1));
    assert_eq!(server.region.room(), Ok(server.room));
    server.region.set_room(Room {
        limit: bytes + 10,
        used: 11,
    });
    assert_eq!(tried(LIMIT, &server.region), short(bytes - 1));
    server.region.set_room(Room {
        limit: bytes + 10,
        used: 10,
    });
    assert_eq!(tried(LIMIT, &server.region), None);
    server.region.set_room(Room {
        limit: 5,
        used: bytes,
    });
    assert_eq!(tried(LIMIT, &server.region), short(0));
    // More than the device has.
    server.region.set_room(Room {
        limit: 1 << 50,
        used: 0,
    });
    let mut wanted = wanted(&world, Parts::Rows, 1 << 50);
    wanted.n_slots = 1 << 30;
    let error = begin(&server.region, 1, wanted, Copiers::none(), go_on()).err();
    let needed = TierPlan::new(&wanted.spec, Parts::Rows, 1 << 30)
        .unwrap()
        .bytes_needed();
    let available = server.gpu.memory().unwrap().0;
    assert_eq!(error, Some(GpuError::OutOfMemory { needed, available }));
    until("the region is free", || server.region.owner().is_none());
    assert_eq!(server.gpu.allocated(), 0);
}

#[test]
fn the_server_searches_while_a_tier_is_loaded() {
    let mut rng = StdRng::seed_from_u64(seed());
    let server = Server::new((2, 4 << 20));
    let world = World::new(Metric::L2, 200, 4, 3000, rng.random());
    let wanted = wanted(&world, Parts::Rows, LIMIT);
    let lists = [0, 1, 2, 3];
    let there = direct(&server.gpu, &world, &lists, Parts::Rows, LIMIT);
    let expected = search(&there, &world, 3);
    std::thread::scope(|scope| {
        let loader = scope.spawn(|| {
            for _ in 0..5 {
                let copiers = Copiers::with_threads(1);
                let mut builder = begin(&server.region, 1, wanted, copiers, go_on()).unwrap();
                builder.load_centroids(&world.store, &world.index).unwrap();
                builder
                    .load_lists(&world.store, &world.index, &lists)
                    .unwrap();
                finish(builder).unwrap();
            }
        });
        while !loader.is_finished() {
            assert_eq!(search(&there, &world, 3), expected);
        }
        loader.join().unwrap();
    });
    for _ in 0..5 {
        let (_, tier) = server.tier();
        assert_eq!(search(&tier, &world, 3), expected);
    }
}

#[test]
fn memory_that_is_no_region_is_refused() {
    let memory = Memory::new(LoadRegion::bytes(2, 4 << 20));
    memory.check_refusals();
}
