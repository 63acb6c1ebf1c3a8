//! A server in a region, clients that ask it, and what they get.

#![allow(dead_code)]

use crate::gpu::Query;
use crate::region::{Latch, Region, assert_all_free};
use omen_gpu::params::{Found, QueryBound};
use omen_gpu::{Gpu, NearSlot};
use omen_service::client::{Waiting, claim};
use omen_service::message::{
    ChosenList, Refusal, Request, SlotPlaces, StaleList, Status, TierKey, decode_answer,
};
use omen_service::queue::Queue;
use omen_service::serve::Server;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub fn key(number: u32) -> TierKey {
    TierKey {
        tablespace: 1663,
        database: 5,
        number,
        index: 0,
        seed: 17,
        built_at: -1,
    }
}

/// The request for the nearest row of all to a query.
pub fn request_of(key: TierKey, query: &Query) -> Request {
    Request {
        key,
        probes: u32::MAX,
        k: 1,
        spread: f32::INFINITY,
        rounding: omen_ivf::bound::rounding(query.q.len() as u32),
        n_queries: 1,
        words: query.q.len() as u32,
        ..Request::default()
    }
}

/// What the keys of a query need.
pub fn bound_of(query: &Query) -> QueryBound {
    QueryBound {
        q_norm: query.norm,
        q_err: query.q_err,
    }
}

/// Writes a request for these queries into a slot's payload.
pub fn write(
    request: &Request,
    queries: &[Query],
    lists: &[u32],
    stale: &[StaleList],
    payload: &mut [u8],
) {
    let (n_queries, dim) = (queries.len() as u32, queries[0].q.len());
    let request = Request {
        n_queries,
        words: dim as u32,
        ..*request
    };
    let fill = |vectors: &mut [f32], bounds: &mut [QueryBound]| {
        for (i, query) in queries.iter().enumerate() {
            vectors[i * dim..(i + 1) * dim].copy_from_slice(&query.q);
            bounds[i] = bound_of(query);
        }
    };
    request.encode(stale, lists, payload, fill).unwrap();
}

/// A copy of an answer to one query.
#[derive(Debug)]
pub struct Reply {
    pub outcome: Result<(), Refusal>,
    pub found: Vec<Found>,
    /// Lists and slots in them, with their bounds: of a tier of codes alone.
    pub named: Vec<(u32, u32, f32)>,
    pub names_slots: bool,
    pub is_lost: bool,
    pub frontier: f32,
    pub lists: Vec<ChosenList>,
    pub batch_size: u32,
}

impl Reply {
    pub fn of(waiting: Waiting) -> Self {
        let mut all = Self::all_of(waiting);
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// Of each query of the request; one if it was refused.
    pub fn all_of(waiting: Waiting) -> Vec<Self> {
        assert!(waiting.is_done());
        let view = decode_answer(waiting.answer().unwrap()).unwrap();
        let refused = Self {
            outcome: view.outcome(),
            found: Vec::new(),
            named: Vec::new(),
            names_slots: false,
            is_lost: false,
            frontier: 0.0,
            lists: Vec::new(),
            batch_size: 0,
        };
        let slots = SlotPlaces::new(view.lists);
        let named = |near: &NearSlot| {
            let (list, slot) = slots.place_of(near.slot).expect("a slot of a list");
            (list, slot, near.bound)
        };
        let replies = view.each().map(|query| Self {
            outcome: Ok(()),
            found: query.found.to_vec(),
            named: query.named.iter().map(named).collect(),
            names_slots: view.names_slots(),
            is_lost: query.is_lost,
            frontier: query.frontier,
            lists: match query.places {
                None => view.lists.to_vec(),
                Some(places) => places.iter().map(|p| view.lists[*p as usize]).collect(),
            },
            batch_size: view.head.batch_size,
        });
        let replies: Vec<Self> = replies.collect();
        assert_eq!(replies.len(), view.head.n_queries as usize);
        assert_eq!(replies.is_empty(), refused.outcome.is_err());
        waiting.finish();
        if replies.is_empty() {
            vec![refused]
        } else {
            replies
        }
    }
}

pub struct World {
    pub server: Server,
    /// As the clients see it.
    pub queue: Queue,
    region: Region,
}

impl World {
    pub fn new(n_slots: usize, slot_bytes: usize, gpu: Gpu) -> Self {
        let region = Region::with_queue(n_slots, slot_bytes);
        region.queue(0).set_server_up(true);
        Self {
            server: Server::new(region.queue(0), gpu),
            queue: region.queue(1),
            region,
        }
    }

