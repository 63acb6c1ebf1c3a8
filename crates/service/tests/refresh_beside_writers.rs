//! A tier is refreshed while entries are inserted and deleted and lists folded between any two reads of pages, and refreshes are given up at any
//! point: what the tier says of a list it holds, and no entry that lives is missing. This is what a search relies on that leaves dead entries out
//! by their slots.

#[path = "../../ivf/tests/store_world/mod.rs"]
mod store_world;
#[path = "load/world.rs"]
mod world;

use half::f16;
use omen_gpu::memory::{Parts, with_room};
use omen_gpu::{Copiers, Tier, TierList};
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::fold::fold_list;
use omen_ivf::index::{Index, read_entry, see_lists};
use omen_ivf::insert::insert;
use omen_ivf::layout::group::Filter;
use omen_ivf::list_reader::{ListReader, Visit};
use omen_ivf::mem_store::MemStore;
use omen_ivf::{Metric, Tid};
use omen_service::load::{HostOptions, Loaded, begin_refresh, finish};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use store_world::{World, seed, tid, vector};
use world::{Server, go_on, helpers, roomy, until, wanted};

const LIMIT: u64 = 1 << 32;

/// Somebody inserts, deletes, or folds a list, with hardly a pause.
fn write(store: &MemStore, index: &Index, rng: &mut StdRng, next_row: &mut u32) {
    match rng.random_range(0..10) {
        0..6 => {
            for _ in 0..rng.random_range(1..6) {
                *next_row += 1;
                let v = vector(rng, index.meta.dim);
                insert(store, index, &v, tid(*next_row)).unwrap();
            }
        }
        6..9 => {
            bulk_delete(store, index, &mut |_| rng.random_bool(0.01)).unwrap();
        }
        _ => {
            fold_list(store, index, rng.random_range(0..index.n_lists())).unwrap();
        }
    }
}

/// The entries of a list by slot, dead ones included: tid, whether it lives, row.
fn by_slot(store: &MemStore, index: &Index, list: u32) -> Vec<(Tid, bool, Vec<f16>)> {
    let entry = read_entry(store, index, list).unwrap();
    let (mut reader, mut entries) = (ListReader::new(), Vec::new());
    let visit = reader.for_each_group(store, index, list, &entry, |_, header| {
        for i in 0..32 {
            if entries.len() < entry.frozen_count as usize {
                let tid = Tid::new(header.tid_block[i], header.tid_offset[i]);
                entries.push((tid, header.live & 1 << i != 0, Vec::new()));
            }
        }
        ControlFlow::Continue(())
    });
    assert_eq!(visit.unwrap(), Visit::Done);
    let slots: Vec<u32> = (0..entry.frozen_count).collect();
    let visit = reader.read_rows(store, index, list, &entry, &slots, |slot, row| {
        entries[slot as usize].2 = row.to_vec();
    });
    assert_eq!(visit.unwrap(), Visit::Done);
    let push = |tid, live, _, row: &[f16]| entries.push((tid, live, row.to_vec()));
    let all = usize::MAX;
    let known = reader.appended_up_to(store, index, list, &entry.into(), all, 0, push);
    assert!(known.unwrap().is_some());
    entries
}

/// What was compared.
#[derive(Debug, Default)]
struct Compared {
    unchanged: usize,
    current: usize,
    thinned: usize,
    rewritten: usize,
    appended: usize,
}

/// Every list that was not rewritten since is as its pages are, slot by slot, but for what has died since; and what is beyond what the tier knows
/// is what it lacks.
fn check(tier: &Tier, world: &World, compared: &mut Compared, what: &str) {
    let (store, index) = (&world.store, &world.index);
    let image = tier.read_back().unwrap();
    let arrays = image.arrays();
    for (list, here) in (0..).zip(tier.lists()) {
        let entry = read_entry(store, index, list).unwrap();
        let Some(here) = here else { continue };
        if here.layout_gen != entry.layout_gen {
            compared.rewritten += 1;
            continue;
        }
        let what = format!("{what}, list {list}: {here:?} {entry:?}");
        let entries = by_slot(store, index, list);
        assert!(here.slots().len() <= entries.len(), "{what}");
        let is_current = here.is_current(&entry);
        // As it was loaded, by its version alone.
        let is_unchanged = here.appended.is_all(store, list);
        assert!(
            !is_unchanged || is_current && here.slots().len() == entries.len(),
            "{what}: has changed unseen"
        );
        assert!(!is_current || here.n_live == entry.n_live(), "{what}");
        compared.unchanged += usize::from(is_unchanged);
        compared.current += usize::from(is_current);
        compared.thinned += usize::from(!is_current);
        for (slot, (tid, is_live, row)) in here.slots().zip(&entries) {
            let here_live = arrays.live[slot / 32] >> (slot % 32) & 1 != 0;
            assert!(here_live || !is_live, "{what}: slot {slot} is missing");
            assert!(
                !is_current || here_live == *is_live,
                "{what}: slot {slot} is stale"
            );
            if tier.parts().rows() {
                let there = u64::from(tid.block) | u64::from(tid.offset) << 32;
                assert_eq!(arrays.tids[slot], there, "{what}: slot {slot}");
                let here_row = &arrays.row(slot as u32)[..row.len()];
                assert_eq!(here_row, row, "{what}: slot {slot}");
            }
        }
        let n_appended = here.n_slots - entry.frozen_count;
        compared.appended += n_appended as usize;
        let (mut beyond, mut reader) = (Vec::new(), ListReader::new());
        let known = &here.appended;
        let push = |tid: Tid, _, _: &[f16]| beyond.push(tid);
        let visit = reader.for_each_appended(store, index, list, &entry, known, push);
        assert_eq!(visit.unwrap(), Visit::Done);
        let lacking = entries[here.n_slots as usize..].iter();
        let lacking: Vec<Tid> = lacking.filter(|e| e.1).map(|e| e.0).collect();
        assert_eq!(beyond, lacking, "{what}");
    }
}

