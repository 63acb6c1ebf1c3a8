//! Lists of a tier that a server has are refreshed by another process, while the tier is searched; or it maps the tier. Loader and host are
//! threads over one piece of memory.

#[path = "../../ivf/tests/store_world/mod.rs"]
mod store_world;
#[path = "load/world.rs"]
mod world;

use omen_gpu::memory::Parts;
use omen_gpu::{Copiers, Gpu, GpuError, NearSlot, Tier, TierList};
use omen_ivf::Metric;
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::index::{Index, read_entry, see_lists};
use omen_ivf::insert::insert;
use omen_ivf::list_reader::{AppendedTo, ListReader};
use omen_service::load::{HostOptions, Loaded, begin, begin_refresh, export, finish};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use store_world::{World, seed, tid, vector};
use world::{Server, choices, go_on, helpers, roomy, search, until, wanted};

const LIMIT: u64 = 1 << 32;
const NUMBER: u64 = 7;

type Shared = Arc<Mutex<Option<Tier>>>;

/// A server whose tier can be refreshed.
fn server_with(tier: &Shared) -> Server {
    let mut server = Server::new((2, 4 << 20));
    server.stop();
    let shared = tier.clone();
    server.start(HostOptions {
        refresh: Some(Box::new(move |_| {
            let tier = shared.lock().unwrap();
            Some((NUMBER, tier.as_ref()?.begin_refresh().ok()?))
        })),
        export: Some(Box::new({
            let shared = tier.clone();
            move |_| {
                let tier = shared.lock().unwrap();
                Some((NUMBER, tier.as_ref()?.export().ok()?))
            }
        })),
        ..HostOptions::default()
    });
    server
}

/// A tier of all lists, with room for some more entries.
fn tier_with_room(gpu: &Gpu, world: &World, parts: Parts) -> Tier {
    // All of them may be written again at once.
    let n_slots = wanted(world, parts, LIMIT).n_slots * 5 / 2 + 1000;
    roomy(gpu, world, parts, n_slots, LIMIT)
}

/// The lists that a tier has otherwise than the index, appended entries included unless it has codes alone.
fn stale(lists: &[Option<TierList>], world: &World, parts: Parts) -> Vec<u32> {
    let all: Vec<u32> = (0..world.index.n_lists()).collect();
    let (store, index) = (&world.store, &world.index);
    let all_seen = see_lists(store, index, &all).unwrap();
    let is_stale = |&list: &u32| {
        let seen = &all_seen[list as usize];
        let Some(here) = &lists[list as usize] else {
            return true;
        };
        let most = if parts.rows() { usize::MAX } else { 0 };
        let mut reader = ListReader::new();
        let appended = reader.appended_up_to(store, index, list, seen, most, 0, |_, _, _, _| ());
        let appended = appended.unwrap().map(AppendedTo::without_version);
        !here.is_current(&seen.entry) || appended != Some(here.appended.without_version())
    };
    all.into_iter().filter(is_stale).collect()
}

/// Of each query the tids with their keys, or of codes alone the lists and slots with their bounds.
fn answers(tier: &Tier, world: &World, seed: u64) -> Vec<Vec<(u32, u32, f32)>> {
    let found = search(tier, world, seed).unwrap();
    let named = |near: NearSlot| {
        let (list, slot) = tier.place_of(near.slot).unwrap();
        (list, slot, near.bound)
    };
    let of = |q| match tier.parts() {
        Parts::Codes => found.slots_of(q).map(named).collect(),
        _ => {
            let found = found.of(q).iter();
            found.map(|f| (f.tid_block, f.tid_offset, f.key)).collect()
        }
    };
    let mut answers: Vec<Vec<_>> = (0..4).map(of).collect();
    // Of equal bounds the tier's slots decide, which are others.
    for answer in &mut answers {
        answer.sort_by(|a, b| a.2.total_cmp(&b.2).then((a.0, a.1).cmp(&(b.0, b.1))));
    }
    answers
}

/// First row number of entries that the world does not know of.
const PASSING: u32 = 1_000_000;

