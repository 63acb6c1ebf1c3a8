//! The server on the simulated device: its answers against brute force and against the tier asked alone; each bad request gets its own error.

#[path = "../../gpu/tests/common/mod.rs"]
mod gpu;
#[path = "common/mod.rs"]
mod region;
mod serving;

use gpu::{Fixture, Flavour, Losses, METRICS, Queries, Query, check, search_batch, sizes};
use omen_gpu::{Gpu, GpuError, Lists};
use omen_ivf::Metric;
use omen_ivf::topk::{Candidate, Candidates};
use omen_service::message::{Refusal, Request, STALE, StaleList, TierKey};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use region::rng;
use serving::{Reply, World, key, request_of};
use std::time::Duration;

const NO_LIMIT: u64 = 1 << 32;

struct Index {
    key: TierKey,
    fixture: Fixture,
    has_codes: bool,
    stale: Vec<u32>,
}

impl Index {
    fn new(rng: &mut ChaCha8Rng, number: u32, metric: Metric, dim: usize, n_lists: usize) -> Self {
        let sizes = sizes(rng, n_lists, if dim > 500 { 1500 } else { 4000 });
        Self {
            key: key(number),
            fixture: Fixture::random(rng, metric, dim, &sizes, Flavour::Plain),
            has_codes: dim >= 512,
            stale: Vec::new(),
        }
    }

    fn load(&self, gpu: &Gpu) -> omen_gpu::Tier {
        if self.has_codes {
            self.fixture.load_with_codes(gpu, NO_LIMIT).unwrap()
        } else {
            self.fixture.load(gpu, NO_LIMIT).unwrap()
        }
    }

    fn n_lists(&self) -> usize {
        self.fixture.spec.n_lists
    }

    /// What a request says of some lists of which the index has other generations now, and of some that it has not.
    fn observed(&self, rng: &mut ChaCha8Rng, stale: &[u32]) -> Vec<StaleList> {
        let n = self.n_lists() as u32;
        let mut seen: Vec<StaleList> = (0..5)
            .map(|_| rng.random_range(0..n))
            .filter(|list| !stale.contains(list))
            .map(|list| StaleList {
                list,
                layout_gen: 1,
                delete_gen: list,
                append_delete_gen: 0,
            })
            .collect();
        let (layout, delete) = if rng.random() { (2, 0) } else { (1, 1) };
        seen.extend(stale.iter().map(|&list| StaleList {
            list,
            layout_gen: layout,
            delete_gen: list + delete,
            append_delete_gen: 0,
        }));
        seen.push(StaleList {
            list: n + rng.random_range(0..1000),
            ..StaleList::default()
        });
        seen.shuffle(rng);
        seen
    }

    /// Checks the answer to query `query`, asked with `request`.
    fn check(
        &self,
        queries: &mut Queries,
        query: usize,
        request: &Request,
        reply: &Reply,
        gpu: &omen_gpu::Tier,
    ) {
        let mut one = Queries {
            items: vec![queries.items.swap_remove(query)],
            k: request.k as usize,
            losses: Losses::default(),
        };
        let what = format!("{request:?}");
        let n_lists = self.n_lists();
        let is_all = request.probes as usize >= n_lists && request.spread == f32::INFINITY;
        let lists = Lists::Nearest {
            probes: request.probes,
            spread: request.spread,
        };
        let direct = search_batch(gpu, &one, lists, &self.stale).unwrap();
        let mut chosen: Vec<u32> = reply.lists.iter().map(|l| l.list).collect();
        if is_all {
            assert_eq!(reply.lists.len(), n_lists, "{what}");
        } else {
            let mut expected = direct.lists[..direct.n_probes[0] as usize].to_vec();
            if expected.len() == n_lists {
                // Of many queries that have them all they are told by number.
                chosen.sort_unstable();
                expected.sort_unstable();
            }
            assert_eq!(chosen, expected, "{what}");
        }
        for list in &reply.lists {
            let n_slots = self.fixture.lists[list.list as usize].len() as u32;
            let expected = if self.stale.contains(&list.list) {
                (0, STALE, 0)
            } else {
                (1, list.list, n_slots)
            };
            let got = (list.layout_gen, list.delete_gen, list.n_slots);
            assert_eq!(got, expected, "{what}");
        }
        one.items[0].lists = chosen;
        one.items[0].lists.retain(|l| !self.stale.contains(l));
        if self.has_codes {
            one.losses.allow(1 + one.k / 500);
        } else {
            assert_eq!(reply.found, direct.of(0), "{what}");
        }
        assert!(reply.found.len() <= one.k);
        let items = reply.found.iter().map(|f| Candidate {
            key: f.key,
            ceiling: f.ceiling,
            tid: omen_ivf::Tid {
                block: f.tid_block,
                offset: f.tid_offset,
            },
        });
        let candidates = Candidates {
            items: items.collect(),
            frontier: reply.frontier,
        };
        check(&self.fixture, &one, &[candidates], true, &what);
        queries.items.extend(one.items);
    }
}

