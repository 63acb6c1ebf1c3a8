//! The steps of slots that end what others have begun: a client gives up, a server answers, or fails.

#![allow(unsafe_code)]

use super::{
    ABANDONED, CLAIMED, DONE, FREE, Queue, READY, Slot, TAKEN, owner_of, state_of, word_of,
};
use crate::message::{self, Status};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

impl Queue {
    /// Gives back whatever `owner` still holds, in every state. For the host's callbacks at the end of a transaction or process.
    pub fn release_all_of(&self, owner: u32) {
        for slot in self.slots() {
            let word = slot.word.load(Acquire);
            if owner_of(word) == owner {
                give_up(slot, owner, None);
            }
        }
    }

    /// Ends all requests that wait for an answer with `status`, and wakes their owners, to whom `wake` is given. For a server that ends
    /// (after `set_server_up(false)`), by error or otherwise, and once more for one that starts: nothing its predecessor left stays behind.
    pub fn fail_all(&self, status: Status, mut wake: impl FnMut(u32)) {
        for (i, slot) in self.slots().iter().enumerate() {
            loop {
                let word = slot.word.load(Acquire);
                let owner = owner_of(word);
                let next = match state_of(word) {
                    FREE | CLAIMED | DONE => break,
                    READY => word_of(owner, TAKEN),
                    TAKEN => {
                        let write =
                            |payload: &mut [u8]| message::encode_status(status, "", payload);
                        self.complete(i, owner, write, &mut wake);
                        break;
                    }
                    // ABANDONED; or no state at all, which nobody else would ever free.
                    _ => FREE.into(),
                };
                // If it fails, the client gave up in this moment: look again.
                let _ = slot.word.compare_exchange(word, next, AcqRel, Relaxed);
            }
        }
    }

    /// Answers slot `i`, which is TAKEN or ABANDONED, by this thread.
    pub(crate) fn complete(
        &self,
        i: usize,
        owner: u32,
        write: impl FnOnce(&mut [u8]) -> usize,
        wake: impl FnOnce(u32),
    ) {
        let slot = &self.slots()[i];
        // SAFETY: the state gives the payload to the server, that is, to this function.
        let payload = unsafe { self.payload(i).as_mut() };
        let bytes = write(payload).min(self.slot_bytes);
        slot.answered.store(bytes as u32, Relaxed);
        let (taken, done) = (word_of(owner, TAKEN), word_of(owner, DONE));
        // Release: what was written is there for whoever sees DONE.
        if slot
            .word
            .compare_exchange(taken, done, Release, Relaxed)
            .is_err()
        {
            // Only ABANDONED is left, which only the server ends.
            slot.word.store(FREE.into(), Release);
            return;
        }
        fence(SeqCst);
        // Perhaps the slot is another's by now, and the wake-up comes for nothing.
        if slot.sleeps.load(Relaxed) != 0 {
            wake(owner);
        }
    }
}

/// A client lets go of a slot that it holds, if it does (and with this ticket, if one is given).
pub(crate) fn give_up(slot: &Slot, owner: u32, ticket: Option<u64>) {
    loop {
        let word = slot.word.load(Acquire);
        if owner_of(word) != owner || ticket.is_some_and(|t| slot.ticket.load(Relaxed) != t) {
            return;
        }
        let next = match state_of(word) {
            CLAIMED | READY | DONE => FREE.into(),
            TAKEN => word_of(owner, ABANDONED),
            _ => return,
        };
        // Release: whoever claims the slot next writes after this client has read. If it fails, the server took a step.
        if slot
            .word
            .compare_exchange(word, next, AcqRel, Relaxed)
            .is_ok()
        {
            return;
        }
    }
}
