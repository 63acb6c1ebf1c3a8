//! Whatever happens to loader or server while a tier is loaded, nothing is left behind. Both are threads over one piece of memory.

#[path = "../../ivf/tests/store_world/mod.rs"]
mod store_world;
#[path = "load/world.rs"]
mod world;

use omen_gpu::memory::{MIN_SCRATCH_BYTES, Parts};
use omen_gpu::{Copiers, GpuError, LoadError};
use omen_ivf::Metric;
use omen_service::load::{HostOptions, Room, begin, finish};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;
use store_world::{World, seed};
use world::{Server, go_on, one_bit, until, wanted};

const LIMIT: u64 = 1 << 32;

/// Tiers one after the other over one region, each ended somewhere: by an error, by a panic, by being dropped, by its end.
#[test]
fn a_load_can_end_at_any_time() {
    let mut rng = StdRng::seed_from_u64(seed());
    let server = Server::new((2, 4 << 20));
    let mut world = World::new(Metric::Cosine, 1500, 5, 900, rng.random());
    world.delete(0.1);
    let lists: Vec<u32> = (0..5).collect();
    let wanted = wanted(&world, Parts::Rows, LIMIT);
    let (mut finished, mut ended) = (0, 0);
    for round in 0..60 {
        let copiers = Copiers::with_threads(round % 3);
        let mut builder = begin(&server.region, 9, wanted, copiers, go_on()).unwrap();
        assert!(server.gpu.allocated() > 0);
        let mut left = rng.random_range(1..700);
        if round % 2 == 0 {
            world.store.fail_after(left);
        } else {
            world.store.set_hook(move |_, _| {
                left -= 1;
                assert!(left > 0, "the host cancels by unwinding");
            });
        }
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            builder.load_centroids(&world.store, &world.index)?;
            builder.load_lists(&world.store, &world.index, &lists)
        }));
        world.store.clear_hook();
        world.store.fail_after(i64::MAX);
        match loaded {
            Ok(Ok(())) if rng.random() => {
                finish(builder).unwrap();
                drop(server.tier());
                finished += 1;
            }
            Ok(Err(LoadError::Gpu(error))) => panic!("{error}"),
            _ => {
                drop(builder);
                ended += 1;
            }
        }
        if rng.random() {
            until("all is free", || server.gpu.allocated() == 0);
        }
    }
    println!("{finished} finished, {ended} ended early");
    until("all is free", || server.gpu.allocated() == 0);
    until("nobody loads", || server.region.owner().is_none());
    assert!(
        server.tiers.try_recv().is_err(),
        "no tier of a load that was dropped"
    );
}

#[test]
fn a_dead_loader_leaves_nothing_behind() {
    let mut rng = StdRng::seed_from_u64(seed());
    let server = Server::new((2, 4 << 20));
    let world = World::new(Metric::L2, 700, 3, 900, rng.random());
    let wanted = wanted(&world, Parts::Rows, LIMIT);
    for progress in 0..3 {
        let mut builder = begin(&server.region, 1, wanted, Copiers::none(), go_on()).unwrap();
        if progress > 0 {
            builder.load_centroids(&world.store, &world.index).unwrap();
        }
        if progress > 1 {
            builder
                .load_lists(&world.store, &world.index, &[0, 2, 1])
                .unwrap();
        }
        // Its process is gone, and no destructor ran.
        std::mem::forget(builder);
        assert!(server.gpu.allocated() > 0);
        server.region.release_of(2);
        let busy = begin(&server.region, 2, wanted, Copiers::none(), go_on()).err();
        assert_eq!(
            busy,
            Some(GpuError::Busy),
            "another loader is gone, not this one"
        );
        server.host().cancel(1);
        until("all is free", || server.gpu.allocated() == 0);
        let busy = begin(&server.region, 2, wanted, Copiers::none(), go_on()).err();
        assert_eq!(busy, Some(GpuError::Busy), "its threads may still write");
        until("the areas have rested", || server.region.owner().is_none());
    }
    drop(begin(&server.region, 2, wanted, Copiers::none(), go_on()).unwrap());
}

