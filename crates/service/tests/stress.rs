//! Many clients, a server that restarts: every answer is the request's own, no wake-up and no slot is lost.

#![allow(unsafe_code)]

mod common;

use common::{Latch, Region, assert_all_free, rng};
use omen_service::client::{Waiting, claim};
use omen_service::message::{Status, decode_answer};
use omen_service::queue::Queue;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A wake-up that takes longer is lost.
const LIMIT: Duration = Duration::from_secs(15);
const ECHO: u64 = 0x6563_686F_6563_686F;

struct World {
    region: Region,
    server: Latch,
    clients: Vec<Latch>,
    kind: Kind,
    stop: AtomicBool,
    n_living: AtomicUsize,
    n_answered: AtomicU64,
    n_down: AtomicU64,
    n_abandoned: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Kind {
    /// All goes well.
    Calm,
    /// Clients give up, and nothing comes to the help of who was forgotten then.
    Fickle,
    /// Clients also die, and the server restarts.
    Rough,
    /// Bits are set that mean nothing.
    Noisy,
}

/// A client has ended; if it has failed, all end.
struct End<'a>(&'a World);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let world = self.0;
        if std::thread::panicking() {
            world.stop.store(true, Ordering::SeqCst);
        }
        world.n_living.fetch_sub(1, Ordering::SeqCst);
        world.server.set();
    }
}

/// The words of a request or its answer: who, how many, and a pattern.
fn pattern(first: u64, n: usize) -> impl Iterator<Item = u64> {
    (0..n as u64).map(move |i| match i {
        0 => first,
        1 => n as u64,
        _ => first.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(i),
    })
}

/// How long to look before sleeping.
fn spins(rng: &mut ChaCha8Rng) -> Duration {
    let most = if rng.random_bool(0.5) { 2000 } else { 20_000 };
    Duration::from_nanos(rng.random_range(0..most))
}

fn put(payload: &mut [u8], words: impl Iterator<Item = u64>) {
    for (to, word) in payload.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap())
}

fn is_pattern(bytes: &[u8], first: u64, n: usize) -> bool {
    pattern(first, n)
        .enumerate()
        .all(|(i, expected)| word(bytes, i) == expected)
}

impl World {
    fn wake(&self, owner: u32) {
        self.clients[owner as usize - 1].set();
    }

    /// One client: `rounds` requests, each ended in one of many ways.
    fn client(&self, owner: u32, rounds: usize, mut rng: ChaCha8Rng) {
        let _end = End(self);
        let queue = self.region.queue(1);
        let role = rng.random_range(0..3);
        let often = |rng: &mut ChaCha8Rng, p: f64| self.kind > Kind::Calm && rng.random_bool(p);
        for round in 0..rounds {
            let Some(mut claim) = claim(&queue, owner, role) else {
                std::thread::yield_now();
                continue;
            };
            if often(&mut rng, 0.05) {
                claim.give_up();
                continue;
            }
            if often(&mut rng, 0.05) {
                drop(claim);
                queue.release_all_of(owner);
                continue;
            }
            let id = u64::from(owner) << 32 | round as u64;
            let n = rng.random_range(3..=queue.slot_bytes() / 8);
            put(claim.payload(), pattern(id, n));
            let waiting = claim.submit(|| self.server.set());
            if often(&mut rng, 0.1) {
                if rng.random_bool(0.2) {
                    std::thread::yield_now();
                }
                self.n_abandoned.fetch_add(1, Ordering::Relaxed);
                waiting.abandon();
                continue;
            }
            if often(&mut rng, 0.05) {
                drop(waiting);
                queue.release_all_of(owner);
                continue;
            }
            self.wait(&waiting, owner, &mut rng);
            let answer = waiting.answer().expect("what is done has an answer");
            if answer.len() >= 24 && word(answer, 0) == ECHO {
                self.n_answered.fetch_add(1, Ordering::Relaxed);
                assert_eq!(answer.len(), n * 8);
                assert!(
                    is_pattern(&answer[8..], !id, n - 1),
                    "another request's answer"
                );
            } else {
                self.n_down.fetch_add(1, Ordering::Relaxed);
                assert_eq!(decode_answer(answer).unwrap().status, Status::Down);
            }
            match rng.random_range(0..10) {
                0 if self.kind > Kind::Calm => {
                    drop(waiting);
                    queue.release_all_of(owner);
                }
                1 => waiting.abandon(),
                _ => waiting.finish(),
            }
        }
    }

    fn wait(&self, waiting: &Waiting, owner: u32, rng: &mut ChaCha8Rng) {
        // Sometimes both run at once, sometimes one wakes the other.
        let end = Instant::now() + spins(rng);
        while !waiting.is_done() && Instant::now() < end {
            std::hint::spin_loop();
        }
        while !waiting.is_done() {
            if waiting.sleep_begin() && !self.clients[owner as usize - 1].wait(LIMIT) {
                panic!(
                    "client {owner} was not woken, is_done {}",
                    waiting.is_done()
                );
            }
            waiting.sleep_end();
        }
    }

