//! The check against the rows of a table, while an index changes, and on vectors of all sizes: what is sound is told sound.

mod store_world;

use std::sync::{Arc, Mutex};

use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::check::{CheckReport, CrossCheck, Settings, walk};
use omen_ivf::fold::{fold_list, vacuum_fold};
use omen_ivf::index::Index;
use omen_ivf::insert::insert;
use omen_ivf::layout::page;
use omen_ivf::mem_store::MemStore;
use omen_ivf::store::PageStore;
use omen_ivf::stored::StoredVector;
use omen_ivf::{IvfError, Metric, Tid};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store_world::{Model, World, seed, tid, vector, verify};

/// Of an index during one check.
const MOST_CHANGES: u32 = 30;

fn walked(store: &MemStore, is_changing: bool) -> CrossCheck<Vec<u8>> {
    let index = Index::open(store).unwrap();
    let settings = Settings {
        is_changing,
        has_place: &mut |tid| tid.block < 1_000_000,
        // As little as there can be: a thousand rows, the rest goes to the file.
        most_bytes: 0,
        new_file: &mut || Ok(Vec::<u8>::new()),
    };
    walk(store, &index, settings).unwrap()
}

/// Against a table with these rows; `stale` are what the table has no line pointers of.
fn against(store: &MemStore, rows: &Model, stale: &[Tid]) -> CheckReport {
    let mut check = walked(store, false);
    let mut lookup = |tid: Tid| Ok(stale.contains(&tid).then_some("which is gone"));
    for (&tid, stored) in rows {
        check.row(tid, stored, &mut lookup).unwrap();
    }
    check.end_of_table(&mut lookup, &mut || Ok(())).unwrap();
    check.finish(&mut || Ok(())).unwrap()
}

fn whats(report: &CheckReport) -> Vec<String> {
    report.problems.iter().map(|f| f.what.clone()).collect()
}

fn name(tid: Tid) -> String {
    format!("({},{})", tid.block, tid.offset)
}

#[test]
fn rows_of_a_table() {
    let seed = seed();
    for dim in [3, 100] {
        // More than a thousand: they go through the file.
        let mut world = World::new(Metric::L2, dim, 7, 2500, seed);
        for _ in 0..200 {
            world.insert();
        }
        world.delete(0.1);
        let report = against(&world.store, &world.model, &[]);
        assert!(report.is_sound(), "{:#?}", report.problems);
        assert_eq!(report.rows_checked, world.model.len() as u64);

        let tids: Vec<Tid> = world.model.keys().copied().collect();
        let mut pick = || tids[world.rng.random_range(0..tids.len())];
        let (lost, changed, invisible, loose) = loop {
            let four = (pick(), pick(), pick(), pick());
            let mut distinct = vec![four.0, four.1, four.2, four.3];
            distinct.sort();
            distinct.dedup();
            if distinct.len() == 4 {
                break four;
            }
        };
        let store = world.store.snapshot();
        bulk_delete(&store, &world.index, &mut |tid| tid == lost).unwrap();
        let mut rows = world.model.clone();
        let other = vector(&mut world.rng, dim);
        let other = world.index.to_stored(&other).unwrap().unwrap();
        rows.insert(changed, other);
        // A row that nobody sees any more, and one whose line pointer is gone.
        rows.remove(&invisible);
        rows.remove(&loose);
        let report = against(&store, &rows, &[loose]);
        let mut wanted = [
            format!("lacks an entry of heap row {}", name(lost)),
            format!(
                "the entry of heap row {} is not that of the row's vector",
                name(changed)
            ),
            format!("it has an entry of heap row {}, which is gone", name(loose)),
        ];
        let mut found = whats(&report);
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted);
        // The radius belongs to it.
        let mut rows = world.model.clone();
        let stored = rows.get_mut(&changed).unwrap();
        stored.err = stored.err.next_up();
        assert_eq!(against(&world.store, &rows, &[]).n_findings, 1);
    }
}

#[test]
fn rows_out_of_order_are_refused() {
    let world = World::new(Metric::L2, 3, 2, 900, seed());
    let mut check = walked(&world.store, false);
    let stored = StoredVector {
        row: vec![half::f16::ZERO; 3],
        err: 0.0,
    };
    check.row(tid(500), &stored, &mut |_| Ok(None)).unwrap();
    let outcome = check.row(tid(100), &stored, &mut |_| Ok(None));
    assert!(matches!(outcome, Err(IvfError::Store(_))));
}

#[test]
fn places_past_the_end_of_the_table() {
    let world = World::new(Metric::L2, 3, 2, 900, seed());
    let settings = Settings {
        is_changing: false,
        has_place: &mut |tid| tid.block < 2,
        most_bytes: 0,
        new_file: &mut || Ok(Vec::<u8>::new()),
    };
    let check = walk(&world.store, &world.index, settings).unwrap();
    let report = check.finish(&mut || Ok(())).unwrap();
    // 200 rows a block.
    assert_eq!(report.n_findings, 500);
    assert!(whats(&report)[0].contains("for which the table has no place"));
}

