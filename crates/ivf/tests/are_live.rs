//! Which entries of a list are live still, by their slots, as a hot tier knows them.

mod common;

use common::{Clusters, build, rng, seed, tid};
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::fold::fold_list;
use omen_ivf::index::{Index, read_entry};
use omen_ivf::insert::insert;
use omen_ivf::list_reader::{ListReader, Visit};
use omen_ivf::mem_store::MemStore;
use omen_ivf::{Metric, Tid};
use rand::Rng;
use std::collections::HashSet;
use std::ops::ControlFlow;

/// Rows of the table that were appended have numbers from here on.
const FIRST: usize = 10_000;

/// The tids of a list by slot, dead ones included: frozen entries, then those appended.
fn by_slot(store: &MemStore, index: &Index, list: u32) -> Vec<Tid> {
    let entry = read_entry(store, index, list).unwrap();
    let (mut reader, mut tids) = (ListReader::new(), Vec::new());
    let visit = reader.for_each_group(store, index, list, &entry, |_, header| {
        for (block, offset) in header.tid_block.iter().zip(header.tid_offset) {
            if tids.len() < entry.frozen_count as usize {
                tids.push(Tid::new(*block, offset));
            }
        }
        ControlFlow::Continue(())
    });
    assert_eq!(visit.unwrap(), Visit::Done);
    let push = |tid: Tid, _, _, _: &[half::f16]| tids.push(tid);
    reader
        .appended_up_to(
            store,
            index,
            list,
            &entry.into(),
            usize::MAX,
            usize::MAX,
            push,
        )
        .unwrap()
        .expect("nobody rewrites it");
    tids
}

#[test]
fn slots_are_as_live_as_their_entries() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [2, 30, 500, 1300, 5000] {
        let clusters = Clusters::new(&mut rng, dim, 3);
        let n_rows = rng.random_range(1..300);
        let rows = clusters.draw(&mut rng, n_rows);
        let (store, index) = build(MemStore::new(), Metric::L2, dim, &rows, 1, seed);
        let (mut dead, mut n) = (HashSet::new(), 0);
        for round in 0..10 {
            let what = format!("seed {seed}, dim {dim}, round {round}");
            for _ in 0..rng.random_range(0..20) {
                insert(&store, &index, &clusters.draw(&mut rng, 1), tid(FIRST + n)).unwrap();
                n += 1;
            }
            // As the device has it.
            let entry = read_entry(&store, &index, 0).unwrap();
            let slots = by_slot(&store, &index, 0);
            let share = rng.random_range(0.0..0.3);
            bulk_delete(&store, &index, &mut |tid| {
                let dies = rng.random_bool(share);
                if dies {
                    dead.insert(tid);
                }
                dies
            })
            .unwrap();
            let asked: Vec<u32> = (0..slots.len() as u32)
                .filter(|_| rng.random_bool(0.4))
                .collect();
            let expected: Vec<bool> = asked
                .iter()
                .map(|&slot| !dead.contains(&slots[slot as usize]))
                .collect();
            let mut reader = ListReader::new();
            let live = reader.are_live(&store, &index, 0, &entry, &asked).unwrap();
            assert_eq!(live, Some(expected), "{what}");
            let beyond = [slots.len() as u32 + rng.random_range(0..100)];
            let live = reader.are_live(&store, &index, 0, &entry, &beyond).unwrap();
            assert_eq!(live, None, "{what}: there is no such slot");
            if rng.random_bool(0.3) {
                fold_list(&store, &index, 0).unwrap();
                if !asked.is_empty() {
                    let live = reader.are_live(&store, &index, 0, &entry, &asked).unwrap();
                    assert_eq!(live, None, "{what}: the list was rewritten");
                }
            }
        }
    }
}
