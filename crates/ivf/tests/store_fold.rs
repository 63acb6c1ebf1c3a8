//! When lists are folded, and lists too long for one batch or one map page.

mod store_world;

use omen_ivf::Metric;
use omen_ivf::fold::{fold_list, vacuum_fold};
use omen_ivf::index::read_entry;
use omen_ivf::layout::append::records_per_page;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::layout::page;
use omen_ivf::store::{ListLock, NO_BLOCK, PageStore, PageStoreMut};
use rand::Rng;
use store_world::{World, seed, tid};

fn entry(world: &World, list: u32) -> ListEntry {
    read_entry(&world.store, &world.index, list).unwrap()
}

#[test]
fn inserts_keep_the_appendable_part_short() {
    let seed = seed();
    for (dim, n) in [(1024, 400), (4024, 120), (4025, 450)] {
        let mut world = World::new(Metric::L2, dim, 1, 0, seed);
        for _ in 0..n {
            world.insert();
            let entry = entry(&world, 0);
            let per_page = records_per_page(dim);
            let most = 64.max(entry.frozen_count / 4).div_ceil(per_page) * per_page + per_page;
            assert!(entry.append_pages * per_page <= most);
        }
        assert!(entry(&world, 0).layout_gen > 1, "dim {dim}: never folded");
        world.verify();
    }
}

#[test]
fn inserts_do_not_wait_to_fold() {
    let seed = seed();
    let mut world = World::new(Metric::L2, 1024, 1, 0, seed);
    // Another inserter holds the list shared all the time.
    let store = std::sync::Arc::new(std::mem::take(&mut world.store));
    let (other, ready) = (
        store.clone(),
        std::sync::Arc::new(std::sync::Barrier::new(2)),
    );
    let (there, done) = (
        ready.clone(),
        std::sync::Arc::new(std::sync::Barrier::new(2)),
    );
    let end = done.clone();
    let holder = std::thread::spawn(move || {
        other.lock_list(0, ListLock::Shared).unwrap();
        there.wait();
        end.wait();
        other.unlock_list(0, ListLock::Shared).unwrap();
    });
    ready.wait();
    let mut model = world.model.clone();
    for i in 0..150 {
        let v = store_world::vector(&mut world.rng, 1024);
        omen_ivf::insert::insert(&*store, &world.index, &v, tid(i)).unwrap();
        model.insert(tid(i), world.index.to_stored(&v).unwrap().unwrap());
    }
    let entry = read_entry(&*store, &world.index, 0).unwrap();
    assert_eq!((entry.layout_gen, entry.append_pages), (1, 50));
    done.wait();
    holder.join().unwrap();
    store_world::verify(&store, &model);
}

#[test]
fn vacuum_folds_where_it_pays() {
    let seed = seed();
    let mut world = World::new(Metric::L2, 3, 1, 1600, seed);
    let fold = |world: &World| vacuum_fold(&world.store, &world.index).unwrap().lists;
    for _ in 0..99 {
        world.insert();
    }
    assert_eq!(fold(&world), 0, "less than a sixteenth appended");
    world.insert();
    assert_eq!(fold(&world), 1);
    let folded = entry(&world, 0);
    assert_eq!(
        (folded.layout_gen, folded.frozen_count, folded.append_pages),
        (2, 1700, 0)
    );
    assert_eq!(fold(&world), 0, "nothing to do");
    let mut tids: Vec<_> = world.model.keys().copied().collect();
    let rest = tids.split_off(340);
    world.delete_tids(&tids);
    assert_eq!(entry(&world, 0).frozen_dead, 340);
    assert_eq!(fold(&world), 0, "a fifth dead");
    world.delete_tids(&rest[..1]);
    let before = entry(&world, 0);
    assert_eq!(fold(&world), 1);
    let after = entry(&world, 0);
    assert_eq!(
        (after.frozen_count, after.frozen_dead, after.layout_gen),
        (1359, 0, 3)
    );
    assert_eq!(after.delete_gen, before.delete_gen);
    world.verify();
    // Dead appended records count as well: their pages are wasted too.
    world.delete(1.0);
    assert_eq!(fold(&world), 1);
    let new: Vec<_> = (0..32).map(|_| world.insert()).collect();
    let gens = entry(&world, 0);
    let mut new = new;
    new.sort();
    world.delete_tids(&new);
    assert_eq!(
        entry(&world, 0).append_delete_gen,
        gens.append_delete_gen + 1
    );
    assert_eq!(fold(&world), 1);
    world.verify();
}

#[test]
fn a_list_longer_than_a_batch() {
    let seed = seed();
    let n = 4096 * 32 + 5000;
    let mut world = World::new(Metric::L2, 1, 1, n, seed);
    world.verify();
    for _ in 0..50 {
        world.insert();
    }
    world.delete(0.01);
    world.verify();
    fold_list(&world.store, &world.index, 0).unwrap();
    world.delete(0.3);
    world.verify();
}

#[test]
fn a_list_of_many_runs() {
    let seed = seed();
    let mut world = World::new(Metric::L2, 768, 1, 7000, seed);
    for round in 0..2 {
        fold_list(&world.store, &world.index, 0).unwrap();
        let entry = entry(&world, 0);
        let next = world
            .store
            .read(entry.map_head, |bytes| page::tail(bytes).next)
            .unwrap();
        assert_ne!(next, NO_BLOCK, "several map pages");
        let share = world.rng.random_range(0.01..0.05);
        world.delete(share);
        world.insert();
        world.verify();
        println!("round {round} done");
    }
}