/// From now on something is inserted now and then between two reads of pages.
fn disturb(world: &World, seed: u64) {
    let (mut rng, dim, mut left) = (StdRng::seed_from_u64(seed), world.index.meta.dim, 8);
    world.store.set_hook(move |store, _| {
        if left > 0 && rng.random_bool(0.2) {
            left -= 1;
            let index = Index::open(store).unwrap();
            let row = tid(PASSING + rng.random_range(0..1_000_000));
            insert(store, &index, &vector(&mut rng, dim), row).unwrap();
        }
    });
}

/// What a tier says that it has of the entries appended to its lists is there.
fn check_known(tier: &Tier, world: &World, what: &str) {
    let (store, index) = (&world.store, &world.index);
    for (list, here) in (0..).zip(tier.lists()) {
        let entry = read_entry(store, index, list).unwrap();
        let Some(here) = here.filter(|here| here.is_current(&entry)) else {
            continue;
        };
        let mut n = 0;
        let all = usize::MAX;
        let known = ListReader::new().appended_up_to(
            store,
            index,
            list,
            &entry.into(),
            all,
            0,
            |_, _, _, _| n += 1,
        );
        assert!(known.unwrap().is_some(), "{what}");
        let n_here = here.n_slots - entry.frozen_count;
        let may_lack = here.appended.may_lack(store, index, list, &entry);
        assert!(
            n_here == n || n_here < n && may_lack,
            "{what}, list {list}: {n_here} of {n}"
        );
    }
}