    pub fn ask(&self, role: u32, request: &Request, query: &Query, stale: &[StaleList]) -> Waiting {
        self.ask_many(role, request, std::slice::from_ref(query), stale)
    }

    pub fn ask_many(
        &self,
        role: u32,
        request: &Request,
        queries: &[Query],
        stale: &[StaleList],
    ) -> Waiting {
        self.ask_lists(role, request, queries, &[], stale)
    }

    /// Asks to search these lists.
    pub fn ask_lists(
        &self,
        role: u32,
        request: &Request,
        queries: &[Query],
        lists: &[u32],
        stale: &[StaleList],
    ) -> Waiting {
        let mut claim = claim(&self.queue, 1, role).expect("slots enough");
        write(request, queries, lists, stale, claim.payload());
        claim.set_queries(queries.len() as u32);
        claim.submit(|| ())
    }

    /// Serves while `n_clients` threads do `n` pieces of work, `work(ask, number)`, with less slots than that. The largest batch.
    pub fn serve_threads(
        &mut self,
        n_clients: usize,
        n: usize,
        work: impl Fn(&dyn Fn(&Request, &[Query]) -> Vec<Reply>, usize) + Sync,
    ) -> u32 {
        let latches: Vec<Latch> = (0..=n_clients).map(|_| Latch::default()).collect();
        let (next, living) = (AtomicUsize::new(0), AtomicUsize::new(n_clients));
        let largest = AtomicUsize::new(0);
        let (queue, limit) = (self.queue, Duration::from_secs(30));
        std::thread::scope(|s| {
            for owner in 1..=n_clients {
                let (latches, next, living, work) = (&latches, &next, &living, &work);
                let largest = &largest;
                s.spawn(move || {
                    let ask = |request: &Request, queries: &[Query]| {
                        let mut claim = loop {
                            match claim(&queue, owner as u32, owner as u32) {
                                Some(claim) => break claim,
                                None => std::thread::yield_now(),
                            }
                        };
                        write(request, queries, &[], &[], claim.payload());
                        claim.set_queries(queries.len() as u32);
                        let waiting = claim.submit(|| latches[0].set());
                        while !waiting.is_done() {
                            if waiting.sleep_begin() {
                                assert!(latches[owner].wait(limit), "not woken");
                            }
                            waiting.sleep_end();
                        }
                        let replies = Reply::all_of(waiting);
                        largest.fetch_max(replies[0].batch_size as usize, Ordering::Relaxed);
                        replies
                    };
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= n {
                            break;
                        }
                        work(&ask, number);
                    }
                    living.fetch_sub(1, Ordering::SeqCst);
                    latches[0].set();
                });
            }
            let server = *self.server.queue();
            while living.load(Ordering::SeqCst) > 0 {
                let served = self.server.serve(limit, &mut || (), &mut |owner| {
                    latches[owner as usize].set()
                });
                if served.n_requests == 0 {
                    if server.server_sleep_begin() && living.load(Ordering::SeqCst) > 0 {
                        assert!(latches[0].wait(limit), "the server was not woken");
                    }
                    server.server_sleep_end();
                }
            }
        });
        largest.into_inner() as u32
    }

    pub fn end(self) {
        self.queue.set_server_up(false);
        self.queue.fail_all(Status::Down, |_| ());
        assert_all_free(&self.queue);
        assert!(self.region.canaries_live());
    }
}
