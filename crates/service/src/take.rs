//! The server's side of the queue: which of the ready requests are taken, what they ask, their answers.
//!
//! If more are ready than the server takes at once, roles take turns, the oldest request of each first; what stays is ready the next time.
//! So a role with many connections does not slow down one with few. A request of many queries takes as many turns, so neither does one whose
//! statements bring thousands.

#![allow(unsafe_code)]

use crate::message::MAX_QUERIES;
use crate::queue::{
    ABANDONED, FREE, Queue, READY, Slot, TAKEN, Taken, owner_of, state_of, word_of,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

/// A request that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Number of the slot.
    pub slot: u32,
    /// Number of the claim: later claims have larger ones.
    pub ticket: u64,
    /// Whom the request counts for.
    pub role: u32,
    /// Its queries.
    pub n_queries: usize,
}

/// Chooses requests of at most `max` queries together, or one that has more: it is always the turn of the role that had the fewest queries so
/// far, of several in the order of their numbers, beginning after `last_role` (the role of the last one chosen before), and it gives its
/// oldest request. The result is in the order of choice.
pub fn choose(mut ready: Vec<Ready>, max: usize, last_role: u32) -> Vec<Ready> {
    ready.sort_unstable_by_key(|r| r.ticket);
    if ready.iter().map(|r| r.n_queries).sum::<usize>() <= max {
        return ready;
    }
    let mut by_role: BTreeMap<u32, VecDeque<Ready>> = BTreeMap::new();
    for request in ready {
        by_role.entry(request.role).or_default().push_back(request);
    }
    let n_up_to_last = by_role.range(..=last_role).count();
    let mut of_roles: Vec<VecDeque<Ready>> = by_role.into_values().collect();
    of_roles.rotate_left(n_up_to_last);
    // Whose turn it is: queries so far, place.
    let mut turns: BinaryHeap<Reverse<(usize, usize)>> =
        (0..of_roles.len()).map(|at| Reverse((0, at))).collect();
    let (mut chosen, mut n_queries) = (Vec::new(), 0);
    while let Some(Reverse((had, at))) = turns.pop() {
        let Some(next) = of_roles[at].front() else {
            continue;
        };
        if n_queries + next.n_queries > max && n_queries > 0 {
            if had == 0 {
                // The next time it begins with this role: so it has its turn, however many others there are.
                break;
            }
            continue;
        }
        n_queries += next.n_queries;
        turns.push(Reverse((had + next.n_queries, at)));
        chosen.extend(of_roles[at].pop_front());
    }
    chosen
}

impl Queue {
    /// Takes ready requests of at most `max` queries, or one that has more, chosen by [`choose`]. Each of them must be answered.
    pub fn take_ready(&self, max: usize) -> Vec<Taken> {
        let last_role = &self.header().last_role;
        let chosen = choose(self.find_ready(), max, last_role.load(Relaxed));
        let mut taken = Vec::with_capacity(chosen.len());
        for ready in chosen {
            let i = ready.slot as usize;
            let slot = &self.slots()[i];
            if let Some(owner) = try_take(slot) {
                // No later request can be meant by the bit: the slot is not free before this thread says so.
                self.clear_bit(i);
                // The slot may have got another request since it was chosen.
                let (ticket, role) = (slot.ticket.load(Relaxed), slot.role.load(Relaxed));
                last_role.store(role, Relaxed);
                taken.push(Taken {
                    slot: ready.slot,
                    ticket,
                    role,
                    owner,
                    n_queries: queries_of(slot),
                });
            }
        }
        taken
    }

    /// Requests that are ready.
    pub fn n_ready(&self) -> usize {
        self.find_ready().len()
    }

    /// What a request asks: the whole payload, of which the request says itself how much counts. Empty if it is not the server's any more.
    pub fn request<'a>(&'a self, taken: &'a Taken) -> &'a [u8] {
        if self.state_of_taken(taken).is_none() {
            return &[];
        }
        // SAFETY: the state gives the payload to the server; what ends that takes or forbids `taken` (see `Queue::attach`).
        unsafe { self.payload(taken.slot as usize).as_ref() }
    }

