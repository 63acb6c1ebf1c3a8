//! Requests that give their lists: answers are those of the tier asked directly for what it has of them, beside requests of other kinds.

#[path = "../../gpu/tests/common/mod.rs"]
mod gpu;
#[path = "common/mod.rs"]
mod region;
mod serving;

use gpu::{Fixture, Flavour, Losses, METRICS, Queries, Query, check, sizes};
use omen_gpu::{Gpu, GpuError, TierQuery};
use omen_ivf::topk::{Candidate, Candidates};
use omen_service::client::Waiting;
use omen_service::message::{Refusal, Request, STALE, StaleList};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use region::rng;
use serving::{Reply, World, key, request_of};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

struct Index {
    fixture: Fixture,
    direct: omen_gpu::Tier,
    stale: Vec<u32>,
}

/// A server with an index of each metric, numbered from 0.
fn world(rng: &mut ChaCha8Rng, slot_bytes: usize) -> (World, Vec<Index>) {
    let gpu = Gpu::open_simulated();
    let mut world = World::new(200, slot_bytes, gpu.clone());
    let mut indexes = Vec::new();
    for (number, metric) in (0..).zip(METRICS) {
        let sizes = sizes(rng, 25, 2500);
        let fixture = Fixture::random(rng, metric, 9 + number as usize, &sizes, Flavour::Plain);
        let load = || fixture.load(&gpu, 1 << 32).unwrap();
        world.server.insert(key(number), load());
        indexes.push(Index {
            direct: load(),
            fixture,
            stale: Vec::new(),
        });
    }
    (world, indexes)
}

/// Some lists of 25, in any order.
fn some_lists(rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut lists: Vec<u32> = (0..25).collect();
    lists.shuffle(rng);
    lists.truncate(rng.random_range(1..=25));
    lists
}

fn check_reply(index: &Index, query: &Query, lists: &[u32], k: u32, reply: &Reply) {
    assert_eq!(reply.outcome, Ok(()));
    let told: Vec<u32> = reply.lists.iter().map(|l| l.list).collect();
    assert_eq!(told, lists);
    let mut here = lists.to_vec();
    here.retain(|list| !index.stale.contains(list));
    for list in &reply.lists {
        let n_slots = index.fixture.lists[list.list as usize].len() as u32;
        let state = (list.layout_gen, list.delete_gen, list.n_slots);
        let searched = (1, list.list, n_slots);
        let is_here = here.contains(&list.list);
        assert_eq!(state, if is_here { searched } else { (0, STALE, 0) });
    }
    let direct = if here.is_empty() {
        Candidates {
            items: Vec::new(),
            frontier: f32::INFINITY,
        }
    } else {
        let asked = TierQuery {
            q: &query.q,
            q_norm: query.norm,
            q_err: query.q_err,
            lists: &here,
            k: k as usize,
        };
        let rounding = omen_ivf::bound::rounding(query.q.len() as u32);
        let mut found = index
            .direct
            .search(&[asked], rounding, LIMIT, &mut || Ok(()))
            .unwrap();
        found.remove(0)
    };
    let of = |f: &omen_gpu::params::Found| Candidate {
        key: f.key,
        ceiling: f.ceiling,
        tid: omen_ivf::Tid {
            block: f.tid_block,
            offset: f.tid_offset,
        },
    };
    let items: Vec<Candidate> = reply.found.iter().map(of).collect();
    let n = direct.items.len().min(k as usize);
    assert_eq!(items, direct.items[..n]);
    let next = direct.items.get(n).map(|next| next.key);
    assert_eq!(reply.frontier, next.unwrap_or(direct.frontier));
    let alone = Queries {
        items: vec![Query {
            q: query.q.clone(),
            lists: here,
            ..*query
        }],
        k: k as usize,
        losses: Losses::default(),
    };
    let found = Candidates {
        items,
        frontier: reply.frontier,
    };
    check(&index.fixture, &alone, &[found], false, "given lists");
}

