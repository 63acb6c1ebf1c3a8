//! The queue's memory: what is refused, what a slot goes through, and that damage never leads out of it.

#![allow(unsafe_code)]

mod common;

use common::{Region, assert_all_free, rng};
use omen_service::client::claim;
use omen_service::message::{Status, decode_answer};
use omen_service::queue::{MAX_SLOTS, Queue, QueueError};
use rand::Rng;

fn up(n_slots: usize, slot_bytes: usize) -> (Region, Queue, Queue) {
    let region = Region::with_queue(n_slots, slot_bytes);
    let (server, client) = (region.queue(0), region.queue(1));
    server.set_server_up(true);
    (region, server, client)
}

#[test]
fn what_is_no_queue_is_refused() {
    let shape = |n_slots, slot_bytes| {
        let region = Region::new(1 << 16);
        // SAFETY: refused before it is written to.
        let queue = unsafe { Queue::create(region.start(0), n_slots, slot_bytes) };
        assert_eq!(
            queue.err(),
            Some(QueueError::Shape {
                n_slots,
                slot_bytes
            })
        );
        assert!(matches!(region.attach(0), Err(QueueError::NoQueue)));
    };
    shape(0, 64);
    shape(MAX_SLOTS + 1, 64);
    shape(1, 0);
    shape(1, 100);
    shape(1, usize::MAX / 64 * 64);
    let region = Region::with_queue(3, 128);
    let bytes = Queue::bytes(3, 128);
    let at = |start, len| {
        // SAFETY: part of the region.
        unsafe { Queue::attach(start, len) }.err()
    };
    assert_eq!(at(region.start(1), bytes), None);
    let needed = bytes;
    assert_eq!(
        at(region.start(1), bytes - 1),
        Some(QueueError::TooSmall {
            needed,
            there: bytes - 1
        })
    );
    assert!(matches!(
        at(region.start(1), 0),
        Some(QueueError::TooSmall { .. })
    ));
    assert_eq!(
        at(region.start(1).wrapping_add(8), bytes - 8),
        Some(QueueError::Misaligned)
    );
    assert_eq!(
        at(std::ptr::null_mut(), bytes),
        Some(QueueError::Misaligned)
    );
}

#[test]
fn a_dead_clients_slot_is_freed_in_every_state() {
    let (_region, server, client) = up(6, 64);
    let of = |owner| claim(&client, owner, 0).unwrap();
    let done = of(7).submit(|| ());
    let taken = server.take_ready(9).pop().unwrap();
    server.answer(taken, |_| 3, |_| panic!("it does not sleep"));
    assert_eq!(done.answer().unwrap().len(), 3);
    let taken = of(7).submit(|| ());
    let to_answer = server.take_ready(9).pop().unwrap();
    let abandoned = of(7).submit(|| ());
    let to_free = server.take_ready(9).pop().unwrap();
    abandoned.abandon();
    let ready = of(7).submit(|| ());
    let claimed = of(7);
    let other = of(8).submit(|| ());
    assert!(claim(&client, 9, 0).is_none());
    client.release_all_of(7);
    assert!(done.is_done() && taken.is_done() && ready.is_done());
    assert!(done.answer().is_none() && taken.answer().is_none() && !other.is_done());
    drop(claimed);
    // Two are the server's still, whose answers nobody gets.
    for request in [to_answer, to_free] {
        server.answer(request, |_| panic!("abandoned"), |_| panic!("abandoned"));
    }
    let taken = server.take_ready(9);
    assert_eq!(taken.len(), 1);
    server.fail_all(Status::Busy, |_| ());
    assert_eq!(
        decode_answer(other.answer().unwrap()).unwrap().status,
        Status::Busy
    );
    // Too late: the answer is the client's.
    for request in taken {
        assert!(server.request(&request).is_empty());
        server.answer(request, |_| panic!("not taken"), |_| panic!("not taken"));
    }
    other.finish();
    assert_all_free(&client);
}

#[test]
fn a_request_of_a_servers_earlier_life_is_not_answered_for_a_later_one() {
    let (_region, server, client) = up(1, 64);
    let first = claim(&client, 1, 0).unwrap().submit(|| ());
    let old = server.take_ready(1).pop().unwrap();
    server.fail_all(Status::Down, |_| ());
    first.finish();
    let second = claim(&client, 1, 0).unwrap().submit(|| ());
    let new = server.take_ready(1).pop().unwrap();
    assert_eq!(old.slot(), new.slot());
    assert!(old.ticket() < new.ticket());
    assert!(server.request(&old).is_empty() && server.request(&new).len() == 64);
    server.answer(old, |_| panic!("another's"), |_| panic!("another's"));
    assert!(!second.is_done());
    server.answer(new, |_| 1, |_| ());
    assert_eq!(second.answer().unwrap().len(), 1);
    second.finish();
    assert_all_free(&client);
}

