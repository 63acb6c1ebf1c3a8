//! Appended entries that somebody knows already are left out of a scan, whatever is appended or deleted later, until the list is rewritten.

mod common;

use common::{Clusters, build, rng, seed, tid};
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::fold::fold_list;
use omen_ivf::index::{Index, read_entry, see_list};
use omen_ivf::insert::insert;
use omen_ivf::list_reader::{AppendedTo, ListReader, Visit};
use omen_ivf::mem_store::MemStore;
use omen_ivf::{Metric, Tid};
use rand::Rng;

/// Rows of the table that were appended have numbers from here on.
const FIRST: usize = 10_000;

/// What was appended to list 0 beyond `known`.
fn beyond(store: &MemStore, index: &Index, known: &AppendedTo) -> Vec<Tid> {
    let entry = read_entry(store, index, 0).unwrap();
    let mut tids = Vec::new();
    let mut reader = ListReader::new();
    let take = |tid, _: f32, _: &[half::f16]| tids.push(tid);
    let visit = reader.for_each_appended(store, index, 0, &entry, known, take);
    assert_eq!(visit.unwrap(), Visit::Done);
    tids
}

#[test]
fn known_entries_are_left_out() {
    let seed = seed();
    let mut rng = rng(seed);
    // From many entries a page to entries of several overflow pages.
    for dim in [2, 30, 500, 1300, 5000] {
        let clusters = Clusters::new(&mut rng, dim, 3);
        let rows = clusters.draw(&mut rng, 40);
        let (store, index) = build(MemStore::new(), Metric::L2, dim, &rows, 1, seed);
        let mut n = 0;
        let mut add = |rng: &mut _, most: usize| -> usize {
            for _ in 0..Rng::random_range(rng, 0..most) {
                insert(&store, &index, &clusters.draw(rng, 1), tid(FIRST + n)).unwrap();
                n += 1;
            }
            n
        };
        let mut n_known_at_all = 0;
        for round in 0..20 {
            let what = format!("dim {dim}, round {round}");
            let n_before = add(&mut rng, 30);
            let seen = see_list(&store, &index, 0).unwrap();
            let entry = seen.entry;
            let all = beyond(&store, &index, &AppendedTo::NOTHING);
            let most = rng.random_range(0..all.len() + 10);
            let (mut known_tids, mut n_known) = (Vec::new(), 0);
            let n_rowless = rng.random_range(0..all.len() + 10);
            let known = ListReader::new()
                .appended_up_to(
                    &store,
                    &index,
                    0,
                    &seen,
                    most,
                    n_rowless,
                    |tid, live, _, row| {
                        assert_eq!(row.is_empty(), n_known < n_rowless);
                        n_known += 1;
                        if live {
                            known_tids.push(tid);
                        }
                    },
                )
                .unwrap()
                .expect("nothing was rewritten");
            assert!(n_known >= most.min(all.len()), "{what}");
            assert!(known.is_current(&entry), "{what}");
            n_known_at_all += known_tids.len();
            let mut both = known_tids.clone();
            both.extend(beyond(&store, &index, &known));
            assert_eq!(both, all, "{what}");
            // Nothing has changed since, if these are all.
            assert!(!known.is_all(&store, 0) || known_tids == all, "{what}");
            assert!(
                known.is_all(&store, 0) || n_known < all.len() + dead(&store, &index),
                "{what}"
            );

            let is_more = add(&mut rng, 30) > n_before;
            assert!(!is_more || !known.is_all(&store, 0), "{what}: unseen");
            if read_entry(&store, &index, 0).unwrap().layout_gen != entry.layout_gen {
                // An insert has folded the list.
                continue;
            }
            let later = beyond(&store, &index, &AppendedTo::NOTHING);
            let entry = read_entry(&store, &index, 0).unwrap();
            let lacking = beyond(&store, &index, &known);
            assert_eq!(lacking, later[known_tids.len()..], "{what}");
            assert!(
                known.may_lack(&store, &index, 0, &entry) || lacking.is_empty(),
                "{what}"
            );
            assert!(
                known.n_lacking(&index, &entry) as usize <= lacking.len() + dead(&store, &index),
                "{what}"
            );
            assert!(known.is_current(&entry), "{what}: inserts change nothing");

            // A deletion among the appended ones shows, one among the others does not.
            bulk_delete(&store, &index, &mut |tid| tid == common::tid(round)).unwrap();
            let entry = read_entry(&store, &index, 0).unwrap();
            assert!(known.is_current(&entry), "{what}: a frozen entry died");
            let Some(&victim) = later.get(rng.random_range(0..later.len().max(1))) else {
                continue;
            };
            bulk_delete(&store, &index, &mut |tid| tid == victim).unwrap();
            let entry = read_entry(&store, &index, 0).unwrap();
            assert_eq!(known.is_current(&entry), known.n_records == 0, "{what}");
            if rng.random_bool(0.2) {
                let layout_gen = entry.layout_gen;
                fold_list(&store, &index, 0).unwrap();
                let entry = read_entry(&store, &index, 0).unwrap();
                assert_ne!(entry.layout_gen, layout_gen, "{what}");
                assert!(
                    !AppendedTo::NOTHING.may_lack(&store, &index, 0, &entry),
                    "{what}"
                );
            }
        }
        assert!(n_known_at_all > 20, "dim {dim}: {n_known_at_all}");
    }
}

/// Appended entries of list 0 that are dead: their records count too.
fn dead(store: &MemStore, index: &Index) -> usize {
    let report = omen_ivf::check::check(store, index).unwrap();
    report.appended_dead as usize
}
