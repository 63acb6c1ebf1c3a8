//! Requests of many queries: each query gets the answer that it gets alone, in company with others, with lists out of date, and in time; what is
//! wrong with one is not the others' harm.

#[path = "../../gpu/tests/common/mod.rs"]
mod gpu;
#[path = "common/mod.rs"]
mod region;
mod serving;

use gpu::{Fixture, Flavour, METRICS, Queries, search_batch, sizes};
use omen_gpu::{Gpu, GpuError, Lists};
use omen_ivf::Metric;
use omen_service::client::claim;
use omen_service::message::{MAX_QUERIES, Refusal, Request, STALE, StaleList};
use omen_service::serve::{Call, MAX_BATCH};
use rand::Rng;
use region::rng;
use serving::{Reply, World, key, request_of, write};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn world(seed: &str, n_slots: usize, n_queries: usize) -> (World, Fixture, Queries) {
    let mut rng = rng(seed);
    let gpu = Gpu::open_simulated();
    let metric = METRICS[rng.random_range(0..METRICS.len())];
    let sizes = sizes(&mut rng, 20, 2000);
    let fixture = Fixture::random(&mut rng, metric, 10, &sizes, Flavour::Plain);
    let mut world = World::new(n_slots, 128 << 10, gpu.clone());
    world
        .server
        .insert(key(1), fixture.load(&gpu, 1 << 32).unwrap());
    let queries = fixture.queries(&mut rng, n_queries, 9);
    (world, fixture, queries)
}

fn nearest(probes: u32) -> Lists {
    Lists::Nearest {
        probes,
        spread: f32::INFINITY,
    }
}

#[test]
fn each_gets_its_own_answer_in_any_company() {
    let (mut world, fixture, queries) = world("each_gets_its_own_answer", 200, 300);
    let direct = fixture.load(world.server.gpu(), 1 << 32).unwrap();
    let n_lists = fixture.spec.n_lists as u32;
    for (probes, stale) in [
        (3, vec![]),
        (3, vec![0, 7]),
        (n_lists, vec![0, 7]),
        (7, vec![0, 7, 8]),
    ] {
        let expected = search_batch(&direct, &queries, nearest(probes), &stale).unwrap();
        let told: Vec<StaleList> = stale
            .iter()
            .map(|&list| StaleList {
                list,
                layout_gen: 2,
                delete_gen: 0,
                append_delete_gen: 0,
            })
            .collect();
        let request = |k| Request {
            probes,
            k,
            ..request_of(key(1), &queries.items[0])
        };
        let ks = [9, 4, 9, 1, 9, 9];
        let mut asked = Vec::new();
        let mut first = 0;
        for (n, k) in [1, 128, 1, 40, 100, 30].into_iter().zip(ks) {
            let some = &queries.items[first..first + n];
            let told: &[StaleList] = if first == 0 { &told } else { &[] };
            asked.push((first, k, world.ask_many(7, &request(k), some, told)));
            first += n;
        }
        assert_eq!(first, queries.items.len());
        let (mut n_queries, mut n_rounds) = (0, 0);
        while world.queue.n_ready() > 0 {
            let served = world.server.serve(LIMIT, &mut || (), &mut |_| ());
            assert_eq!((served.error, served.n_failed), (None, 0));
            assert!(served.largest_batch <= MAX_BATCH && served.largest_batch >= 128);
            assert_eq!(served.largest_round, 1, "one client");
            n_queries += served.n_queries;
            n_rounds += 1;
        }
        assert_eq!(n_queries, queries.items.len());
        assert!(n_rounds >= 1);
        for (first, k, waiting) in asked {
            for (q, reply) in (first..).zip(Reply::all_of(waiting)) {
                assert_eq!(reply.outcome, Ok(()));
                let all = expected.of(q);
                let cut = &all[..all.len().min(k as usize)];
                assert_eq!(reply.found, cut, "query {q}");
                let next = all.get(k as usize).map(|next| next.key);
                assert_eq!(reply.frontier, next.unwrap_or(expected.heads[q].frontier));
                let mut lists: Vec<u32> = reply.lists.iter().map(|l| l.list).collect();
                if probes < n_lists {
                    let n = expected.n_probes[q] as usize;
                    assert_eq!(lists, expected.lists[q * expected.probes..][..n]);
                } else {
                    lists.sort_unstable();
                    assert!(lists.into_iter().eq(0..n_lists));
                }
                for list in &reply.lists {
                    let n_slots = fixture.lists[list.list as usize].len() as u32;
                    let searched = !stale.contains(&list.list);
                    let state = (list.layout_gen, list.delete_gen, list.n_slots);
                    let here = (1, list.list, n_slots);
                    assert_eq!(state, if searched { here } else { (0, STALE, 0) });
                }
            }
        }
    }
    let uses = world.server.uses();
    assert_eq!(uses[0].n_requests, 4 * queries.items.len() as u64);
    world.end();
}