#[test]
fn answers_are_those_of_the_tier() {
    let mut rng = rng("answers_are_those_of_the_tier");
    let (mut world, mut indexes) = world(&mut rng, 64 << 10);
    for round in 0..6 {
        if round > 1 {
            for index in &mut indexes {
                index.stale.push(10 * (round % 2) + round);
            }
        }
        let queries: Vec<Queries> = indexes
            .iter()
            .map(|index| index.fixture.queries(&mut rng, 60, 1))
            .collect();
        let mut asked: Vec<(usize, usize, usize, Vec<u32>, u32, Waiting)> = Vec::new();
        for _ in 0..rng.random_range(1..120) {
            let at = rng.random_range(0..indexes.len());
            let (first, n) = (
                rng.random_range(0..50),
                [1, 1, 1, 7][rng.random_range(0..4)],
            );
            let k = [1, 10, 10, 300, 2000][rng.random_range(0..5)];
            let lists = match rng.random_range(0..4) {
                0 => Vec::new(),
                1 if !indexes[at].stale.is_empty() => indexes[at].stale.clone(),
                _ => some_lists(&mut rng),
            };
            let k = if lists.is_empty() || n > 1 {
                k.min(300)
            } else {
                k
            };
            let some = &queries[at].items[first..first + n];
            let request = Request {
                probes: 4,
                k,
                ..request_of(key(at as u32), &some[0])
            };
            let stale: Vec<StaleList> = indexes[at]
                .stale
                .iter()
                .map(|&list| StaleList {
                    list,
                    layout_gen: 1,
                    delete_gen: list + 1,
                    append_delete_gen: 0,
                })
                .collect();
            let role = rng.random_range(0..3);
            let waiting = world.ask_lists(role, &request, some, &lists, &stale);
            asked.push((at, first, n, lists, k, waiting));
        }
        let n_asked: usize = asked.iter().map(|asked| asked.2).sum();
        let mut n_queries = 0;
        while world.queue.n_ready() > 0 {
            let served = world.server.serve(LIMIT, &mut || (), &mut |_| ());
            assert_eq!((served.error, served.n_failed), (None, 0));
            n_queries += served.n_queries;
        }
        assert_eq!(n_queries, n_asked);
        for (at, first, n, lists, k, waiting) in asked {
            let replies = Reply::all_of(waiting);
            assert_eq!(replies.len(), n);
            for (q, reply) in (first..).zip(&replies) {
                let query = &queries[at].items[q];
                if lists.is_empty() {
                    // Their lists are the device's choice, as if they were alone: `serve.rs` has more of that.
                    assert_eq!((&reply.outcome, reply.lists.len()), (&Ok(()), 4));
                } else {
                    check_reply(&indexes[at], query, &lists, k, reply);
                }
            }
        }
    }
    world.end();
}

#[test]
fn lists_that_are_not_there_are_refused() {
    let mut rng = rng("lists_that_are_not_there_are_refused");
    let (mut world, indexes) = world(&mut rng, 64 << 10);
    let queries = indexes[0].fixture.queries(&mut rng, 1, 1);
    let bad: [&[u32]; 4] = [&[25], &[3, 7, 3], &[0, u32::MAX], &[0; 26]];
    let too_many_results = (64 << 10) / 16 + 1;
    let refused = bad.map(|lists| (lists, 5)).into_iter();
    for (lists, k) in refused.chain([(&[1, 2][..], 0), (&[1, 2], too_many_results)]) {
        let request = Request {
            k,
            ..request_of(key(0), &queries.items[0])
        };
        let good = Request { k: 5, ..request };
        let waiting = world.ask_lists(0, &request, &queries.items, lists, &[]);
        let beside = world.ask_lists(0, &good, &queries.items, &[1, 2], &[]);
        let served = world.server.serve(LIMIT, &mut || (), &mut |_| ());
        assert_eq!((served.n_requests, served.n_queries), (2, 1));
        let outcome = Reply::of(waiting).outcome;
        assert!(
            matches!(outcome, Err(Refusal::Gpu(GpuError::Unsupported(_)))),
            "{outcome:?}"
        );
        assert_eq!(Reply::of(beside).outcome, Ok(()));
    }
    world.end();
}
