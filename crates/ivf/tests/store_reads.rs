//! The hot path of a scan reads every page it needs once, and no other; the centroids' pages once a session.

mod store_world;

use std::ops::ControlFlow;

use half::f16;
use omen_ivf::coarse::{nearest_list, select_lists};
use omen_ivf::fold::fold_list;
use omen_ivf::index::{Index, read_entries, read_entry};
use omen_ivf::layout::page::ROOT_LIST;
use omen_ivf::layout::streams::{byte_position, code_pages, row_bytes, vector_pages};
use omen_ivf::list_reader::{ListReader, Visit};
use omen_ivf::{IvfError, Metric};
use rand::Rng;
use store_world::{World, seed, vector};

#[test]
fn every_page_once() {
    let seed = seed();
    for (dim, n) in [(3, 5000), (100, 3000), (768, 300), (4096, 60)] {
        let mut world = World::new(Metric::L2, dim, 1, n, seed);
        for rewritten in [false, true] {
            if rewritten {
                fold_list(&world.store, &world.index, 0).unwrap();
            }
            let (store, index) = (&world.store, &world.index);
            let entry = read_entry(store, index, 0).unwrap();
            let mut reader = ListReader::new();
            // The map pages of a rewritten list are read once, at its first visit.
            let visit = reader
                .read_rows(store, index, 0, &entry, &[], |_, _| ())
                .unwrap();
            assert_eq!(visit, Visit::Done);

            let before = store.n_reads();
            let mut n_groups = 0;
            let visit = reader.for_each_group(store, index, 0, &entry, |group, _| {
                assert_eq!(group, n_groups);
                n_groups += 1;
                ControlFlow::Continue(())
            });
            assert_eq!((visit.unwrap(), n_groups), (Visit::Done, n.div_ceil(32)));
            assert_eq!(store.n_reads() - before, code_pages(n, index.meta.shape()));

            let stop_at = world.rng.random_range(0..n_groups);
            let mut last = 0;
            let visit = reader.for_each_group(store, index, 0, &entry, |group, _| {
                last = group;
                if group == stop_at {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            assert_eq!((visit.unwrap(), last), (Visit::Done, stop_at));

            for share in [1.0, 0.3, 0.01] {
                let slots: Vec<u32> = (0..n).filter(|_| world.rng.random_bool(share)).collect();
                let mut pages: Vec<u64> = slots
                    .iter()
                    .flat_map(|&slot| {
                        let first = u64::from(slot) * row_bytes(dim) as u64;
                        byte_position(first).0..=byte_position(first + row_bytes(dim) as u64 - 1).0
                    })
                    .collect();
                pages.dedup();
                let before = store.n_reads();
                let mut seen = Vec::new();
                let visit = reader.read_rows(store, index, 0, &entry, &slots, |slot, row| {
                    assert_eq!(row.len(), dim as usize);
                    seen.push(slot);
                });
                assert_eq!((visit.unwrap(), &seen), (Visit::Done, &slots));
                assert_eq!(store.n_reads() - before, pages.len() as u64);
                assert!(share < 1.0 || pages.len() as u64 == vector_pages(u64::from(n), dim));
            }
        }
    }
}

#[test]
fn directory_pages_once() {
    let seed = seed();
    let mut world = World::new(Metric::L2, 4, 300, 600, seed);
    let mut lists: Vec<u32> = (0..200).map(|_| world.rng.random_range(0..300)).collect();
    lists.push(ROOT_LIST);
    lists.push(299);
    let before = world.store.n_reads();
    let entries = read_entries(&world.store, &world.index, &lists).unwrap();
    assert_eq!(world.store.n_reads() - before, 3);
    for (&list, entry) in lists.iter().zip(&entries) {
        assert_eq!(
            read_entry(&world.store, &world.index, list).unwrap(),
            *entry
        );
    }
    assert!(read_entries(&world.store, &world.index, &[1, 300]).is_err());
    assert!(read_entry(&world.store, &world.index, 300).is_err());
}

#[test]
fn centroids_once() {
    let seed = seed();
    for dim in [3, 100, 600] {
        let mut world = World::new(Metric::L2, dim, 300, 600, seed);
        let before = world.store.n_reads();
        let index = Index::open(&world.store).unwrap();
        index.reach_for(0.9, 10);
        assert_eq!(world.store.n_reads() - before, 1, "what planning reads");

        let query = index.prepare(&vector(&mut world.rng, dim)).unwrap();
        world.store.fail_after(world.rng.random_range(1..4));
        let failed = select_lists(&world.store, &index, &query, 5);
        assert!(matches!(failed, Err(IvfError::Store(_))));
        let before = world.store.n_reads();
        select_lists(&world.store, &index, &query, 5).unwrap();
        let pages = code_pages(300, index.meta.shape()) + vector_pages(301, dim);
        assert_eq!(world.store.n_reads() - before, pages);

        let before = world.store.n_reads();
        for probes in [1, 5, 300] {
            let query = index.prepare(&vector(&mut world.rng, dim)).unwrap();
            select_lists(&world.store, &index, &query, probes).unwrap();
        }
        let row = vec![f16::ONE; dim as usize];
        nearest_list(&world.store, &index, &row).unwrap();
        assert_eq!(world.store.n_reads(), before);
    }
}

/// Too many centroids for a copy are read from their pages each time.
#[test]
fn large_root_lists_stay_in_their_pages() {
    let seed = seed();
    let (dim, lists) = (16_000, 530);
    let mut world = World::new(Metric::L2, dim, lists, 1, seed);
    let index = Index::open(&world.store).unwrap();
    for _ in 0..2 {
        let query = index.prepare(&vector(&mut world.rng, dim)).unwrap();
        let before = world.store.n_reads();
        let all = select_lists(&world.store, &index, &query, lists).unwrap();
        let some = select_lists(&world.store, &index, &query, 10).unwrap();
        assert!(world.store.n_reads() - before >= vector_pages(u64::from(lists), dim));
        assert!(all.is_sorted_by(|a, b| a.l2sq <= b.l2sq));
        assert_eq!((all.len() as u32, some.len()), (lists, 10));
        // The filter may miss one.
        let found = some.iter().filter(|&probe| all[..10].contains(probe));
        assert!(found.count() >= 9);
    }
}
