//! A search tells the store which pages it will read: those it reads, in the order in which it reads them.

mod common;

use std::collections::{HashMap, HashSet};

use common::{Clusters, build, rng, seed, tid};
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::fold::vacuum_fold;
use omen_ivf::index::{Index, read_entry};
use omen_ivf::insert::insert;
use omen_ivf::layout::directory::{ListEntry, Run};
use omen_ivf::layout::page::{self, PageKind, PageTail};
use omen_ivf::mem_store::{Access, MemStore};
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::store::{NO_BLOCK, PageStore};
use omen_ivf::{Metric, Tid};
use rand::Rng;

/// What a search of `probes` lists did.
fn accesses(store: &MemStore, index: &Index, q: &[f32], probes: u32) -> (Vec<Access>, SearchStats) {
    let query = index.prepare(q).unwrap();
    let mut stats = SearchStats::default();
    store.record_accesses();
    let found = search(store, index, &query, probes, 5, &mut stats).unwrap();
    assert!(!found.items.is_empty());
    (store.take_accesses(), stats)
}

fn tail(store: &MemStore, block: u32) -> PageTail {
    store.read(block, page::tail).unwrap()
}

fn is(tail: &PageTail, kind: PageKind) -> bool {
    tail.kind == kind as u16
}

/// What had to be announced of a list: pages after the first run of a stream, or after the head of the chain, are not known.
fn known(entry: &ListEntry, block: u32, tail: &PageTail) -> bool {
    let first_run = |run: Run| (run.start..run.start + run.len).contains(&block);
    if is(tail, PageKind::Append) {
        block == entry.append_head
    } else {
        first_run(entry.code_run) || first_run(entry.vector_run)
    }
}

struct Seen {
    announced: usize,
    read: usize,
    rows_announced: usize,
}

/// Checks the accesses of one search. `filtered`: vectors of the first lists are read as their codes tell.
fn check(store: &MemStore, index: &Index, accesses: &[Access], filtered: bool) -> Seen {
    let mut places: HashMap<u32, usize> = HashMap::new();
    let (mut next, mut started) = (0, false);
    let mut seen = Seen {
        announced: 0,
        read: 0,
        rows_announced: 0,
    };
    let mut read_rows = HashSet::new();
    for access in accesses {
        match access {
            Access::Announced(blocks) => {
                places = blocks.iter().enumerate().map(|(i, &b)| (b, i)).collect();
                assert_eq!(places.len(), blocks.len(), "announced twice");
                (next, started) = (0, true);
                seen.announced += blocks.len();
                seen.rows_announced += blocks
                    .iter()
                    .filter(|&&b| is(&tail(store, b), PageKind::Vector))
                    .count();
            }
            &Access::Read(block) => {
                let tail = tail(store, block);
                if let Some(&place) = places.get(&block) {
                    assert!(place >= next, "block {block} is read out of order");
                    next = place + 1;
                    seen.read += 1;
                    continue;
                }
                let of_list = [PageKind::Code, PageKind::Vector, PageKind::Append]
                    .iter()
                    .any(|&kind| is(&tail, kind));
                if !started || !of_list || tail.list >= index.n_lists() {
                    continue;
                }
                let entry = read_entry(store, index, tail.list).unwrap();
                if !known(&entry, block, &tail) {
                    continue;
                }
                assert!(
                    filtered && is(&tail, PageKind::Vector),
                    "block {block} was not announced: {tail:?}"
                );
                read_rows.insert(tail.list);
            }
        }
    }
    assert!(
        read_rows.len() <= 2,
        "vectors of lists {read_rows:?} were not announced"
    );
    assert_eq!(accesses.last(), Some(&Access::Announced(Vec::new())));
    seen
}

#[test]
fn what_is_read_was_announced_in_order() {
    let seed = seed();
    let mut rng = rng(seed);
    let mut waited = 0;
    for (dim, filtered) in [(3, false), (100, true), (256, true), (768, true)] {
        let clusters = Clusters::new(&mut rng, dim, 30);
        let rows = clusters.draw(&mut rng, 2500);
        let (store, index) = build(MemStore::new(), Metric::L2, dim, &rows, 20, seed);
        let n_lists = index.n_lists();
        for _ in 0..5 {
            let q = clusters.draw(&mut rng, 1);
            let probes = rng.random_range(1..n_lists);
            let (done, _) = accesses(&store, &index, &q, probes);
            let seen = check(&store, &index, &done, filtered);
            waited += if filtered { seen.rows_announced } else { 0 };
            // All lists: every page that is announced is read.
            let (done, _) = accesses(&store, &index, &q, n_lists);
            let seen = check(&store, &index, &done, false);
            assert!(seen.announced > 0 && seen.rows_announced > 0);
            assert_eq!(seen.read, seen.announced);
        }
    }
    assert!(waited > 0, "no vector ever waited");
}

/// Appended and dead entries, and lists that a fold has rewritten on scattered pages.
#[test]
fn of_an_index_that_lives() {
    let seed = seed();
    let mut rng = rng(seed);
    for (dim, filtered) in [(4, false), (256, true)] {
        let clusters = Clusters::new(&mut rng, dim, 12);
        let rows = clusters.draw(&mut rng, 2000);
        let store = MemStore::fragmented(seed);
        let (store, index) = build(store, Metric::L2, dim, &rows, 9, seed);
        for round in 0..4 {
            for (i, v) in clusters.draw(&mut rng, 600).chunks_exact(dim).enumerate() {
                assert!(insert(&store, &index, v, tid(10_000 * (round + 1) + i)).unwrap());
            }
            let mut dead = |_: Tid| rng.random_bool(0.1);
            bulk_delete(&store, &index, &mut dead).unwrap();
            if round % 2 == 1 {
                vacuum_fold(&store, &index).unwrap();
                let has_map = |list| read_entry(&store, &index, list).unwrap().map_head != NO_BLOCK;
                assert!((0..index.n_lists()).any(has_map));
            }
            for _ in 0..3 {
                let q = clusters.draw(&mut rng, 1);
                let probes = rng.random_range(1..index.n_lists());
                let (done, stats) = accesses(&store, &index, &q, probes);
                assert_eq!(stats.restarts, 0);
                check(&store, &index, &done, filtered);
                let (done, _) = accesses(&store, &index, &q, index.n_lists());
                check(&store, &index, &done, false);
            }
        }
    }
}
