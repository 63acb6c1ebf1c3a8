//! Reranking slots by given bounds finds what the exact search finds, and reads no more than it must.

mod common;

use common::{Clusters, METRICS, build, rng, seed};
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::coarse::{Probe, select_lists};
use omen_ivf::fold::fold_list;
use omen_ivf::index::{Index, read_entries};
use omen_ivf::insert::insert;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::{AppendedTo, ListReader, Visit};
use omen_ivf::mem_store::MemStore;
use omen_ivf::query::Query;
use omen_ivf::rerank::{SlotBound, rerank};
use omen_ivf::scan_list::{SearchStats, Served, scan_appended};
use omen_ivf::search::search;
use omen_ivf::topk::TopK;
use rand::Rng;
use rand::rngs::StdRng;
use std::ops::ControlFlow;

/// All frozen entries of the lists, dead ones included, with bounds up to `slack` of the keys' size below their keys.
fn candidates(
    store: &MemStore,
    index: &Index,
    query: &Query,
    lists: &[(Probe, ListEntry)],
    slack: f32,
    rng: &mut StdRng,
) -> Vec<SlotBound> {
    let mut all = Vec::new();
    let mut reader = ListReader::new();
    for (number, (probe, entry)) in lists.iter().enumerate() {
        let mut errs = Vec::new();
        let visit = reader.for_each_group(store, index, probe.list, entry, |_, header| {
            errs.extend(header.err);
            ControlFlow::Continue(())
        });
        assert_eq!(visit.unwrap(), Visit::Done);
        let slots: Vec<u32> = (0..entry.frozen_count).collect();
        let visit = reader.read_rows(store, index, probe.list, entry, &slots, |slot, row| {
            let key = query.key(row, errs[slot as usize]);
            let below = slack * rng.random::<f32>() * (1.0 + key.abs());
            all.push(SlotBound {
                probe: number as u32,
                slot,
                bound: key - below,
            });
        });
        assert_eq!(visit.unwrap(), Visit::Done);
    }
    all.sort_by(|a, b| a.bound.total_cmp(&b.bound));
    all
}

#[test]
fn finds_what_the_exact_search_finds() {
    let seed = seed();
    let mut rng = rng(seed);
    for metric in METRICS {
        for dim in [3, 100, 600] {
            let clusters = Clusters::new(&mut rng, dim, 8);
            let rows = clusters.draw(&mut rng, 2000);
            let (store, index) = build(MemStore::new(), metric, dim, &rows, 8, seed);
            bulk_delete(&store, &index, &mut |tid| tid.offset % 10 == 3).unwrap();
            for i in 0..200u32 {
                let v = clusters.draw(&mut rng, 1);
                insert(&store, &index, &v, common::tid(10_000 + i as usize)).unwrap();
            }
            for (k, slack) in [(1, 0.0), (10, 0.05), (100, 0.5), (5000, 0.1)] {
                let vector = clusters.draw(&mut rng, 1);
                let query = index.prepare(&vector).unwrap();
                let probes = select_lists(&store, &index, &query, 8).unwrap();
                let numbers: Vec<u32> = probes.iter().map(|probe| probe.list).collect();
                let entries = read_entries(&store, &index, &numbers).unwrap();
                let lists: Vec<(Probe, ListEntry)> = probes.into_iter().zip(entries).collect();
                let all = candidates(&store, &index, &query, &lists, slack, &mut rng);
                for disturbed in [false, true] {
                    let mut top = TopK::new(k);
                    let mut stats = SearchStats::default();
                    for (probe, entry) in &lists {
                        let visit = scan_appended(
                            &store,
                            &index,
                            &query,
                            &Served {
                                list: probe.list,
                                entry,
                                appended: AppendedTo::NOTHING,
                            },
                            &mut top,
                            &mut stats,
                        );
                        assert_eq!(visit.unwrap(), Visit::Done);
                    }
                    let before = stats.candidates;
                    if disturbed {
                        // Each list is rewritten, at some moment.
                        let mut left: Vec<u32> = numbers.clone();
                        let mut wait = rng.random_range(0..20);
                        store.set_hook(move |store, _| {
                            wait -= 1;
                            if wait < 0
                                && let Some(list) = left.pop()
                            {
                                let index = Index::open(store).unwrap();
                                fold_list(store, &index, list).unwrap();
                                wait = 3;
                            }
                        });
                    }
                    rerank(&store, &index, &query, &lists, &all, &mut top, &mut stats).unwrap();
                    store.clear_hook();
                    let found = top.into_candidates();
                    let mut exact = SearchStats::default();
                    let expected = search(&store, &index, &query, 8, k, &mut exact).unwrap();
                    let what = format!("{} dim {dim} k {k} disturbed {disturbed}", metric.name());
                    let n = found.items.len();
                    assert!(disturbed || n == expected.items.len(), "{what}: {n}");
                    for (a, b) in found.items.iter().zip(&expected.items) {
                        assert_eq!(a.key, b.key, "{what}");
                    }
                    let next = expected.items.get(n).map_or(f32::INFINITY, |item| item.key);
                    assert!(
                        found.frontier <= next,
                        "{what}: {} > {next}",
                        found.frontier
                    );
                    if !disturbed && slack == 0.0 {
                        let read = stats.candidates - before;
                        assert!(read <= 32 + 64, "{what}: {read} entries read");
                    }
                }
            }
        }
    }
}

#[test]
fn slots_that_are_not_there_are_damage() {
    let seed = seed();
    let mut rng = rng(seed);
    let rows = Clusters::new(&mut rng, 8, 2).draw(&mut rng, 50);
    let (store, index) = build(MemStore::new(), METRICS[0], 8, &rows, 1, seed);
    let query = index.prepare(&rows[..8]).unwrap();
    let probe = select_lists(&store, &index, &query, 1).unwrap()[0];
    let entry = read_entries(&store, &index, &[probe.list]).unwrap()[0];
    let nowhere = SlotBound {
        probe: 0,
        slot: entry.frozen_count + 64,
        bound: 0.0,
    };
    let mut top = TopK::new(3);
    let mut stats = SearchStats::default();
    let lists = [(probe, entry)];
    assert!(
        rerank(
            &store,
            &index,
            &query,
            &lists,
            &[nowhere],
            &mut top,
            &mut stats
        )
        .is_err()
    );
}