#[test]
fn a_tier_holds_what_it_says_whatever_becomes_of_a_refresh() {
    let mut rng = StdRng::seed_from_u64(seed());
    let (mut compared, mut ends) = (Compared::default(), [0; 4]);
    for round in 0..12 {
        let (dim, n) = [(3, 2000), (40, 900), (513, 300)][round % 3];
        let n_lists = rng.random_range(2..10);
        let world = World::new(Metric::L2, dim, n_lists, n, rng.random());
        let filter = world.index.meta.shape().filter;
        let parts = match (filter, rng.random_range(0..3)) {
            (Filter::OneBit, 0) => Parts::Codes,
            (Filter::OneBit, 1) => Parts::RowsAndCodes,
            _ => Parts::Rows,
        };
        let what = format!("dim {dim}, {parts:?}");
        let shared: Arc<Mutex<(u64, Option<Tier>)>> = Arc::default();
        let mut server = Server::new((2, 4 << 20));
        server.stop();
        let of_host = shared.clone();
        server.start(HostOptions {
            refresh: Some(Box::new(move |_| {
                let shared = of_host.lock().unwrap();
                Some((shared.0, shared.1.as_ref()?.begin_refresh().ok()?))
            })),
            ..HostOptions::default()
        });
        let n_slots = match rng.random_bool(0.7) {
            true => with_room(u64::from(n), n_lists as usize),
            false => u64::from(n) + rng.random_range(100..800),
        };
        shared.lock().unwrap().1 = Some(roomy(&server.gpu, &world, parts, n_slots, LIMIT));
        let (key, spec) = {
            let wanted = wanted(&world, parts, LIMIT);
            (wanted.key, wanted.spec)
        };
        let next_row = Arc::new(Mutex::new(1_000_000));
        for step in 0..30 {
            let what = format!("{what}, step {step}");
            let (store, index) = (&world.store, &world.index);
            for _ in 0..rng.random_range(0..4) {
                write(store, index, &mut rng, &mut next_row.lock().unwrap());
            }
            let mut of_writer = StdRng::seed_from_u64(rng.random());
            let share = rng.random_range(0.0..0.1);
            let row = next_row.clone();
            let mut builder =
                begin_refresh(&server.region, 5, &key, spec, Copiers::none(), go_on()).unwrap();
            let how = rng.random_range(0..4);
            let pool = helpers(rng.random_range(0..3));
            if how == 0 {
                store.fail_after(rng.random_range(1..200));
            } else {
                store.set_hook(move |store, _| {
                    if of_writer.random_bool(share) {
                        let index = Index::open(store).unwrap();
                        write(store, &index, &mut of_writer, &mut row.lock().unwrap());
                    }
                });
            }
            let written = (|| {
                let all: Vec<u32> = (0..index.n_lists()).collect();
                let seen = see_lists(store, index, &all)?;
                let as_seen = all.into_iter().zip(seen);
                let left = builder.renew_lists(store, index, as_seen, pool.as_ref())?;
                builder.load_lists(store, index, &left)
            })();
            store.clear_hook();
            store.fail_after(i64::MAX);
            ends[how] += 1;
            match (how, written) {
                // Given up after an error, or by a cancellation.
                (_, Err(_)) | (1, _) => drop(builder),
                // All is written when the loader is gone.
                (2, Ok(())) => drop(builder.end().unwrap()),
                (_, Ok(())) => {
                    let finished = finish(builder).unwrap();
                    let mut shared = shared.lock().unwrap();
                    let Ok(Loaded::Lists(_, number, lists)) = server.tiers.try_recv() else {
                        panic!("{what}: no lists");
                    };
                    assert_eq!(number, shared.0);
                    shared.0 += 1;
                    shared.1.as_mut().unwrap().end_refresh(lists).unwrap();
                    drop(finished);
                }
            }
            until("the region is free", || server.region.owner().is_none());
            let shared = shared.lock().unwrap();
            let tier = shared.1.as_ref().unwrap();
            let lists: Vec<TierList> = tier.lists().iter().flatten().copied().collect();
            assert!(!lists.is_empty(), "{what}");
            check(tier, &world, &mut compared, &what);
        }
    }
    let is_all = compared.unchanged > 0
        && compared.current > 0
        && compared.thinned > 0
        && compared.rewritten > 0;
    assert!(is_all && compared.appended > 0, "{compared:?}");
    assert!(ends.iter().all(|&n| n > 0), "{ends:?}");
}
