//! After every prefix of the WAL records of a random sequence of inserts, deletions and folds, the index is sound, holds what
//! was there before the unfinished operation, and can go on.

mod store_world;

use omen_ivf::Metric;
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::check::check;
use omen_ivf::fold::{fold_list, vacuum_fold};
use omen_ivf::index::Index;
use omen_ivf::insert::insert;
use omen_ivf::mem_store::MemStore;
use omen_ivf::reclaim::reclaim;
use rand::Rng;
use store_world::{Model, World, read_all, seed, tid, vector, verify};

/// Models before and after an operation, and the number of records when it began.
struct Step {
    first_record: usize,
    before: Model,
    after: Model,
}

/// Runs random operations; returns the store before them and the steps.
fn run(world: &mut World, n_steps: usize) -> (MemStore, Vec<Step>) {
    let base = world.store.snapshot();
    let mut steps = Vec::new();
    for _ in 0..n_steps {
        let before = world.model.clone();
        let first_record = world.store.n_records();
        match world.rng.random_range(0..20) {
            0 => world.delete(0.15),
            1 => world.fold(),
            2 => drop(vacuum_fold(&world.store, &world.index).unwrap()),
            _ => drop(world.insert()),
        }
        steps.push(Step {
            first_record,
            before,
            after: world.model.clone(),
        });
    }
    (base, steps)
}

/// Checks a crashed store: sound, every entry of both models there exactly as it was, nothing that is in neither.
fn verify_between(store: &MemStore, step: &Step) {
    let index = Index::open(store).unwrap();
    let report = check(store, &index).unwrap();
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    let found = read_all(store, &index).unwrap();
    let mut seen = Model::new();
    for (tid, stored) in found {
        let expected = step.before.get(&tid).or(step.after.get(&tid));
        assert_eq!(
            expected,
            Some(&stored),
            "{tid:?} is neither in the index before nor after"
        );
        assert!(seen.insert(tid, stored).is_none(), "{tid:?} twice");
    }
    for tid in step
        .before
        .keys()
        .filter(|tid| step.after.contains_key(tid))
    {
        assert!(seen.contains_key(tid), "{tid:?} is lost");
    }
}

/// Goes on after a crash: inserts, deletes, folds; and no page stays leaked.
fn recover(crashed: &MemStore, dim: u32, rng: &mut impl Rng) {
    let index = Index::open(crashed).unwrap();
    let mut model: Model = read_all(crashed, &index).unwrap().into_iter().collect();
    let v = vector(&mut rand::SeedableRng::seed_from_u64(rng.random()), dim);
    for i in 0..40 {
        let tid = tid(1_000_000 + i);
        insert(crashed, &index, &v, tid).unwrap();
        model.insert(tid, index.to_stored(&v).unwrap().unwrap());
    }
    verify(crashed, &model);
    bulk_delete(crashed, &index, &mut |tid| tid.offset % 3 == 0).unwrap();
    model.retain(|tid, _| tid.offset % 3 != 0);
    for round in 0..2 {
        for list in 0..index.n_lists() {
            fold_list(crashed, &index, list).unwrap();
        }
        reclaim(crashed, &index, &mut |_| ()).unwrap();
        verify(crashed, &model);
        let leaked = check(crashed, &index).unwrap().leaked_pages;
        assert!(round == 0 || leaked == 0, "{leaked} pages leaked");
    }
}

fn crash_everywhere(dim: u32, lists: u32, n: u32, n_steps: usize) {
    let seed = seed();
    println!("dim {dim}, {lists} lists, {n} entries, {n_steps} steps");
    let mut world = World::new(Metric::L2, dim, lists, n, seed);
    let (crashed, steps) = run(&mut world, n_steps);
    world.verify();
    let journal = world.store.journal();
    for (i, step) in steps.iter().enumerate() {
        let end = steps
            .get(i + 1)
            .map_or(journal.len(), |next| next.first_record);
        for (record_no, record) in journal.iter().enumerate().take(end).skip(step.first_record) {
            crashed.apply(record);
            if record_no + 1 == end {
                verify(&crashed, &step.after);
            } else {
                verify_between(&crashed, step);
            }
            if world.rng.random_range(0..journal.len()) < 12 {
                recover(&crashed.snapshot(), dim, &mut world.rng);
            }
        }
    }
}

#[test]
fn every_prefix_is_sound_dim_1() {
    crash_everywhere(1, 3, 100, 150);
}

#[test]
fn every_prefix_is_sound_with_long_lists() {
    crash_everywhere(3, 1, 1200, 80);
}

#[test]
fn every_prefix_is_sound_dim_100() {
    crash_everywhere(100, 2, 70, 120);
}

#[test]
fn every_prefix_is_sound_dim_1024() {
    crash_everywhere(1024, 2, 40, 80);
}

#[test]
fn every_prefix_is_sound_with_overflow_pages() {
    crash_everywhere(4033, 2, 10, 60);
    crash_everywhere(16_000, 1, 3, 40);
}

#[test]
fn a_failing_store_leaves_a_sound_index() {
    let seed = seed();
    for dim in [3, 768, 4096] {
        let mut world = World::new(Metric::L2, dim, 2, 30, seed);
        for round in 0..120 {
            let before = world.model.clone();
            let mut after = before.clone();
            let v = vector(&mut world.rng, dim);
            let new = world.new_tid();
            world.store.fail_after(world.rng.random_range(1..60));
            let result = match round % 4 {
                0 => bulk_delete(&world.store, &world.index, &mut |tid| {
                    tid.offset % 7 == round % 7
                })
                .map(drop),
                1 => fold_list(&world.store, &world.index, round % 2).map(drop),
                _ => insert(&world.store, &world.index, &v, new).map(drop),
            };
            world.store.fail_after(i64::MAX);
            assert_eq!(world.store.n_locks(), 0);
            match round % 4 {
                0 => after.retain(|tid, _| tid.offset % 7 != round % 7),
                1 => {}
                _ => drop(after.insert(new, world.index.to_stored(&v).unwrap().unwrap())),
            }
            if result.is_ok() {
                verify(&world.store, &after);
            } else {
                verify_between(
                    &world.store,
                    &Step {
                        first_record: 0,
                        before,
                        after,
                    },
                );
            }
            world.model = read_all(&world.store, &world.index)
                .unwrap()
                .into_iter()
                .collect();
        }
        recover(&world.store, dim, &mut world.rng);
    }
}
