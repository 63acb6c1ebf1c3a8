//! Scans lock no list. Whatever happens between two of their reads, they find every entry that was there all the time exactly
//! once, and nothing that was deleted before they began.

mod store_world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::export::export_list;
use omen_ivf::fold::fold_list;
use omen_ivf::index::{Index, read_entry};
use omen_ivf::insert::insert;
use omen_ivf::list_reader::ListReader;
use omen_ivf::mem_store::MemStore;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::{Metric, Tid};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store_world::{Model, World, read_all, read_list, seed, tid, vector, verify};

/// First row number of entries that come and go during a test.
const PASSING: u32 = 1_000_000;

fn is_passing(t: Tid) -> bool {
    t >= tid(PASSING)
}

/// Passing rows inserted so far.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Disturbs the index between two reads of a scan.
fn disturb(store: &MemStore, rng: &mut StdRng) {
    let index = Index::open(store).unwrap();
    let list = rng.random_range(0..index.n_lists());
    match rng.random_range(0..4) {
        0 | 1 => drop(fold_list(store, &index, list).unwrap()),
        2 => {
            for _ in 0..rng.random_range(1..20) {
                let row = PASSING + NEXT.fetch_add(1, Ordering::Relaxed);
                insert(store, &index, &vector(rng, index.meta.dim), tid(row)).unwrap();
            }
        }
        _ => drop(bulk_delete(store, &index, &mut |t| is_passing(t) && t.offset % 2 == 0).unwrap()),
    }
}

/// Checks what a scan found against the entries that were there all the time.
fn check_scan(model: &Model, found: impl Iterator<Item = Tid>) {
    let mut seen = BTreeMap::new();
    for tid in found {
        *seen.entry(tid).or_insert(0) += 1;
    }
    for (&tid, &n) in &seen {
        assert!(n == 1, "{tid:?} found {n} times");
        assert!(
            is_passing(tid) || model.contains_key(&tid),
            "{tid:?} was deleted"
        );
    }
    for tid in model.keys() {
        assert!(seen.contains_key(tid), "{tid:?} lost");
    }
}

/// Sets the flag when dropped, so that a failed check ends the other threads too.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn world(dim: u32, n: u32, seed: u64) -> World {
    let mut world = World::new(Metric::L2, dim, 2, n, seed);
    world.delete(0.1);
    for _ in 0..n / 4 {
        world.insert();
    }
    world
}

#[test]
fn a_change_between_any_two_reads() {
    let seed = seed();
    for (dim, n) in [(3, 200), (100, 200), (768, 60), (4096, 12)] {
        let world = world(dim, n, seed);
        let query = world
            .index
            .prepare(&vector(&mut StdRng::seed_from_u64(seed), dim))
            .unwrap();
        let (store, index) = (&world.store, &world.index);
        for victim in 0..60 {
            let mut rng = StdRng::seed_from_u64(seed + victim);
            let mut reads = 0;
            // A list is read again after each change, so let them get rarer.
            store.set_hook(move |store, _| {
                reads += 1;
                if reads >= victim && rng.random_range(0..reads) < 2 {
                    disturb(store, &mut rng);
                }
            });
            let found = read_all(store, index).unwrap();
            check_scan(&world.model, found.iter().map(|f| f.0));
            for (tid, stored) in &found {
                assert!(
                    is_passing(*tid) || world.model.get(tid) == Some(stored),
                    "{tid:?} has another vector"
                );
            }
            let mut stats = SearchStats::default();
            let candidates = search(store, index, &query, 2, 1_000_000, &mut stats).unwrap();
            check_scan(&world.model, candidates.items.iter().map(|c| c.tid));
            store.clear_hook();
        }
        let index = Index::open(store).unwrap();
        bulk_delete(store, &index, &mut is_passing).unwrap();
        verify(store, &world.model);
    }
}

/// Pages are freed and come back at once as the same pages of the same list, with other entries in them: only the stamp
/// tells.
#[test]
fn pages_reused_in_place() {
    let seed = seed();
    for (dim, n) in [(3, 1200), (100, 300), (4096, 10)] {
        let World {
            store,
            index,
            mut model,
            ..
        } = World::on(MemStore::new(), Metric::L2, dim, 1, n, seed);
        for _ in 0..2 {
            fold_list(&store, &index, 0).unwrap();
        }
        let entry = read_entry(&store, &index, 0).unwrap();
        // The rows in the first slots go during the scan, so that all others move.
        let gone = |t: Tid| t < tid(3);
        model.retain(|&t, _| !gone(t));
        let before = store.n_reads();
        read_all(&store, &index).unwrap();
        let n_reads = store.n_reads() - before;
        for victim in 1..=n_reads {
            let store = store.snapshot();
            let mut reads = 0;
            store.set_hook(move |store, _| {
                reads += 1;
                if reads == victim {
                    let index = Index::open(store).unwrap();
                    fold_list(store, &index, 0).unwrap();
                    bulk_delete(store, &index, &mut |t| gone(t)).unwrap();
                    fold_list(store, &index, 0).unwrap();
                    let now = read_entry(store, &index, 0).unwrap();
                    assert_eq!(
                        (now.code_run, now.map_head),
                        (entry.code_run, entry.map_head)
                    );
                    assert_eq!(now.vector_run.start, entry.vector_run.start);
                }
            });
            let found = read_all(&store, &index).unwrap();
            store.clear_hook();
            assert!(read_entry(&store, &index, 0).unwrap().layout_gen > entry.layout_gen);
            let found: Vec<_> = found.into_iter().filter(|f| !gone(f.0)).collect();
            assert_eq!(found.len(), model.len());
            assert!(found.into_iter().collect::<Model>() == model);
        }
    }
}