#[test]
fn a_server_that_ends_fails_the_load() {
    let mut rng = StdRng::seed_from_u64(seed());
    let mut server = Server::new((2, 4 << 20));
    let world = World::new(Metric::L2, 700, 3, 900, rng.random());
    let wanted = wanted(&world, Parts::Rows, LIMIT);
    let lost = |error: Option<GpuError>| matches!(error, Some(GpuError::Lost(_)));
    let region = server.region;
    let again = || begin(&region, 1, wanted, Copiers::none(), go_on());
    let mut builder = again().unwrap();
    server.stop();
    assert_eq!(server.gpu.allocated(), 0);
    let lists = [0, 1, 2];
    let loaded = builder.load_lists(&world.store, &world.index, &lists);
    let error = match loaded {
        Err(LoadError::Gpu(error)) => Some(error),
        // All of it fits one area.
        _ => finish(builder).err(),
    };
    assert!(lost(error));
    assert!(lost(server.region.room().err()));
    assert!(lost(again().err()), "without a server nobody begins");

    // The next one; while a builder of the last one lives, its areas are not another's.
    server.start(HostOptions::default());
    let mut builder = again().unwrap();
    server.stop();
    server.start(HostOptions::default());
    assert_eq!(again().err(), Some(GpuError::Busy));
    builder.load_centroids(&world.store, &world.index).unwrap();
    assert!(lost(finish(builder).err()));
    let mut builder = again().unwrap();
    builder
        .load_lists(&world.store, &world.index, &lists)
        .unwrap();
    finish(builder).unwrap();
    assert!(server.tiers.try_recv().is_ok());
}

#[test]
fn one_at_a_time_and_none_forever() {
    let mut server = Server::new((1, 4 << 20));
    let mut rng = StdRng::seed_from_u64(seed());
    let world = one_bit(Metric::L2, 600, 3, 100, &mut rng);
    let wanted = wanted(&world, Parts::RowsAndCodes, LIMIT);
    let first = begin(&server.region, 1, wanted, Copiers::none(), go_on()).unwrap();
    let second = begin(&server.region, 2, wanted, Copiers::none(), go_on()).err();
    assert_eq!(second, Some(GpuError::Busy));
    drop(first);
    // Who comes right after a load that was cancelled waits for the clearing.
    drop(begin(&server.region, 2, wanted, Copiers::none(), go_on()).unwrap());

    server.stop();
    server.start(HostOptions {
        patience: Duration::from_millis(50),
        ..HostOptions::default()
    });
    let mut idle = begin(&server.region, 1, wanted, Copiers::none(), go_on()).unwrap();
    until("patience ends", || server.gpu.allocated() == 0);
    assert_eq!(server.region.owner(), Some(1), "its loader lives");
    idle.load_centroids(&world.store, &world.index).unwrap();
    assert!(matches!(finish(idle), Err(GpuError::Lost(_))));
    drop(begin(&server.region, 2, wanted, Copiers::none(), go_on()).unwrap());
}

#[test]
fn the_server_can_make_room_and_loaders_can_be_interrupted_meanwhile() {
    let mut server = Server::new((2, 4 << 20));
    let world = World::new(Metric::L2, 100, 3, 900, seed());
    let wanted = wanted(&world, Parts::Rows, LIMIT);
    let (asked, questions) = channel();
    let (answer, answers) = channel();
    server.stop();
    server.region.set_room(Room::default());
    server.start(HostOptions {
        room: Some(Box::new(move |wanted, needed| {
            asked.send((wanted.key, needed)).unwrap();
            answers.recv_timeout(Duration::from_secs(10)).unwrap()
        })),
        ..HostOptions::default()
    });
    let is_asked = Arc::new(AtomicBool::new(false));
    let interrupts = {
        let is_asked = is_asked.clone();
        move || {
            let goes_on = !is_asked.load(Ordering::SeqCst);
            goes_on.then_some(()).ok_or(GpuError::Interrupted)
        }
    };
    let (region, check) = (server.region, Box::new(interrupts));
    let loader =
        std::thread::spawn(move || begin(&region, 1, wanted, Copiers::none(), check).err());
    let (key, needed) = questions.recv_timeout(Duration::from_secs(10)).unwrap();
    is_asked.store(true, Ordering::SeqCst);
    assert_eq!(loader.join().unwrap(), Some(GpuError::Interrupted));
    assert_eq!(
        server.region.owner(),
        Some(1),
        "the host has not seen it yet"
    );
    answer.send(LIMIT).unwrap();
    assert_eq!(key, wanted.key);
    assert!(needed > MIN_SCRATCH_BYTES);
    until("the region is free", || server.region.owner().is_none());
    assert_eq!(server.gpu.allocated(), 0);
    answer.send(needed - 1).unwrap();
    let available = needed - 1;
    let error = begin(&server.region, 1, wanted, Copiers::none(), go_on()).err();
    assert_eq!(error, Some(GpuError::OutOfMemory { needed, available }));
    answer.send(needed).unwrap();
    let builder = begin(&server.region, 1, wanted, Copiers::none(), go_on()).unwrap();
    finish(builder).unwrap();
    let (_, tier) = server.tier();
    assert!(!tier.has_centroids() && tier.lists().iter().all(Option::is_none));
}
