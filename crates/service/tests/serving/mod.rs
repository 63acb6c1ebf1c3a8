//! A server in a region, clients that ask it, and what they get.

#![allow(dead_code)]

use crate::gpu::Query;
use crate::region::{Latch, Region, assert_all_free};
use omen_gpu::Gpu;
use omen_gpu::params::{Found, QueryBound};
use omen_service::client::{Waiting, claim};
use omen_service::message::{
    ChosenList, Refusal, Request, StaleList, Status, TierKey, decode_answer,
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
        bound: QueryBound {
            q_norm: query.norm,
            q_err: query.q_err,
        },
        ..Request::default()
    }
}

/// A copy of an answer.
#[derive(Debug)]
pub struct Reply {
    pub outcome: Result<(), Refusal>,
    pub found: Vec<Found>,
    pub frontier: f32,
    pub lists: Vec<ChosenList>,
    pub batch_size: u32,
}

impl Reply {
    pub fn of(waiting: Waiting) -> Self {
        assert!(waiting.is_done());
        let view = decode_answer(waiting.answer().unwrap()).unwrap();
        let reply = Self {
            outcome: view.outcome(),
            found: view.found.to_vec(),
            frontier: view.head.frontier,
            lists: view.lists.to_vec(),
            batch_size: view.head.batch_size,
        };
        waiting.finish();
        reply
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

    pub fn ask(
        &self,
        role: u32,
        request: &Request,
        vector: &[f32],
        stale: &[StaleList],
    ) -> Waiting {
        let mut claim = claim(&self.queue, 1, role).expect("slots enough");
        request.encode(vector, stale, claim.payload()).unwrap();
        claim.submit(|| ())
    }

    /// Serves while `n_clients` threads do `n` pieces of work, `work(ask, number)`, with less slots than that. The largest batch.
    pub fn serve_threads(
        &mut self,
        n_clients: usize,
        n: usize,
        work: impl Fn(&dyn Fn(&Request, &[f32]) -> Reply, usize) + Sync,
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
                    let ask = |request: &Request, vector: &[f32]| {
                        let mut claim = loop {
                            match claim(&queue, owner as u32, owner as u32) {
                                Some(claim) => break claim,
                                None => std::thread::yield_now(),
                            }
                        };
                        request.encode(vector, &[], claim.payload()).unwrap();
                        let waiting = claim.submit(|| latches[0].set());
                        while !waiting.is_done() {
                            if waiting.sleep_begin() {
                                assert!(latches[owner].wait(limit), "not woken");
                            }
                            waiting.sleep_end();
                        }
                        Reply::of(waiting)
                    };
                    let ask = |request: &Request, vector: &[f32]| {
                        let reply = ask(request, vector);
                        largest.fetch_max(reply.batch_size as usize, Ordering::Relaxed);
                        reply
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