/// As on a standby: entries come and go, lists are rewritten, pages change their owners between any two reads.
#[test]
fn an_index_that_changes_meanwhile() {
    let seed = seed();
    for (round, dim) in [3, 3, 100, 1100, 4100].into_iter().enumerate() {
        let n = if dim > 1000 { 30 } else { 300 };
        let mut world = World::new(Metric::L2, dim, 6, n, seed ^ round as u64);
        for _ in 0..n / 5 {
            world.insert();
        }
        // These are not touched, so each check must find them.
        let kept: Model = world
            .model
            .iter()
            .step_by(2)
            .map(|(&t, v)| (t, v.clone()))
            .collect();
        let state = Mutex::new((StdRng::seed_from_u64(seed), 500_000u32, 0));
        let state = Arc::new(state);
        let (hook_state, hook_kept) = (state.clone(), kept.clone());
        world.store.set_hook(move |store, _| {
            let (rng, next, left) = &mut *hook_state.lock().unwrap();
            if rng.random_range(0..12) > 0 || *left == 0 {
                return;
            }
            *left -= 1;
            let index = Index::open(store).unwrap();
            match rng.random_range(0..8) {
                0 => {
                    let share = rng.random_range(3..9);
                    bulk_delete(store, &index, &mut |tid| {
                        tid.offset % share == 0 && !hook_kept.contains_key(&tid)
                    })
                    .unwrap();
                }
                1 => drop(fold_list(store, &index, rng.random_range(0..6)).unwrap()),
                2 => drop(vacuum_fold(store, &index).unwrap()),
                _ => {
                    *next += 1;
                    insert(store, &index, &vector(rng, dim), tid(*next)).unwrap();
                }
            }
        });
        let (mut n_changed, mut n_unsettled, mut n_changes) = (0, 0, 0);
        for _ in 0..20 {
            // Not without end: each read would bring more to be read.
            state.lock().unwrap().2 = MOST_CHANGES;
            let mut check = walked(&world.store, true);
            for (&tid, stored) in &kept {
                check.row(tid, stored, &mut |_| Ok(None)).unwrap();
            }
            let report = check.finish(&mut || Ok(())).unwrap();
            assert!(report.is_sound(), "{:#?}", report.problems);
            n_changed += u32::from(report.has_changed);
            n_unsettled += report.unsettled_lists;
            n_changes += MOST_CHANGES - state.lock().unwrap().2;
        }
        world.store.clear_hook();
        println!(
            "dim {dim}: {n_changes} changes, {n_changed} of 20 checks saw some, {n_unsettled} lists unsettled"
        );
        assert!(n_changed > 0, "nothing changed");
        let report = walked(&world.store, false).finish(&mut || Ok(())).unwrap();
        assert!(report.is_sound(), "{:#?}", report.problems);
    }
}

/// A list that is rewritten at each look is given up, and nothing false is said of its rows.
#[test]
fn a_list_that_never_holds_still() {
    let mut world = World::new(Metric::L2, 3, 6, 600, seed());
    let list = world.rng.random_range(0..6);
    world.store.set_hook(move |store, block| {
        if store.read(block, page::tail).unwrap().list == list {
            fold_list(store, &Index::open(store).unwrap(), list).unwrap();
        }
    });
    let mut check = walked(&world.store, true);
    for (&tid, stored) in &world.model {
        check.row(tid, stored, &mut |_| Ok(None)).unwrap();
    }
    let report = check.finish(&mut || Ok(())).unwrap();
    assert!(report.is_sound(), "{:#?}", report.problems);
    assert_eq!((report.unsettled_lists, report.leaked_pages), (1, 0));
    assert!(report.frozen < 600);
}

/// Damage is told of an index that may change too, and the check of it ends.
#[test]
fn damage_where_changes_are_expected() {
    let seed = seed();
    let mut world = World::new(Metric::L2, 100, 4, 300, seed);
    for _ in 0..60 {
        world.insert();
    }
    world.delete(0.1);
    let (mut n_found, n_blocks) = (0, world.store.n_blocks().unwrap());
    for _ in 0..300 {
        let store = world.store.snapshot();
        let block = loop {
            let block = world.rng.random_range(1..n_blocks);
            if !store.read(block, page::is_free).unwrap() {
                break block;
            }
        };
        let n_bytes = store.read(block, page::content_bytes).unwrap();
        let at = page::CONTENT_START + world.rng.random_range(0..n_bytes);
        let bits = world.rng.random_range(1..=255u8);
        store.damage(block, |page| page[at] ^= bits);
        let alone = walked(&store, false).finish(&mut || Ok(())).unwrap();
        let mut changing = walked(&store, true).finish(&mut || Ok(())).unwrap();
        // It sees nothing move.
        changing.has_changed = false;
        assert_eq!(changing, alone);
        n_found += u32::from(!alone.is_sound());
        assert!(store.n_reads() < 40_000, "{} reads", store.n_reads());
    }
    println!("{n_found} of 300 flipped bytes found by the index alone");
    assert!(n_found > 100, "{n_found} found");
}

/// Numbers from one end of the range to the other: radii, lengths and lists have no false findings.
#[test]
fn vectors_of_all_sizes() {
    let seed = seed();
    for metric in [Metric::L2, Metric::NegIp, Metric::Cosine] {
        for dim in [1, 2, 50, 600] {
            let mut world = World::new(metric, dim, 9, 60, seed);
            for i in 0..200 {
                let scale = 2f32.powi(world.rng.random_range(-140..120));
                let spread = world.rng.random_range(0..40);
                let v: Vec<f32> = (0..dim)
                    .map(|_| {
                        let own = 2f32.powi(-world.rng.random_range(0..=spread));
                        world.rng.random_range(-1.0..1.0f32) * scale * own
                    })
                    .collect();
                let row = tid(10_000 + i);
                if insert(&world.store, &world.index, &v, row).unwrap() {
                    let stored = world.index.to_stored(&v).unwrap().unwrap();
                    world.model.insert(row, stored);
                }
            }
            verify(&world.store, &world.model);
            world.fold();
            assert!(against(&world.store, &world.model, &[]).is_sound());
        }
    }
}