    /// Answers a request: `write` gets the payload, `[slot_bytes]`, and returns how many bytes of it the answer has. `wake` gets the owner's
    /// number if it sleeps. If the client has given up, neither is called.
    pub fn answer(
        &self,
        taken: Taken,
        write: impl FnOnce(&mut [u8]) -> usize,
        wake: impl FnOnce(u32),
    ) {
        let slot = taken.slot as usize;
        match self.state_of_taken(&taken) {
            Some((TAKEN, owner)) => self.complete(slot, owner, write, wake),
            Some(_) => self.slots()[slot].word.store(FREE.into(), Release),
            None => {}
        }
    }

    /// To be called before the server sleeps until it is woken; false: do not sleep, something is ready. In both cases `server_sleep_end`
    /// follows.
    pub fn server_sleep_begin(&self) -> bool {
        self.header().server_sleeps.0.store(1, Relaxed);
        fence(SeqCst);
        self.n_ready() == 0
    }

    /// To be called after sleeping.
    pub fn server_sleep_end(&self) {
        self.header().server_sleeps.0.store(0, Relaxed);
    }

    /// All that is ready, by slot. Clears bits that mean nothing.
    fn find_ready(&self) -> Vec<Ready> {
        let mut found = Vec::new();
        for (number, bits) in self.ready_bits().iter().enumerate() {
            // Acquire: with its bit, a slot's READY is seen.
            let mut left = bits.load(Acquire);
            while left != 0 {
                let bit = left.trailing_zeros() as usize;
                left &= left - 1;
                let i = number * 64 + bit;
                let Some(slot) = self.slots().get(i) else {
                    bits.fetch_and(!(1 << bit), Relaxed);
                    continue;
                };
                if !is_ready(slot) {
                    // Perhaps the slot becomes ready in this moment. Then either its bit is set after this step and stays, or it was
                    // set before, and READY is seen here.
                    self.clear_bit(i);
                    if !is_ready(slot) {
                        continue;
                    }
                    bits.fetch_or(1 << bit, AcqRel);
                }
                found.push(Ready {
                    slot: i as u32,
                    ticket: slot.ticket.load(Relaxed),
                    role: slot.role.load(Relaxed),
                    n_queries: queries_of(slot),
                });
            }
        }
        found
    }

    fn clear_bit(&self, i: usize) {
        self.ready_bits()[i / 64].fetch_and(!(1 << (i % 64)), AcqRel);
    }

    /// TAKEN or ABANDONED, and the owner, if the request still is the server's.
    fn state_of_taken(&self, taken: &Taken) -> Option<(u32, u32)> {
        let slot = self.slots().get(taken.slot as usize)?;
        let word = slot.word.load(Acquire);
        let is_mine = matches!(state_of(word), TAKEN | ABANDONED)
            && slot.ticket.load(Relaxed) == taken.ticket;
        is_mine.then_some((state_of(word), owner_of(word)))
    }
}

fn is_ready(slot: &Slot) -> bool {
    state_of(slot.word.load(Acquire)) == READY
}

/// Queries of the slot's request, as its client says: at least one, and not more than a request can have.
fn queries_of(slot: &Slot) -> usize {
    (slot.n_queries.load(Relaxed) as usize).clamp(1, MAX_QUERIES)
}

/// READY -> TAKEN, whoever owns the slot by now: who that is.
fn try_take(slot: &Slot) -> Option<u32> {
    loop {
        let word = slot.word.load(Relaxed);
        if state_of(word) != READY {
            return None;
        }
        // Acquire: the request is seen.
        let taken = word_of(owner_of(word), TAKEN);
        if slot
            .word
            .compare_exchange(word, taken, Acquire, Relaxed)
            .is_ok()
        {
            return Some(owner_of(word));
        }
    }
}
