//! What the server does when the device fails, and when answers do not fit.

#[path = "../../gpu/tests/common/mod.rs"]
mod gpu;
#[path = "common/mod.rs"]
mod region;
mod serving;

use gpu::{Fixture, Flavour};
use omen_gpu::params::Found;
use omen_gpu::{BatchFound, Gpu, GpuError, Tier};
use omen_ivf::Metric;
use omen_service::client::claim;
use omen_service::message::{Answer, Refusal, Request};
use omen_service::serve::{Call, Served};
use region::rng;
use serving::{Reply, World, key, request_of, write};
use std::time::Duration;

/// A server with two tiers, and queries for them.
fn world(slot_bytes: usize, seed: &str) -> (World, gpu::Queries) {
    let mut rng = rng(seed);
    let gpu = Gpu::open_simulated();
    let fixture = Fixture::random(&mut rng, Metric::L2, 5, &[100, 0, 50, 30], Flavour::Plain);
    let mut world = World::new(20, slot_bytes, gpu.clone());
    for number in [1, 2] {
        let tier = fixture.load(&gpu, 1 << 32).unwrap();
        world.server.insert(key(number), tier);
    }
    let queries = fixture.queries(&mut rng, 8, 1);
    (world, queries)
}

fn ask(world: &World, number: u32, k: u32, query: &gpu::Query) -> omen_service::client::Waiting {
    let request = Request {
        k,
        ..request_of(key(number), query)
    };
    world.ask(0, &request, query, &[])
}

fn really(
    tier: &Tier,
    call: &mut Call<'_>,
    g: f32,
    meanwhile: &mut dyn FnMut(),
) -> Result<BatchFound, GpuError> {
    let mut poll = || {
        meanwhile();
        Ok(())
    };
    call.make(tier, g, Duration::from_secs(60), &mut poll)
}

fn gpu_error(error: GpuError) -> Result<(), Refusal> {
    Err(Refusal::Gpu(error))
}

#[test]
fn one_that_spoils_a_batch_does_not_spoil_the_others() {
    for error in [
        GpuError::Unsupported("k".into()),
        GpuError::OutOfMemory {
            needed: 5,
            available: 4,
        },
    ] {
        let (mut world, queries) = world(16 << 10, "one_that_spoils_a_batch");
        let ks = [1, 17, 10, 17, 9];
        let asked: Vec<_> = ks
            .iter()
            .zip(&queries.items)
            .map(|(k, q)| ask(&world, 1, *k, q))
            .collect();
        let mut search = |tier: &Tier, call: &mut Call<'_>, g: f32, meanwhile: &mut dyn FnMut()| {
            if call.k() == 20 {
                return Err(error.clone());
            }
            really(tier, call, g, meanwhile)
        };
        let served = world.server.serve_with(&mut search, &mut |_| ());
        let expected = Served {
            n_requests: 5,
            n_queries: 5,
            n_batches: 6,
            n_failed: 2,
            largest_batch: 5,
            // All are of one client.
            largest_round: 1,
            device: served.device,
            error: None,
        };
        assert_eq!(served, expected);
        for (k, waiting) in ks.into_iter().zip(asked) {
            let reply = Reply::of(waiting);
            if k == 17 {
                assert_eq!(reply.outcome, gpu_error(error.clone()));
            } else {
                assert_eq!(reply.outcome, Ok(()));
                assert_eq!((reply.found.len(), reply.batch_size), (k as usize, 1));
            }
        }
        world.end();
    }
}

#[test]
fn a_lost_device_ends_the_round() {
    for error in [GpuError::TimedOut, GpuError::Lost("fell off".into())] {
        let (mut world, queries) = world(16 << 10, "a_lost_device_ends_the_round");
        let asked: Vec<_> = [1, 2, 1, 3]
            .into_iter()
            .zip(&queries.items)
            .map(|(number, q)| ask(&world, number, 2, q))
            .collect();
        let mut n_calls = 0;
        let mut search = |_: &Tier, _: &mut Call<'_>, _: f32, _: &mut dyn FnMut()| {
            n_calls += 1;
            Err(error.clone())
        };
        let served = world.server.serve_with(&mut search, &mut |_| ());
        assert_eq!((served.n_requests, served.n_batches, n_calls), (4, 1, 1));
        assert_eq!((served.n_failed, served.largest_batch), (1, 2));
        assert_eq!(served.error, Some(error.clone()));
        let outcomes: Vec<_> = asked.into_iter().map(|w| Reply::of(w).outcome).collect();
        assert_eq!(
            outcomes,
            [
                gpu_error(error.clone()),
                Err(Refusal::Down),
                gpu_error(error),
                Err(Refusal::NotLoaded)
            ]
        );
        world.end();
    }
}

#[test]
fn other_errors_are_everybodys_and_pass() {
    let (mut world, queries) = world(16 << 10, "other_errors_are_everybodys_and_pass");
    for error in [GpuError::Busy, GpuError::Other("strange".into())] {
        let asked = [0, 1].map(|q| ask(&world, 1, 2, &queries.items[q]));
        let mut search =
            |_: &Tier, _: &mut Call<'_>, _: f32, _: &mut dyn FnMut()| Err(error.clone());
        let served = world.server.serve_with(&mut search, &mut |_| ());
        assert_eq!((served.n_batches, served.error), (1, None));
        for waiting in asked {
            assert_eq!(Reply::of(waiting).outcome, gpu_error(error.clone()));
        }
        let again = ask(&world, 1, 2, &queries.items[0]);
        world.server.serve_with(&mut really, &mut |_| ());
        assert_eq!(Reply::of(again).outcome, Ok(()));
    }
    world.end();
}