#[test]
fn without_a_server_requests_are_answered_at_once() {
    let (_region, server, client) = up(2, 64);
    server.set_server_up(false);
    let waiting = claim(&client, 1, 0)
        .unwrap()
        .submit(|| panic!("nobody to wake"));
    assert!(!waiting.sleep_begin());
    waiting.sleep_end();
    assert_eq!(
        decode_answer(waiting.answer().unwrap()).unwrap().status,
        Status::Down
    );
    waiting.finish();
    assert!(server.take_ready(9).is_empty() && server.server_sleep_begin());
    assert_all_free(&client);
}

#[test]
fn who_sleeps_is_woken_and_who_does_not_is_not() {
    let (_region, server, client) = up(2, 64);
    let mut n = 0;
    let first = claim(&client, 1, 0).unwrap().submit(|| n += 1);
    assert!(!server.server_sleep_begin());
    server.server_sleep_end();
    let taken = server.take_ready(1).pop().unwrap();
    assert!(server.server_sleep_begin());
    let second = claim(&client, 2, 0).unwrap().submit(|| n += 10);
    server.server_sleep_end();
    assert_eq!((n, server.n_ready()), (10, 1));
    assert!(first.sleep_begin());
    let mut woken = Vec::new();
    server.answer(taken, |_| 0, |owner| woken.push(owner));
    first.sleep_end();
    assert!(second.sleep_begin());
    server.fail_all(Status::Down, |owner| woken.push(owner));
    assert_eq!(woken, [1, 2]);
    assert!(first.is_done() && second.is_done());
}

#[test]
fn damage_leads_nowhere() {
    let mut rng = rng("damage_leads_nowhere");
    for _ in 0..2000 {
        let (n_slots, slot_bytes) = (rng.random_range(1..80), 64 * rng.random_range(1..4));
        let region = Region::with_queue(n_slots, slot_bytes);
        let (server, client) = (region.queue(0), region.queue(1));
        let (mut claims, mut waiting, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rng.random_range(1..60) {
            let owner = rng.random_range(0..4);
            let payloads = n_slots * slot_bytes;
            match rng.random_range(0..14) {
                0..4 => {
                    let heads = region.bytes() - payloads;
                    let at = rng.random_range(0..heads);
                    let value = [rng.random(), rng.random_range(0..8)][rng.random_range(0..2)];
                    // SAFETY: inside the region; one thread.
                    unsafe { region.start(0).add(at).write_volatile(value) };
                }
                4 => claims.extend(claim(&client, owner, owner)),
                5 => waiting.extend(claims.pop().map(|c| c.submit(|| ()))),
                6 => taken.extend(server.take_ready(rng.random_range(0..9))),
                7 => {
                    for request in taken.drain(..) {
                        let n = server.request(&request).len();
                        assert!(n == 0 || n == slot_bytes);
                        let write = |payload: &mut [u8]| {
                            payload.fill(1);
                            rng.random_range(0..10_000)
                        };
                        server.answer(request, write, |_| ());
                    }
                }
                8 => {
                    for w in &waiting {
                        assert!(w.answer().is_none_or(|a| a.len() <= slot_bytes));
                        w.sleep_begin();
                        w.sleep_end();
                    }
                }
                9 => {
                    let _ = waiting.pop().map(|w| w.abandon());
                }
                10 => {
                    (claims, waiting) = Default::default();
                    (0..4).for_each(|owner| client.release_all_of(owner));
                }
                11 => {
                    taken.clear();
                    server.fail_all(Status::Down, |_| ());
                }
                12 => server.set_server_up(rng.random()),
                _ => {
                    assert!(server.n_ready() <= n_slots);
                    if let Ok(queue) = region.attach(1) {
                        let needed = Queue::bytes(queue.n_slots(), queue.slot_bytes());
                        assert!(needed <= region.bytes());
                    }
                }
            }
        }
        // A server that starts frees what nobody could: damaged states, and its predecessor's requests.
        server.fail_all(Status::Down, |_| ());
        assert!(region.canaries_live());
    }
}