#[test]
fn answers_are_those_of_the_tiers() {
    let mut rng = rng("answers_are_those_of_the_tiers");
    let gpu = Gpu::open_simulated();
    let mut indexes: Vec<Index> = METRICS
        .into_iter()
        .zip([(3, 40), (96, 30), (20, 4)])
        .zip(1..)
        .map(|((metric, (dim, n_lists)), number)| {
            Index::new(&mut rng, number, metric, dim, n_lists)
        })
        .collect();
    indexes.push(Index::new(&mut rng, 4, Metric::L2, 520, 20));
    let mut world = World::new(600, 48 << 10, gpu.clone());
    let direct: Vec<omen_gpu::Tier> = indexes.iter().map(|i| i.load(&gpu)).collect();
    for index in &indexes {
        world.server.insert(index.key, index.load(&gpu));
    }
    let mut n_batches = 0;
    for round in 0..6 {
        // All requests of a round tell of the same stale lists, so that it does not matter which comes first.
        for index in &mut indexes {
            let list = rng.random_range(0..index.n_lists() as u32);
            if round > 0 && round % 2 == 0 && !index.stale.contains(&list) {
                index.stale.push(list);
            }
        }
        let mut queries: Vec<Queries> = indexes
            .iter()
            .map(|i| i.fixture.queries(&mut rng, 400, 1))
            .collect();
        let forms: Vec<(u32, f32)> = (0..3)
            .map(|_| {
                let spread = if rng.random() {
                    f32::INFINITY
                } else {
                    30.0 * rng.random::<f32>()
                };
                (rng.random_range(1..20), spread)
            })
            .chain([(u32::MAX, f32::INFINITY)])
            .collect();
        let mut asked = Vec::new();
        for n in 0..rng.random_range(1..500) {
            let at = rng.random_range(0..indexes.len());
            let (index, all) = (&indexes[at], &queries[at]);
            let (probes, spread) = forms[rng.random_range(0..forms.len())];
            let k = [1, 2, 10, 10, 10, 57, 200][rng.random_range(0..7)];
            let first = n % all.items.len();
            // Some ask for many at once.
            let n_queries = if n % 5 == 4 { 1 + n % 9 } else { 1 };
            let some = &all.items[first..all.items.len().min(first + n_queries)];
            let request = Request {
                probes,
                k,
                spread,
                ..request_of(index.key, &some[0])
            };
            let stale = index.observed(&mut rng, &index.stale);
            let is_bad = n % 7 == 3;
            if is_bad {
                let (request, query, expected) = spoil(&mut rng, request, &some[0]);
                let waiting = world.ask(rng.random_range(0..3), &request, &query, &[]);
                asked.push((waiting, Err(expected)));
            } else {
                let waiting = world.ask_many(rng.random_range(0..3), &request, some, &stale);
                asked.push((waiting, Ok((at, first..first + some.len(), request))));
            }
        }
        while world.queue.n_ready() > 0 {
            let served = world
                .server
                .serve(Duration::from_secs(60), &mut || (), &mut |_| ());
            assert_eq!(served.error, None);
            n_batches += served.n_batches;
        }
        for (waiting, expected) in asked {
            match expected {
                Ok((at, asked, request)) => {
                    let replies = Reply::all_of(waiting);
                    assert_eq!(replies.len(), asked.len());
                    for (query, reply) in asked.clone().zip(&replies) {
                        assert_eq!(reply.outcome, Ok(()), "{request:?}");
                        assert!(reply.batch_size as usize >= asked.len());
                        let index = &indexes[at];
                        // `check` moves the query to the end and back.
                        let n = queries[at].items.len();
                        index.check(&mut queries[at], query, &request, reply, &direct[at]);
                        queries[at].items.swap(query, n - 1);
                    }
                }
                Err(expected) => expected(&Reply::of(waiting)),
            }
        }
    }
    let uses = world.server.uses();
    assert!(
        uses.iter()
            .all(|u| u.n_requests > 0 && u.bytes > 0 && u.n_stale <= 2)
    );
    assert!(uses.windows(2).all(|u| u[0].last_used <= u[1].last_used));
    assert_eq!(
        world.server.bytes(),
        uses.iter().map(|u| u.bytes).sum::<u64>()
    );
    println!("{n_batches} batches");
    world.end();
}

