//! Tiers of codes alone: the server names slots, those of the tier asked directly, and says what it cannot answer.

#[path = "../../gpu/tests/common/mod.rs"]
mod gpu;
#[path = "common/mod.rs"]
mod region;
mod serving;

use gpu::{Fixture, Flavour, METRICS, Queries, Query, centroids, search_batch, sizes};
use omen_gpu::batch::codes::named_for;
use omen_gpu::memory::Parts;
use omen_gpu::{Gpu, GpuError, Lists, Tier};
use omen_ivf::Metric;
use omen_service::message::{Refusal, Request, STALE, StaleList};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use region::rng;
use serving::{Reply, World, key, request_of};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const N_LISTS: u32 = 20;

struct Index {
    fixture: Fixture,
    direct: Tier,
    stale: Vec<u32>,
}

fn index_of(world: &mut World, number: u32, fixture: Fixture, gpu: &Gpu) -> Index {
    let load = || fixture.load_parts(gpu, Parts::Codes, 1 << 32).unwrap();
    world.server.insert(key(number), load());
    let direct = load();
    Index {
        fixture,
        direct,
        stale: Vec::new(),
    }
}

fn serve(world: &mut World) {
    while world.queue.n_ready() > 0 {
        let served = world.server.serve(LIMIT, &mut || (), &mut |_| ());
        assert_eq!(served.error, None);
    }
}

/// Checks a reply against what the tier names for this query if many more results are wanted.
fn check_reply(index: &Index, queries: &Queries, q: usize, request: &Request, reply: &Reply) {
    let what = format!("query {q}, {request:?}");
    assert_eq!(reply.outcome, Ok(()), "{what}");
    assert!(reply.names_slots && !reply.is_lost && reply.found.is_empty());
    let alone = Queries {
        items: vec![Query {
            q: queries.items[q].q.clone(),
            lists: Vec::new(),
            ..queries.items[q]
        }],
        k: request.k as usize + 60,
        losses: Default::default(),
    };
    let lists = Lists::Nearest {
        probes: request.probes.min(N_LISTS),
        spread: request.spread,
    };
    let direct = search_batch(&index.direct, &alone, lists, &index.stale).unwrap();
    let mut chosen: Vec<u32> = reply.lists.iter().map(|l| l.list).collect();
    let mut expected = direct.lists[..direct.n_probes[0] as usize].to_vec();
    if expected.len() == N_LISTS as usize {
        chosen.sort_unstable();
        expected.sort_unstable();
    }
    assert_eq!(chosen, expected, "{what}");
    for list in &reply.lists {
        let n_slots = index.fixture.lists[list.list as usize].len() as u32;
        let expected = if index.stale.contains(&list.list) {
            (0, STALE, 0)
        } else {
            (1, list.list, n_slots)
        };
        let got = (list.layout_gen, list.delete_gen, list.n_slots);
        assert_eq!(got, expected, "{what}");
    }
    let all = direct.slots_of(0).map(|near| {
        let (list, slot) = index.direct.place_of(near.slot).unwrap();
        (list, slot, near.bound)
    });
    let below = |(_, _, bound): &(u32, u32, f32)| *bound < reply.frontier;
    let all: Vec<_> = all.filter(below).collect();
    let most = named_for(request.k as usize).unwrap();
    assert!(reply.named.len() <= most, "{what}");
    assert!(reply.named.is_sorted_by(|a, b| a.2 <= b.2), "{what}");
    let mut named = reply.named.clone();
    named.retain(below);
    assert_eq!(named, all, "{what}");
    // Nothing is left out unless there is more than may be named. (There may be just as many.)
    let is_full = reply.named.len() == most;
    assert!(is_full || reply.frontier == f32::INFINITY, "{what}");
}

