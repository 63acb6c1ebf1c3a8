//! Every dimension border: build, insert, delete and fold keep exactly the right entries, on fragmented and misaligned pages.

mod store_world;

use half::f16;
use omen_ivf::fold::{fold_list, vacuum_fold};
use omen_ivf::index::read_entry;
use omen_ivf::layout::group::Filter;
use omen_ivf::mem_store::MemStore;
use omen_ivf::store::{NO_BLOCK, PageStore};
use omen_ivf::write_index::{BuildEntry, IndexSpec, write_index};
use omen_ivf::{IvfError, Metric};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store_world::{DIMS, World, build_in, seed, tid};

fn round_trip(dim: u32, lists: u32, n: u32, misalign: usize) {
    let seed = seed();
    println!("dim {dim}, {lists} lists, {n} entries, misaligned by {misalign}");
    let mut store = MemStore::fragmented(seed);
    store.misalign(misalign);
    let mut world = World::on(store, Metric::L2, dim, lists, n, seed);
    world.verify();
    for round in 0..3 {
        for _ in 0..world.rng.random_range(1..=40) {
            world.insert();
        }
        world.verify();
        world.delete(0.2);
        world.verify();
        if round == 1 {
            vacuum_fold(&world.store, &world.index).unwrap();
        } else {
            world.fold();
        }
        world.verify();
    }
    world.delete(1.0);
    for list in 0..lists {
        fold_list(&world.store, &world.index, list).unwrap();
        let entry = read_entry(&world.store, &world.index, list).unwrap();
        assert_eq!(
            (entry.frozen_count, entry.code_run.len, entry.vector_run.len),
            (0, 0, 0)
        );
        assert_eq!((entry.map_head, entry.append_head), (NO_BLOCK, NO_BLOCK));
    }
    world.verify();
    world.insert();
    world.verify();
}

#[test]
fn every_dimension_keeps_its_entries() {
    for dim in DIMS {
        let n = if dim > 4000 { 40 } else { 150 };
        round_trip(dim, 1, n, 0);
        round_trip(dim, 3, n, [0, 2, 1][dim as usize % 3]);
    }
}

#[test]
fn empty_index() {
    for dim in [1, 100, 4096] {
        round_trip(dim, 1, 0, 0);
    }
}

#[test]
fn more_lists_than_a_directory_page() {
    round_trip(8, 300, 1000, 0);
}

#[test]
fn all_metrics() {
    let seed = seed();
    for metric in [Metric::L2, Metric::NegIp, Metric::Cosine] {
        let mut world = World::new(metric, 100, 4, 300, seed);
        for _ in 0..50 {
            world.insert();
        }
        world.delete(0.3);
        world.fold();
        world.verify();
    }
}

#[test]
fn a_long_list_needs_map_pages() {
    let seed = seed();
    let mut world = World::new(Metric::L2, 100, 1, 9000, seed);
    fold_list(&world.store, &world.index, 0).unwrap();
    let entry = read_entry(&world.store, &world.index, 0).unwrap();
    assert_ne!(entry.map_head, NO_BLOCK, "the store fragments");
    world.verify();
    world.delete(0.5);
    fold_list(&world.store, &world.index, 0).unwrap();
    world.verify();
}

#[test]
fn threads_build_the_same_bytes() {
    let seed = seed();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    for (dim, lists, n) in [(3, 1, 5000), (100, 4, 3000), (4096, 2, 200)] {
        let build = |pool| {
            let (mut store, mut rng) = (MemStore::new(), StdRng::seed_from_u64(seed));
            build_in(&mut store, pool, Metric::Cosine, dim, lists, n, &mut rng);
            let n_blocks = store.n_blocks().unwrap();
            let page = |block| store.read(block, |page| page.to_vec()).unwrap();
            (0..n_blocks).map(page).collect::<Vec<_>>()
        };
        assert!(build(None) == build(Some(&pool)), "dim {dim}");
    }
}

#[test]
fn contradictory_builds_fail() {
    let spec = IndexSpec {
        kind: omen_ivf::VectorKind::Half,
        entries: 0,
        metric: Metric::L2,
        dim: 4,
        lists: 2,
        filter: Filter::for_dim(4),
        lists_option: 0,
        scale_exp: 0,
        rotation_seed: 1,
        centroids: vec![f16::ONE; 8],
        built_at: 0,
    };
    let entry = |list, dim| BuildEntry {
        list,
        tid: tid(0),
        err: 0.0,
        row: vec![f16::ONE; dim],
    };
    let build = |spec: &IndexSpec, entries: Vec<BuildEntry>| {
        let mut entries = entries.into_iter();
        write_index(
            &mut MemStore::new(),
            spec,
            &mut || Ok(entries.next()),
            &mut |_| (),
        )
        .map(drop)
    };
    assert_eq!(build(&spec, vec![entry(0, 4), entry(1, 4)]), Ok(()));
    assert!(build(&spec, vec![entry(1, 4), entry(0, 4)]).is_err());
    assert!(build(&spec, vec![entry(2, 4)]).is_err());
    let wrong = IvfError::Dimension {
        expected: 4,
        found: 5,
    };
    assert_eq!(build(&spec, vec![entry(0, 5)]), Err(wrong));
    assert!(
        build(
            &IndexSpec {
                lists: 3,
                ..spec.clone()
            },
            vec![]
        )
        .is_err()
    );
    assert!(
        build(
            &IndexSpec {
                dim: 0,
                ..spec.clone()
            },
            vec![]
        )
        .is_err()
    );
    assert!(
        build(
            &IndexSpec {
                lists: 0,
                centroids: vec![],
                ..spec
            },
            vec![]
        )
        .is_err()
    );
}