    fn serve(&self, mut rng: ChaCha8Rng) {
        let queue = self.region.queue(0);
        let is_over =
            || self.stop.load(Ordering::SeqCst) || self.n_living.load(Ordering::SeqCst) == 0;
        while !is_over() {
            let taken = queue.take_ready(rng.random_range(1..=6));
            if self.kind >= Kind::Rough && rng.random_bool(0.02) {
                self.restart(&queue, &mut rng);
                continue;
            }
            let is_idle = taken.is_empty();
            for taken in taken {
                if rng.random_bool(0.1) {
                    std::thread::yield_now();
                }
                let request = queue.request(&taken);
                let (id, n) = (word(request, 0), word(request, 1) as usize);
                assert!(is_pattern(request, id, n), "a torn request");
                let write = |payload: &mut [u8]| {
                    put(payload, std::iter::once(ECHO).chain(pattern(!id, n - 1)));
                    n * 8
                };
                queue.answer(taken, write, |owner| self.wake(owner));
            }
            if is_idle {
                let end = Instant::now() + spins(&mut rng);
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
                if queue.server_sleep_begin() && !is_over() {
                    self.server.wait(LIMIT * 2);
                }
                queue.server_sleep_end();
            }
        }
    }

    /// The server dies with what it has taken, and another one starts.
    fn restart(&self, queue: &Queue, rng: &mut ChaCha8Rng) {
        if rng.random_bool(0.5) {
            queue.set_server_up(false);
            queue.fail_all(Status::Down, |owner| self.wake(owner));
            if rng.random_bool(0.5) {
                std::thread::sleep(Duration::from_micros(rng.random_range(0..300)));
            }
        }
        queue.fail_all(Status::Down, |owner| self.wake(owner));
        queue.set_server_up(true);
    }

    /// Sets bits of the bitmap for nothing.
    fn noise(&self, mut rng: ChaCha8Rng) {
        let n_words = self.region.queue(1).n_slots().div_ceil(64);
        while self.n_living.load(Ordering::SeqCst) > 0 && !self.stop.load(Ordering::SeqCst) {
            let at = self.region.start(1).wrapping_add(192);
            // SAFETY: the bitmap, after the header.
            let bits = unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), n_words) };
            bits[rng.random_range(0..n_words)].fetch_or(rng.random(), Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(rng.random_range(0..200)));
        }
    }
}

fn run(rng: &mut ChaCha8Rng, n_clients: u32, n_slots: usize, rounds: usize, kind: Kind) {
    let world = World {
        region: Region::with_queue(n_slots, 512),
        server: Latch::default(),
        clients: (0..n_clients).map(|_| Latch::default()).collect(),
        kind,
        stop: AtomicBool::new(false),
        n_living: AtomicUsize::new(n_clients as usize),
        n_answered: AtomicU64::new(0),
        n_down: AtomicU64::new(0),
        n_abandoned: AtomicU64::new(0),
    };
    let queue = world.region.queue(0);
    queue.set_server_up(true);
    let start = Instant::now();
    let mut seed = || ChaCha8Rng::seed_from_u64(rng.random());
    std::thread::scope(|s| {
        let world = &world;
        for owner in 1..=n_clients {
            let rng = seed();
            s.spawn(move || world.client(owner, rounds, rng));
        }
        let (server, noise) = (seed(), seed());
        s.spawn(move || world.serve(server));
        if kind == Kind::Noisy {
            s.spawn(move || world.noise(noise));
        }
    });
    queue.fail_all(Status::Down, |_| ());
    assert_all_free(&queue);
    assert_eq!(queue.n_ready(), 0);
    assert!(world.region.canaries_live());
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let counts = [&world.n_answered, &world.n_down, &world.n_abandoned].map(count);
    println!(
        "{kind:?}, {n_clients} clients, {n_slots} slots: answered, down, abandoned {counts:?}, {:?}",
        start.elapsed()
    );
    assert!(counts[0] > 0);
    assert_eq!(kind >= Kind::Rough, counts[1] > 0);
    assert_eq!(kind >= Kind::Fickle, counts[2] > 0);
}

#[test]
fn one_client_and_the_server_wake_each_other() {
    let mut rng = rng("one client");
    run(&mut rng, 1, 1, 60_000, Kind::Calm);
    run(&mut rng, 1, 1, 60_000, Kind::Fickle);
}

#[test]
fn few_clients_share_few_slots() {
    let mut rng = rng("few clients");
    run(&mut rng, 2, 1, 20_000, Kind::Calm);
    run(&mut rng, 2, 2, 20_000, Kind::Fickle);
    run(&mut rng, 3, 2, 20_000, Kind::Rough);
}

#[test]
fn many_clients_die_and_the_server_restarts() {
    let mut rng = rng("many clients");
    run(&mut rng, 12, 5, 10_000, Kind::Rough);
    run(&mut rng, 12, 70, 10_000, Kind::Rough);
    run(&mut rng, 12, 70, 10_000, Kind::Noisy);
}