#[test]
fn slots_are_those_of_the_tiers() {
    let mut rng = rng("slots_are_those_of_the_tiers");
    let gpu = Gpu::open_simulated();
    let mut world = World::new(300, 128 << 10, gpu.clone());
    let mut indexes = Vec::new();
    for (number, metric) in (0..).zip(METRICS) {
        let sizes = sizes(&mut rng, N_LISTS as usize, 4000);
        let fixture = Fixture::random(&mut rng, metric, 512, &sizes, Flavour::Plain);
        indexes.push(index_of(&mut world, number, fixture, &gpu));
    }
    let (mut n_full, mut n_replies) = (0, 0);
    for round in 0..4 {
        for index in &mut indexes {
            if round > 1 {
                index.stale.push(5 * round);
            }
        }
        let queries: Vec<Queries> = indexes
            .iter()
            .map(|index| index.fixture.queries(&mut rng, 40, 1))
            .collect();
        let mut asked = Vec::new();
        for _ in 0..25 {
            let at = rng.random_range(0..indexes.len());
            let n = [1, 1, 6][rng.random_range(0..3)];
            let first = rng.random_range(0..34);
            let some = &queries[at].items[first..first + n];
            let request = Request {
                probes: [1, 6, u32::MAX][rng.random_range(0..3)],
                k: [1, 10, 90][rng.random_range(0..3)],
                ..request_of(key(at as u32), &some[0])
            };
            let of = |&list: &u32| StaleList {
                list,
                layout_gen: 2,
                delete_gen: 0,
                append_delete_gen: 0,
            };
            let stale: Vec<StaleList> = indexes[at].stale.iter().map(of).collect();
            let waiting = world.ask_many(rng.random_range(0..3), &request, some, &stale);
            asked.push((at, first, request, waiting));
        }
        serve(&mut world);
        for (at, first, request, waiting) in asked {
            for (q, reply) in (first..).zip(Reply::all_of(waiting)) {
                n_replies += 1;
                n_full += usize::from(reply.frontier < f32::INFINITY);
                check_reply(&indexes[at], &queries[at], q, &request, &reply);
            }
        }
    }
    assert!(n_full > 0 && n_full < n_replies, "{n_full} of {n_replies}");
    for (at, index) in (0..).zip(&indexes) {
        // What is said to hold its rows does.
        let uses = world.server.uses();
        let tier = uses.iter().find(|tier| tier.key == key(at)).unwrap();
        let limit = tier.bytes_with_rows.unwrap();
        let load = |limit| index.fixture.load_parts(&gpu, Parts::RowsAndCodes, limit);
        world.server.insert(key(at), load(limit).unwrap());
        assert!(load(limit / 2).is_err());
        let uses = world.server.uses();
        let tier = uses.iter().find(|tier| tier.key == key(at)).unwrap();
        assert_eq!(tier.bytes_with_rows, None);
    }
    world.end();
}

#[test]
fn queries_whose_entries_were_lost_are_told() {
    let mut rng = rng("queries_whose_entries_were_lost_are_told");
    let gpu = Gpu::open_simulated();
    let mut world = World::new(4, 128 << 10, gpu.clone());
    let sizes = [5000, 20_000, 20_000];
    let fixture = Fixture::random(&mut rng, Metric::L2, 512, &sizes, Flavour::Approaching);
    let index = index_of(&mut world, 0, fixture, &gpu);
    let mut queries = index.fixture.queries(&mut rng, 2, 10);
    let centroids = centroids(&index.fixture);
    queries.items[0].q = centroids[..512].iter().map(|x| x.to_f32()).collect();
    queries.items[1].q = vec![1000.0; 512];
    let request = Request {
        probes: 3,
        k: 10,
        ..request_of(key(0), &queries.items[0])
    };
    let waiting = world.ask_many(0, &request, &queries.items, &[]);
    serve(&mut world);
    let replies = Reply::all_of(waiting);
    assert!(replies[0].is_lost && !replies[1].is_lost);
    assert!(replies[1].names_slots && !replies[1].named.is_empty());
    world.end();
}

#[test]
fn what_codes_alone_cannot_answer_is_refused() {
    let mut rng = rng("what_codes_alone_cannot_answer_is_refused");
    let gpu = Gpu::open_simulated();
    let mut world = World::new(8, 16 << 10, gpu.clone());
    let fixture = fixture_of(&mut rng);
    let index = index_of(&mut world, 0, fixture, &gpu);
    let queries = index.fixture.queries(&mut rng, 1, 1);
    let ask = |world: &World, k: u32, lists: &[u32]| {
        let request = Request {
            probes: 3,
            k,
            ..request_of(key(0), &queries.items[0])
        };
        world.ask_lists(0, &request, &queries.items, lists, &[])
    };
    let good = ask(&world, 2, &[]);
    // Lists that are given; more than is named at a time; more than an answer has room for.
    let bad = [(2, &[1, 2][..]), (4033, &[]), (100, &[])];
    let bad = bad.map(|(k, lists)| ask(&world, k, lists));
    serve(&mut world);
    for waiting in bad {
        let outcome = Reply::of(waiting).outcome;
        assert!(
            matches!(outcome, Err(Refusal::Gpu(GpuError::Unsupported(_)))),
            "{outcome:?}"
        );
    }
    let good = Reply::of(good);
    assert!(good.outcome.is_ok() && good.names_slots && good.named.len() > 10);
    world.end();
}

fn fixture_of(rng: &mut ChaCha8Rng) -> Fixture {
    Fixture::random(rng, Metric::L2, 512, &[1000; 5], Flavour::Plain)
}
