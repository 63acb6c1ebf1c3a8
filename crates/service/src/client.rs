//! The client's side of the queue: a claim of a slot, a request that waits for its answer.
//!
//! Neither gives its slot back when it is dropped: hosts unwind past them. [`Queue::release_all_of`] does.

#![allow(unsafe_code)]

use crate::message::{self, Status};
use crate::queue::{
    CLAIMED, DONE, FREE, Queue, READY, TAKEN, give_up, owner_of, state_of, word_of,
};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

/// A slot to write a request into.
#[derive(Debug)]
#[must_use = "a claim that is dropped keeps its slot"]
pub struct Claim {
    held: Held,
}

/// A request on its way.
#[derive(Debug)]
#[must_use = "a request that is dropped keeps its slot"]
pub struct Waiting {
    held: Held,
}

#[derive(Debug)]
struct Held {
    queue: Queue,
    slot: usize,
    owner: u32,
    ticket: u64,
}

/// Claims a free slot for `owner` (the number that `wake` gets, of which no two living clients have the same), whose request will count for
/// `role`. None if all slots are in use, or as many by this role as it may hold (`queue/share.rs`): search without the server.
pub fn claim(queue: &Queue, owner: u32, role: u32) -> Option<Claim> {
    if !queue.may_hold(role, 1) {
        return None;
    }
    let slots = queue.slots();
    // Owners start at different places, so that they seldom want the same slot.
    let start = owner.wrapping_mul(0x9E37_79B9) as usize % slots.len();
    let free = FREE.into();
    for i in (start..slots.len()).chain(0..start) {
        let slot = &slots[i];
        if slot.word.load(Relaxed) != free {
            continue;
        }
        // Acquire: writes to the payload come after the reads of whoever had the slot before.
        let claimed = word_of(owner, CLAIMED);
        if slot
            .word
            .compare_exchange(free, claimed, Acquire, Relaxed)
            .is_ok()
        {
            let ticket = queue.new_ticket();
            slot.ticket.store(ticket, Relaxed);
            slot.role.store(role, Relaxed);
            slot.n_queries.store(1, Relaxed);
            slot.sleeps.store(0, Relaxed);
            slot.answered.store(0, Relaxed);
            let held = Held {
                queue: *queue,
                slot: i,
                owner,
                ticket,
            };
            let claim = Claim { held };
            // Others of the role may have claimed at the same time.
            if !queue.may_hold(role, 0) {
                claim.give_up();
                return None;
            }
            return Some(claim);
        }
    }
    queue.note_refused(role);
    None
}

impl Held {
    fn slot(&self) -> &crate::queue::Slot {
        &self.queue.slots()[self.slot]
    }

    /// The slot's state; FREE if it is not this client's any more.
    fn state(&self) -> u32 {
        let word = self.slot().word.load(Acquire);
        let is_mine =
            owner_of(word) == self.owner && self.slot().ticket.load(Relaxed) == self.ticket;
        if is_mine { state_of(word) } else { FREE }
    }

    fn step(&self, from: u32, to: u32) -> bool {
        let (from, to) = (word_of(self.owner, from), word_of(self.owner, to));
        let word = &self.slot().word;
        word.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
    }
}

impl Claim {
    /// Where the request goes, `[slot_bytes]`, aligned to a cache line; holds what an earlier request or answer left.
    pub fn payload(&mut self) -> &mut [u8] {
        // SAFETY: the slot is CLAIMED by this client, whose only handle of it is borrowed.
        unsafe { self.held.queue.payload(self.held.slot).as_mut() }
    }

    /// The request has so many queries, not one. The server does not answer one that has more than it says here.
    pub fn set_queries(&mut self, n: u32) {
        self.held.slot().n_queries.store(n, Relaxed);
    }

    /// Hands the request to the server, and wakes it if it sleeps. If no server is up, the request is answered at once with `Status::Down`.
    pub fn submit(self, wake_server: impl FnOnce()) -> Waiting {
        let Held {
            queue, slot, owner, ..
        } = self.held;
        // Release: the server that takes the slot sees the request.
        queue.slots()[slot]
            .word
            .store(word_of(owner, READY), Release);
        // After the state, and as one order with the server's clearing of bits: a bit that is cleared afterwards has been seen with READY.
        queue.ready_bits()[slot / 64].fetch_or(1 << (slot % 64), AcqRel);
        let mut waiting = Waiting { held: self.held };
        fence(SeqCst);
        if !queue.server_is_up() {
            waiting.answer_myself();
        } else if queue.header().server_sleeps.0.load(Relaxed) != 0 {
            wake_server();
        }
        waiting
    }

    /// Gives the slot back.
    pub fn give_up(self) {
        give_up(self.held.slot(), self.held.owner, Some(self.held.ticket));
    }
}

impl Waiting {
    /// Whether there is nothing to wait for any more.
    pub fn is_done(&self) -> bool {
        !matches!(self.held.state(), READY | TAKEN)
    }

    /// To be called before sleeping until the owner is woken; false: do not sleep, the answer is there. In both cases `sleep_end` follows.
    pub fn sleep_begin(&self) -> bool {
        self.held.slot().sleeps.store(1, Relaxed);
        fence(SeqCst);
        !self.is_done()
    }

    /// To be called after sleeping.
    pub fn sleep_end(&self) {
        if self.held.state() != FREE {
            self.held.slot().sleeps.store(0, Relaxed);
        }
    }

    /// The answer, once it is there.
    pub fn answer(&self) -> Option<&[u8]> {
        if self.held.state() != DONE {
            return None;
        }
        let bytes = self.held.slot().answered.load(Relaxed) as usize;
        // SAFETY: the slot is DONE, and this client's until `self` is gone.
        let payload = unsafe { self.held.queue.payload(self.held.slot).as_ref() };
        Some(&payload[..bytes.min(payload.len())])
    }

    /// Gives the slot back once the answer has been read.
    pub fn finish(self) {
        self.abandon();
    }

    /// Gives the slot back in whatever state it is; a request that the server has taken keeps it until it would have been answered.
    pub fn abandon(self) {
        give_up(self.held.slot(), self.held.owner, Some(self.held.ticket));
    }

    /// Answers the request, unless a server has taken it or does so now.
    fn answer_myself(&mut self) {
        if !self.held.step(READY, CLAIMED) {
            return;
        }
        // SAFETY: CLAIMED by this client, whose only handle of the slot is borrowed.
        let payload = unsafe { self.held.queue.payload(self.held.slot).as_mut() };
        let bytes = message::encode_status(Status::Down, "", payload);
        self.held.slot().answered.store(bytes as u32, Relaxed);
        let done = word_of(self.held.owner, DONE);
        self.held.slot().word.store(done, Release);
    }
}