#[test]
fn refreshed_lists_are_those_of_the_index() {
    let mut rng = StdRng::seed_from_u64(seed());
    for (dim, n) in [(3, 3000), (513, 500), (768, 400)] {
        for metric in [Metric::L2, Metric::NegIp, Metric::Cosine] {
            let n_lists = rng.random_range(4..12);
            let mut world = World::new(metric, dim, n_lists, n, rng.random());
            let filter = world.index.meta.shape().filter;
            for &parts in choices(filter) {
                let shared = Shared::default();
                let server = server_with(&shared);
                *shared.lock().unwrap() = Some(tier_with_room(&server.gpu, &world, parts));
                let what = format!("{} {dim} {filter:?} {parts:?}", metric.name());
                let (key, mut n_refreshed) = (wanted(&world, parts, LIMIT).key, 0);
                let (mut n_renewed, mut n_compared) = (0, 0);
                for _ in 0..6 {
                    let is_passing = &mut |row| row >= tid(PASSING);
                    bulk_delete(&world.store, &world.index, is_passing).unwrap();
                    for _ in 0..rng.random_range(0..60) {
                        world.insert();
                    }
                    world.delete(0.03);
                    for _ in 0..3 {
                        world.fold();
                    }
                    let tier = shared.lock().unwrap().take().unwrap();
                    let (old, spec) = (tier.lists().to_vec(), tier.spec());
                    *shared.lock().unwrap() = Some(tier);
                    let copiers = Copiers::with_threads(rng.random_range(0..2));
                    let pool = helpers(rng.random_range(0..3));
                    let mut builder =
                        begin_refresh(&server.region, 5, &key, spec, copiers, go_on()).unwrap();
                    assert_eq!(builder.lists(), old, "{what}");
                    let wanted = stale(builder.lists(), &world, parts);
                    let (store, index) = (&world.store, &world.index);
                    let is_disturbed = rng.random_bool(0.4);
                    if is_disturbed {
                        disturb(&world, rng.random());
                    }
                    let seen = see_lists(store, index, &wanted).unwrap();
                    let as_seen = wanted.iter().copied().zip(seen);
                    let left = builder
                        .renew_lists(store, index, as_seen, pool.as_ref())
                        .unwrap();
                    store.clear_hook();
                    n_renewed += wanted.len() - left.len();
                    builder.load_lists(store, index, &left).unwrap();
                    // Those that are renewed may lack what was appended.
                    let behind = stale(builder.lists(), &world, parts);
                    builder.load_lists(store, index, &behind).unwrap();
                    let finished = finish(builder).unwrap();
                    let Ok(Loaded::Lists(of, NUMBER, lists)) = server.tiers.try_recv() else {
                        panic!("{what}: no lists");
                    };
                    assert_eq!(of, key);
                    let mut tier = shared.lock().unwrap().take().unwrap();
                    tier.end_refresh(lists).unwrap();
                    check_known(&tier, &world, &what);
                    drop(finished);
                    let left: BTreeSet<u32> =
                        stale(tier.lists(), &world, parts).into_iter().collect();
                    n_refreshed += wanted.len() - left.len();
                    assert!(left.iter().all(|list| wanted.contains(list)), "{what}");
                    if left.is_empty() {
                        n_compared += 1;
                        let anew = tier_with_room(&server.gpu, &world, parts);
                        let seed = rng.random();
                        let (found, right) =
                            (answers(&tier, &world, seed), answers(&anew, &world, seed));
                        assert_eq!(found, right, "{what}");
                    }
                    *shared.lock().unwrap() = Some(tier);
                    until("the region is free", || server.region.owner().is_none());
                }
                assert!(
                    n_refreshed > 6 && n_renewed > 0 && n_compared > 0,
                    "{what}: {n_refreshed} {n_renewed} {n_compared}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_there_is_not_refreshed() {
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::new(Metric::L2, 20, 4, 500, rng.random());
    let wanted = wanted(&world, Parts::Rows, LIMIT);
    let shared = Shared::default();
    let server = server_with(&shared);
    let refused = |spec| {
        let outcome = begin_refresh(
            &server.region,
            5,
            &wanted.key,
            spec,
            Copiers::none(),
            go_on(),
        );
        until("the region is free", || server.region.owner().is_none());
        outcome.err().expect("refused")
    };
    assert!(matches!(refused(wanted.spec), GpuError::Unsupported(_)));
    *shared.lock().unwrap() = Some(tier_with_room(&server.gpu, &world, Parts::Rows));
    // Of an index of another shape; its loader may not have noticed.
    let mut other = wanted.spec;
    other.n_lists = 5;
    assert!(matches!(refused(other), GpuError::Other(_)));
    // Dropped: nothing comes of it.
    let key = &wanted.key;
    let builder = begin_refresh(
        &server.region,
        5,
        key,
        wanted.spec,
        Copiers::none(),
        go_on(),
    );
    drop(builder.unwrap());
    until("the region is free", || server.region.owner().is_none());
    assert!(server.tiers.try_recv().is_err());
    *shared.lock().unwrap() = None;
    until("all is free", || server.gpu.allocated() == 0);
}

#[test]
fn tiers_are_mapped_by_others() {
    let mut rng = StdRng::seed_from_u64(seed());
    let gpu = Gpu::open_simulated();
    let shared = Shared::default();
    let server = server_with(&shared);
    let world = World::new(Metric::L2, 40, 12, 2000, rng.random());
    let wanted = wanted(&world, Parts::Rows, LIMIT);
    let ask = |spec| export(&server.region, 5, &wanted.key, spec, go_on());
    let refused = ask(wanted.spec).err();
    assert!(
        matches!(refused, Some(GpuError::Unsupported(_))),
        "{refused:?}"
    );
    *shared.lock().unwrap() = Some(tier_with_room(&server.gpu, &world, Parts::Rows));
    // One after the other: each leaves the region to the next.
    for _ in 0..3 {
        until("the region is free", || server.region.owner().is_none());
        let (number, export) = ask(wanted.spec).unwrap();
        assert_eq!(number, NUMBER);
        let mapped = Tier::map(&gpu, export, None, LIMIT).unwrap();
        let own = shared.lock().unwrap();
        let own = own.as_ref().unwrap();
        assert_eq!(mapped.lists(), own.lists());
        let (a, b) = (mapped.read_back().unwrap(), own.read_back().unwrap());
        assert!(a.bytes() == b.bytes());
    }
    until("the region is free", || server.region.owner().is_none());
    let mut other = wanted.spec;
    other.n_lists = 5;
    assert!(ask(other).is_err(), "of an index of another shape");
    until("the region is free", || server.region.owner().is_none());
    // While another loads it has to wait.
    let load = begin(&server.region, 6, wanted, Copiers::none(), go_on()).unwrap();
    assert!(matches!(ask(wanted.spec), Err(GpuError::Busy)));
    drop(load);
    assert_eq!(gpu.allocated(), 0);
}
