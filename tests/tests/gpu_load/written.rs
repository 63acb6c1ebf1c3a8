//! A tier that is filled while its index is written.

use super::expected::check_centroids;
use super::store_world::{World, plan, seed, write};
use super::{check, choices, devices, has_all_appended, small};
use omen_gpu::engine::LoadShape;
use omen_gpu::memory::with_room;
use omen_gpu::{Copiers, TierBuilder, TierList, TierSpec, WrittenLists};
use omen_ivf::Metric;
use omen_ivf::mem_store::MemStore;
use omen_ivf::write_index::{Follower, Piece};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Fills a tier.
struct Filling(WrittenLists);

impl Follower for Filling {
    fn written(&mut self, _: u64) {}

    fn piece(&mut self, piece: &Piece) {
        self.0.put(piece).unwrap();
    }
}

#[test]
fn a_tier_filled_while_its_index_is_written_holds_what_the_pages_hold() {
    let mut rng = StdRng::seed_from_u64(seed());
    let sizes: &[(u32, u32)] = if small() {
        &[(3, 300), (768, 6000)]
    } else {
        &[
            (1, 5000),
            (100, 9000),
            (513, 3000),
            (768, 9000),
            (4033, 200),
        ]
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    for gpu in devices() {
        for &(dim, n) in sizes {
            let metric = [Metric::L2, Metric::NegIp, Metric::L1][rng.random_range(0..3)];
            let n_lists = rng.random_range(1..9);
            let (spec, entries, model) = plan(metric, dim, n_lists, n, &mut rng);
            let mut counts = vec![0u32; n_lists as usize];
            entries
                .iter()
                .for_each(|entry| counts[entry.list as usize] += 1);
            for &parts in choices(spec.filter) {
                let what = format!("dim {dim}, {n_lists} lists, {:?}, {parts:?}", spec.filter);
                let n_slots = with_room(u64::from(n), n_lists as usize);
                let tier_spec = TierSpec::of_new(&spec);
                let builder = || {
                    TierBuilder::with_parts(
                        &gpu,
                        tier_spec,
                        parts,
                        n_slots,
                        1 << 32,
                        Copiers::none(),
                    )
                    .unwrap()
                };
                let mut to_fill = builder();
                to_fill.set_load_shape(LoadShape {
                    n_areas: rng.random_range(1..5),
                    area_bytes: rng.random_range(4 << 20..6 << 20),
                    ..LoadShape::DEFAULT
                });
                let is_roomy = rng.random();
                if is_roomy {
                    to_fill.align_lists();
                }
                let mut filling = Filling(WrittenLists::new(to_fill, &spec, &counts).unwrap());
                let mut store = MemStore::new();
                let pool = rng.random::<bool>().then_some(&pool);
                write(&mut store, pool, &spec, entries.clone(), &mut filling);
                let world = World::of(store, model.clone(), n, StdRng::seed_from_u64(1));
                let builder_again = filling.0.finish(&world.store, &world.index).unwrap();
                let tier = builder_again.finish().unwrap();
                assert!(tier.has_centroids());
                check(&world, &tier, n_lists as usize, &what);
                assert!(!parts.rows() || has_all_appended(&world, &tier), "{what}");
                check_centroids(&world.store, &world.index, &tier);
                // Lists are as if they had been loaded, but for where they are.
                let mut loading = builder();
                if is_roomy {
                    loading.align_lists();
                }
                let all: Vec<u32> = (0..n_lists).collect();
                loading
                    .load_lists(&world.store, &world.index, &all)
                    .unwrap();
                let without_place = |list: &Option<TierList>| {
                    list.map(|list| TierList {
                        first_slot: 0,
                        n_room: 0,
                        ..list
                    })
                };
                let loaded: Vec<_> = loading.lists().iter().map(without_place).collect();
                assert_eq!(
                    tier.lists().iter().map(without_place).collect::<Vec<_>>(),
                    loaded,
                    "{what}"
                );
            }
            let mut too_many = counts.clone();
            too_many[0] += n + 1;
            let small =
                TierBuilder::begin(&gpu, TierSpec::of_new(&spec), u64::from(n), 1 << 32).unwrap();
            assert!(WrittenLists::new(small, &spec, &too_many).is_none());
        }
    }
}
