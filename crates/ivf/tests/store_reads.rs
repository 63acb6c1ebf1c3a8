//! The hot path of a scan reads every page it needs once, and no other.

mod store_world;

use std::ops::ControlFlow;

use omen_ivf::Metric;
use omen_ivf::fold::fold_list;
use omen_ivf::index::{read_entries, read_entry};
use omen_ivf::layout::page::ROOT_LIST;
use omen_ivf::layout::streams::{byte_position, code_pages, row_bytes, vector_pages};
use omen_ivf::list_reader::{ListReader, Visit};
use rand::Rng;
use store_world::{World, seed};

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