#[test]
fn a_bad_query_among_many_gets_the_request_refused_and_no_other() {
    let (mut world, _, mut queries) = world("a_bad_query_among_many", 20, 60);
    for at in [0, 5, 9] {
        let good = std::mem::replace(&mut queries.items[at].q[3], f32::NAN);
        let request = request_of(key(1), &queries.items[0]);
        let bad = world.ask_many(0, &request, &queries.items[..10], &[]);
        let others = world.ask_many(0, &request, &queries.items[10..], &[]);
        let served = world.server.serve(LIMIT, &mut || (), &mut |_| ());
        assert_eq!((served.n_requests, served.n_queries), (2, 50));
        let unsupported =
            |reply: &Reply| matches!(reply.outcome, Err(Refusal::Gpu(GpuError::Unsupported(_))));
        assert!(unsupported(&Reply::of(bad)));
        let others = Reply::all_of(others);
        assert!(others.len() == 50 && others.iter().all(|reply| reply.outcome.is_ok()));
        queries.items[at].q[3] = good;
    }
    // More than it says; none at all; too many for any request.
    for (says, n_queries) in [(1, 2), (3, 4), (1, 0), (128, 129), (128, u32::MAX)] {
        let request = request_of(key(1), &queries.items[0]);
        let mut claim = claim(&world.queue, 1, 0).unwrap();
        let n = (n_queries as usize).clamp(1, 10);
        write(&request, &queries.items[..n], &[], &[], claim.payload());
        // Where the head has it.
        let at = std::mem::offset_of!(Request, n_queries);
        claim.payload()[at..at + 4].copy_from_slice(&n_queries.to_ne_bytes());
        claim.set_queries(says);
        let waiting = claim.submit(|| ());
        let served = world.server.serve(LIMIT, &mut || (), &mut |_| ());
        assert_eq!((served.n_requests, served.n_queries), (1, 0));
        let outcome = Reply::of(waiting).outcome;
        assert!(
            matches!(outcome, Err(Refusal::Gpu(_))),
            "{n_queries}: {outcome:?}"
        );
    }
    world.end();
}

#[test]
fn single_searches_of_others_do_not_wait_for_thousands() {
    let (mut world, _, queries) = world("single_searches_of_others", 60, MAX_QUERIES);
    let many = |world: &World| {
        let request = request_of(key(1), &queries.items[0]);
        world.ask_many(10, &request, &queries.items, &[])
    };
    let mut large: Vec<_> = (0..20).map(|_| many(&world)).collect();
    let mut singles = Vec::new();
    for role in 0..10 {
        // Other lists than those, so that no batch is for both.
        let request = Request {
            probes: 2,
            ..request_of(key(1), &queries.items[role])
        };
        singles.push(world.ask(role as u32, &request, &queries.items[role], &[]));
    }
    let mut n_calls = 0;
    let mut search =
        |tier: &omen_gpu::Tier, call: &mut Call<'_>, g: f32, meanwhile: &mut dyn FnMut()| {
            n_calls += 1;
            if n_calls == 1 {
                assert_eq!(call.n_queries(), 10, "the single ones come first");
            }
            let mut poll = || {
                meanwhile();
                Ok(())
            };
            call.make(tier, g, LIMIT, &mut poll)
        };
    while singles.iter().any(|waiting| !waiting.is_done()) {
        world.server.serve_with(&mut search, &mut |_| ());
    }
    while world.queue.n_ready() > 0 {
        world.server.serve_with(&mut search, &mut |_| ());
    }
    for waiting in singles {
        assert_eq!(Reply::of(waiting).outcome, Ok(()));
    }
    for waiting in large.drain(..) {
        assert_eq!(Reply::all_of(waiting).len(), MAX_QUERIES);
    }
    world.end();
}

#[test]
fn an_answer_of_many_without_room_is_refused() {
    let mut rng = rng("an_answer_of_many_without_room");
    let gpu = Gpu::open_simulated();
    let fixture = Fixture::random(&mut rng, Metric::L2, 3, &[200; 30], Flavour::Plain);
    let mut world = World::new(8, 8 << 10, gpu.clone());
    world
        .server
        .insert(key(1), fixture.load(&gpu, 1 << 32).unwrap());
    let queries = fixture.queries(&mut rng, 100, 9);
    let request = Request {
        k: 9,
        probes: 5,
        ..request_of(key(1), &queries.items[0])
    };
    let large = world.ask_many(0, &request, &queries.items, &[]);
    let small = world.ask_many(0, &request, &queries.items[..20], &[]);
    world.server.serve(LIMIT, &mut || (), &mut |_| ());
    let refused = Reply::of(large).outcome;
    assert!(matches!(
        refused,
        Err(Refusal::Gpu(GpuError::Unsupported(_)))
    ));
    assert_eq!(Reply::all_of(small).len(), 20);
    world.end();
}
