//! Slots are shared: one role's flood takes what is free, and leaves others theirs once they ask.

mod common;

use common::{Region, assert_all_free, rng};
use omen_service::client::{Claim, claim};
use omen_service::queue::Queue;
use rand::Rng;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const FLOOD: u32 = 10;
const FEW: u32 = 20;
const THIRD: u32 = 30;

/// All slots that a role gets.
fn take_all(queue: &Queue, role: u32) -> Vec<Claim> {
    std::iter::from_fn(|| claim(queue, 1, role)).collect()
}

#[test]
fn nobody_is_kept_from_free_slots_that_nobody_misses() {
    let region = Region::with_queue(12, 64);
    let queue = region.queue(0);
    for role in [FLOOD, FEW] {
        let held = take_all(&queue, role);
        // Refused for what it holds itself, it misses nothing.
        assert_eq!(held.len(), 12);
        queue.release_all_of(1);
    }
    assert_all_free(&queue);
}

#[test]
fn a_share_is_by_roles_that_hold_or_were_refused() {
    let region = Region::with_queue(12, 64);
    let queue = region.queue(0);
    let mut held: VecDeque<Claim> = take_all(&queue, FLOOD).into();
    assert!(claim(&queue, 1, FEW).is_none());
    // The flood gives back, and gets nothing again before the other has had a chance.
    for n in (6..12).rev() {
        held.pop_front().unwrap().give_up();
        assert_eq!(held.len(), n);
        assert!(claim(&queue, 1, FLOOD).is_none());
    }
    let few = take_all(&queue, FEW);
    assert_eq!(few.len(), 6);
    // A third role asks: a third for each, as slots come free.
    assert!(claim(&queue, 1, THIRD).is_none());
    for _ in 0..2 {
        held.pop_front().unwrap().give_up();
        assert!(claim(&queue, 1, FLOOD).is_none() && claim(&queue, 1, FEW).is_none());
    }
    assert_eq!(take_all(&queue, THIRD).len(), 2);
    held.pop_front().unwrap().give_up();
    assert_eq!(take_all(&queue, FLOOD).len(), 1);
    queue.release_all_of(1);
    // After a while without a refusal all is as it was.
    let mut n_claims = 0;
    while take_all(&queue, FLOOD).len() < 12 {
        queue.release_all_of(1);
        n_claims += 1;
        assert!(n_claims < 1000, "the shares stay");
    }
    assert!(n_claims > 10, "the shares were forgotten at once");
    queue.release_all_of(1);
    assert_all_free(&queue);
}

#[test]
fn more_roles_than_slots_or_memory() {
    let region = Region::with_queue(4, 64);
    let queue = region.queue(0);
    let held = take_all(&queue, FLOOD);
    for role in 100..120 {
        assert!(claim(&queue, 1, role).is_none());
    }
    held.into_iter().for_each(Claim::give_up);
    // One slot each, for those too that were not remembered.
    for role in [FLOOD, 101, 119, 5000] {
        let _held = claim(&queue, 1, role).expect("one is free");
        assert!(claim(&queue, 1, role).is_none());
    }
    queue.release_all_of(1);
    assert_all_free(&queue);
}

/// A role whose clients always want more than there is, and another with one request at a time.
#[test]
fn a_flood_does_not_starve_others() {
    let mut rng = rng("a_flood_does_not_starve_others");
    for n_slots in [8, 11, 64] {
        let region = Region::with_queue(n_slots, 64);
        let queue = region.queue(0);
        let mut held: VecDeque<Claim> = VecDeque::new();
        let mut waiting: Option<Claim> = None;
        let (mut n_asked, mut n_refused) = (0, 0);
        for _ in 0..20_000 {
            held.extend(take_all(&queue, FLOOD));
            // Some are answered.
            for _ in 0..rng.random_range(1..4) {
                held.pop_front().into_iter().for_each(Claim::give_up);
            }
            // The flood is always the first to see that.
            held.extend(take_all(&queue, FLOOD));
            match waiting.take() {
                Some(claim) => claim.give_up(),
                None => {
                    n_asked += 1;
                    waiting = claim(&queue, 2, FEW);
                    n_refused += usize::from(waiting.is_none());
                }
            }
        }
        println!("{n_slots} slots: {n_refused} of {n_asked} refused");
        assert!(n_asked > 5000 && n_refused * 20 < n_asked);
        // Nor does the flood get less than it might.
        assert!(held.len() >= n_slots / 2 - 4, "{}", held.len());
        queue.release_all_of(1);
        queue.release_all_of(2);
        assert_all_free(&queue);
    }
}

#[test]
fn a_flood_of_threads_does_not_starve_others() {
    const TIME: Duration = Duration::from_secs(2);
    let region = Region::with_queue(8, 64);
    let queue = region.queue(0);
    let (ends, n_served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut n_asked, mut n_refused) = (0, 0);
    std::thread::scope(|scope| {
        for owner in 1..=24 {
            let (ends, n_served) = (&ends, &n_served);
            scope.spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    match claim(&queue, owner, FLOOD) {
                        Some(claim) => {
                            std::thread::sleep(Duration::from_micros(200));
                            n_served.fetch_add(1, Ordering::Relaxed);
                            claim.give_up();
                        }
                        // The CPU answers.
                        None => std::thread::sleep(Duration::from_micros(20)),
                    }
                }
            });
        }
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            n_asked += 1;
            match claim(&queue, 100, FEW) {
                Some(claim) => claim.give_up(),
                None => n_refused += 1,
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        ends.store(true, Ordering::Relaxed);
    });
    let n_served = n_served.into_inner();
    println!("{n_refused} of {n_asked} refused, {n_served} of the flood served");
    assert!(n_asked > 100 && n_served > 100);
    assert!(n_refused * 4 < n_asked);
    assert_all_free(&queue);
}