type Expected = fn(&Reply);

/// A request that cannot be answered, and what it gets.
fn spoil(rng: &mut ChaCha8Rng, mut request: Request, query: &Query) -> (Request, Query, Expected) {
    let mut query = Query {
        q: query.q.clone(),
        lists: Vec::new(),
        ..*query
    };
    fn unsupported(reply: &Reply) {
        let outcome = &reply.outcome;
        assert!(
            matches!(outcome, Err(Refusal::Gpu(GpuError::Unsupported(_)))),
            "{outcome:?}"
        );
    }
    fn not_loaded(reply: &Reply) {
        assert_eq!(reply.outcome, Err(Refusal::NotLoaded));
    }
    match rng.random_range(0..9) {
        0 => {
            request.key.seed += 1;
            return (request, query, not_loaded);
        }
        1 => query.q.push(1.0),
        2 => drop(query.q.pop()),
        3 => request.k = [0, 1822, 100_000, u32::MAX][rng.random_range(0..4)],
        4 => {
            let at = rng.random_range(0..query.q.len());
            query.q[at] = [f32::NAN, f32::INFINITY, -1e18][rng.random_range(0..3)];
        }
        5 => request.spread = [f32::NAN, -1.0][rng.random_range(0..2)],
        6 => request.rounding = [f32::NAN, -1e-6, 1.0][rng.random_range(0..3)],
        7 => query.q_err = [f32::NAN, f32::INFINITY, -1.0][rng.random_range(0..3)],
        _ => query.q.clear(),
    }
    (request, query, unsupported)
}

#[test]
fn the_largest_k_is_found_and_the_next_refused() {
    let mut rng = rng("the_largest_k_is_found_and_the_next_refused");
    let gpu = Gpu::open_simulated();
    let index = Index::new(&mut rng, 1, Metric::L2, 8, 10);
    let mut world = World::new(4, 64 << 10, gpu.clone());
    world.server.insert(index.key, index.load(&gpu));
    let queries = index.fixture.queries(&mut rng, 1, 1);
    for (k, is_found) in [(1025, true), (1821, true), (1822, false), (2000, false)] {
        let request = Request {
            k,
            ..request_of(index.key, &queries.items[0])
        };
        let small = Request { k: 3, ..request };
        let both = [request, small].map(|r| world.ask(0, &r, &queries.items[0], &[]));
        let served = world
            .server
            .serve(Duration::from_secs(60), &mut || (), &mut |_| ());
        assert_eq!((served.n_requests, served.n_batches), (2, 1));
        let [large, small] = both.map(Reply::of);
        assert_eq!(large.outcome.is_ok(), is_found, "k {k}");
        assert_eq!((small.found.len(), small.outcome), (3, Ok(())));
        if is_found {
            assert_eq!(large.found.len(), k as usize);
            assert_eq!(small.frontier, large.found[3].key);
            assert_eq!(small.found, large.found[..3]);
        }
    }
    world.end();
}

#[test]
fn clients_are_served_from_other_threads() {
    let mut rng = rng("clients_are_served_from_other_threads");
    let gpu = Gpu::open_simulated();
    let index = Index::new(&mut rng, 1, Metric::Cosine, 12, 16);
    let mut world = World::new(8, 16 << 10, gpu.clone());
    world.server.insert(index.key, index.load(&gpu));
    let direct = index.load(&gpu);
    let queries = index.fixture.queries(&mut rng, 300, 10);
    let lists = Lists::Nearest {
        probes: 4,
        spread: f32::INFINITY,
    };
    let expected = search_batch(&direct, &queries, lists, &[]).unwrap();
    let largest = world.serve_threads(6, queries.items.len() / 5, |client, n| {
        // One, or five at once.
        let step = if n % 2 == 0 { 5 } else { 1 };
        for first in (n * 5..n * 5 + 5).step_by(step) {
            let asked = first..first + step;
            let request = Request {
                probes: 4,
                k: 10,
                ..request_of(index.key, &queries.items[0])
            };
            let replies = client(&request, &queries.items[asked.clone()]);
            assert_eq!(replies.len(), asked.len());
            for (q, reply) in asked.zip(replies) {
                assert_eq!((reply.outcome, &reply.found[..]), (Ok(()), expected.of(q)));
            }
        }
    });
    println!("largest batch: {largest}");
    world.end();
}