#[test]
fn an_answer_without_room_is_refused_the_others_are_not() {
    // Four lists and so many candidates fit, not one more.
    let bytes = (Answer::bytes(1, 5 * size_of::<Found>(), 4, 4)..)
        .find(|b| b % 64 == 0)
        .unwrap();
    let k = (bytes - Answer::bytes(1, 0, 4, 4)) / size_of::<Found>();
    let (mut world, queries) = world(bytes, "an_answer_without_room");
    let asked = [k, k + 1, 1].map(|k| ask(&world, 1, k as u32, &queries.items[0]));
    let served = world
        .server
        .serve(Duration::from_secs(60), &mut || (), &mut |_| ());
    assert_eq!((served.n_batches, served.error), (1, None));
    let [fits, too_large, one] = asked.map(Reply::of);
    assert_eq!((fits.outcome, fits.found.len()), (Ok(()), k));
    assert_eq!((one.outcome, one.found.len()), (Ok(()), 1));
    assert!(matches!(
        too_large.outcome,
        Err(Refusal::Gpu(GpuError::Unsupported(_)))
    ));
    world.end();
}

#[test]
fn tiers_come_and_go() {
    let (mut world, queries) = world(16 << 10, "tiers_come_and_go");
    let numbers = |world: &World| {
        let mut keys: Vec<u32> = world.server.keys().map(|k| k.number).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(numbers(&world), [1, 2]);
    world.server.remove_where(|k| *k == key(1));
    assert_eq!(numbers(&world), [2]);
    let asked = [1, 2].map(|number| ask(&world, number, 1, &queries.items[0]));
    world
        .server
        .serve(Duration::from_secs(60), &mut || (), &mut |_| ());
    let outcomes = asked.map(|w| Reply::of(w).outcome);
    assert_eq!(outcomes, [Err(Refusal::NotLoaded), Ok(())]);
    let held = world.server.gpu().allocated();
    let fixture = Fixture::random(&mut rng("another"), Metric::L2, 5, &[10; 4], Flavour::Plain);
    let tier = fixture.load(world.server.gpu(), 1 << 32).unwrap();
    world.server.insert(key(2), tier);
    assert_eq!(numbers(&world), [2]);
    assert!(
        world.server.gpu().allocated() < held,
        "the one before is freed"
    );
    assert_eq!(world.server.uses()[0].n_requests, 0);
    world.end();
}

#[test]
fn answers_are_told_while_the_device_works_on_the_next_batch() {
    let (mut world, queries) = world(16 << 10, "answers_are_told_while_the_device_works");
    // Where a search takes too long, the server's other duties have their turn before the next batch.
    let has_gone_on = (0..50).any(|_| told_meanwhile(&mut world, &queries));
    assert!(has_gone_on);
    world.end();
}

/// Whether the server has made a batch of what became ready while it searched, and told the first answer meanwhile.
fn told_meanwhile(world: &mut World, queries: &gpu::Queries) -> bool {
    let queue = world.queue;
    let first = ask(world, 1, 2, &queries.items[0]);
    let (mut second, mut n_calls) = (None, 0);
    let mut search = |tier: &Tier, call: &mut Call<'_>, g: f32, meanwhile: &mut dyn FnMut()| {
        n_calls += 1;
        if n_calls == 1 {
            // It becomes ready while the device works on the first.
            let request = request_of(key(1), &queries.items[1]);
            let mut claim = claim(&queue, 2, 0).unwrap();
            write(&request, &queries.items[1..2], &[], &[], claim.payload());
            second = Some(claim.submit(|| ()));
        } else {
            assert!(!first.is_done());
            meanwhile();
            assert!(first.is_done());
        }
        really(tier, call, g, meanwhile)
    };
    let served = world.server.serve_with(&mut search, &mut |_| ());
    let has_gone_on = served.n_batches == 2;
    if !has_gone_on {
        let rest = world.server.serve_with(&mut really, &mut |_| ());
        assert_eq!((rest.n_requests, rest.n_batches), (1, 1));
    }
    assert_eq!(Reply::of(first).found.len(), 2);
    assert_eq!(Reply::of(second.unwrap()).found.len(), 1);
    has_gone_on
}

#[test]
fn what_is_owed_is_told_when_the_device_is_lost() {
    let (mut world, queries) = world(16 << 10, "what_is_owed_is_told");
    let asked = [1, 2].map(|number| ask(&world, number, 2, &queries.items[0]));
    let mut n_calls = 0;
    let mut search = |tier: &Tier, call: &mut Call<'_>, g: f32, meanwhile: &mut dyn FnMut()| {
        n_calls += 1;
        match n_calls {
            1 => really(tier, call, g, meanwhile),
            _ => Err(GpuError::TimedOut),
        }
    };
    let served = world.server.serve_with(&mut search, &mut |_| ());
    assert_eq!(served.error, Some(GpuError::TimedOut));
    let [first, second] = asked.map(|waiting| Reply::of(waiting).outcome);
    assert_eq!((first, second), (Ok(()), gpu_error(GpuError::TimedOut)));
    world.end();
}