/// A hot tier built from an export is valid by its entry's generations: then it holds exactly the live frozen entries.
#[test]
fn an_export_matches_its_entry() {
    let seed = seed();
    let world = world(100, 300, seed);
    let (store, index) = (&world.store, &world.index);
    let mut valid = 0;
    for round in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed + round);
        let mut left = rng.random_range(0..3);
        store.set_hook(move |store, _| {
            if left > 0 && rng.random_bool(0.1) {
                left -= 1;
                disturb(store, &mut rng);
            }
        });
        let mut slots: Vec<(Tid, bool)> = Vec::new();
        let loaded = export_list(store, index, 0, &mut |slot, tid, live, _, row| {
            assert_eq!(row.len(), 100);
            slots.truncate(slot as usize);
            assert_eq!(slots.len(), slot as usize);
            slots.push((tid, live));
        })
        .unwrap();
        store.clear_hook();
        slots.truncate(loaded.frozen_count as usize);
        assert_eq!(slots.len(), loaded.frozen_count as usize);
        let now = read_entry(store, index, 0).unwrap();
        if (now.layout_gen, now.delete_gen) != (loaded.layout_gen, loaded.delete_gen) {
            continue;
        }
        valid += 1;
        let mut tier: Vec<Tid> = slots.iter().filter(|s| s.1).map(|s| s.0).collect();
        let n_frozen = (now.frozen_count - now.frozen_dead) as usize;
        let all = read_list(store, index, 0, &mut ListReader::new()).unwrap();
        let mut frozen: Vec<Tid> = all[..n_frozen].iter().map(|f| f.0).collect();
        tier.sort();
        frozen.sort();
        assert_eq!(tier, frozen);
    }
    assert!(valid > 20, "{valid} of 200 exports stayed valid");
}

#[test]
fn threads() {
    let seed = seed();
    for dim in [8, 768, 4096] {
        let world = world(dim, if dim > 1000 { 20 } else { 400 }, seed);
        let World {
            store,
            index,
            model,
            ..
        } = world;
        let (store, index, stop) = (
            Arc::new(store),
            Arc::new(index),
            Arc::new(AtomicBool::new(false)),
        );
        let inserted = Arc::new(Mutex::new(Model::new()));
        let until = Instant::now() + Duration::from_millis(1500);
        std::thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            for worker in 0..2 {
                let (store, index, stop, inserted) =
                    (store.clone(), index.clone(), stop.clone(), inserted.clone());
                scope.spawn(move || {
                    let mut rng = StdRng::seed_from_u64(seed ^ worker);
                    for i in (PASSING + worker as u32..).step_by(2) {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let v = vector(&mut rng, dim);
                        insert(&*store, &index, &v, tid(i)).unwrap();
                        inserted
                            .lock()
                            .unwrap()
                            .insert(tid(i), index.to_stored(&v).unwrap().unwrap());
                    }
                });
            }
            let (deleter_store, deleter_index, deleter_stop) =
                (store.clone(), index.clone(), stop.clone());
            let deleter_inserted = inserted.clone();
            scope.spawn(move || {
                let (store, index, mut rng) = (
                    deleter_store,
                    deleter_index,
                    StdRng::seed_from_u64(seed ^ 7),
                );
                while !deleter_stop.load(Ordering::Relaxed) {
                    let rows: Vec<Tid> = deleter_inserted.lock().unwrap().keys().copied().collect();
                    let dead: Vec<Tid> =
                        rows.into_iter().filter(|_| rng.random_bool(0.5)).collect();
                    let stats =
                        bulk_delete(&*store, &index, &mut |tid| dead.binary_search(&tid).is_ok())
                            .unwrap();
                    assert_eq!(stats.removed, dead.len() as u64);
                    deleter_inserted
                        .lock()
                        .unwrap()
                        .retain(|tid, _| dead.binary_search(tid).is_err());
                    fold_list(&*store, &index, rng.random_range(0..2)).unwrap();
                }
            });
            let mut n_scans = 0;
            while Instant::now() < until {
                check_scan(
                    &model,
                    read_all(&*store, &index).unwrap().iter().map(|f| f.0),
                );
                n_scans += 1;
            }
            assert!(n_scans > 3);
        });
        let mut expected = model;
        expected.extend(inserted.lock().unwrap().clone());
        verify(&store, &expected);
    }
}
