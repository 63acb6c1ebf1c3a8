//! Fair shares of the slots. Whoever finds a slot takes it, until somebody finds none whose role holds less than its share, the same for all
//! that hold or want some. For a while from then on no role holds more than that, so that one with many connections leaves some to the others.
//! Where nobody is refused, nobody counts.

use super::{FREE, Line, Queue, state_of};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Roles that are remembered to have been refused.
const N_REFUSED: usize = 8;
/// For how many claims, for each slot of the queue.
const CLAIMS_A_SLOT: usize = 64;

/// Roles that were refused: the role in the high half, in the low half the number of the claim that came next. 0: none.
pub(super) type Refused = Line<[AtomicU64; N_REFUSED]>;

impl Queue {
    /// A client of this role found no slot. That counts if the role holds less than its share.
    pub(crate) fn note_refused(&self, role: u32) {
        let (n_held, share) = self.holding(role, Vec::new());
        if n_held >= share {
            return;
        }
        let refused = &self.header().refused.0;
        let now = self.next_ticket();
        let word = u64::from(role) << 32 | u64::from(now);
        let known = refused.iter().find(|w| role_of(w.load(Relaxed)) == role);
        let forgotten = || {
            refused
                .iter()
                .find(|w| !self.is_recent(w.load(Relaxed), now))
        };
        // More than that need not be remembered: it is known that there are many.
        if let Some(place) = known.or_else(forgotten) {
            place.store(word, Relaxed);
        }
    }

    /// Whether a role may hold `n_more` slots beside those that it holds.
    pub(crate) fn may_hold(&self, role: u32, n_more: usize) -> bool {
        let now = self.next_ticket();
        let words = self.header().refused.0.iter().map(|w| w.load(Relaxed));
        let recent = words.filter(|word| self.is_recent(*word, now));
        let others: Vec<u32> = recent.map(role_of).filter(|other| *other != role).collect();
        if others.is_empty() {
            return true;
        }
        let (n_held, share) = self.holding(role, others);
        n_held + n_more <= share
    }

    /// Slots that a role holds, and its share of them, beside whoever holds some and `others`.
    fn holding(&self, role: u32, others: Vec<u32>) -> (usize, usize) {
        let mut roles = others;
        roles.push(role);
        let mut n_held = 0;
        for slot in self.slots() {
            if state_of(slot.word.load(Relaxed)) != FREE {
                let holder = slot.role.load(Relaxed);
                n_held += usize::from(holder == role);
                roles.push(holder);
            }
        }
        roles.sort_unstable();
        roles.dedup();
        (n_held, (self.n_slots() / roles.len()).max(1))
    }

    fn next_ticket(&self) -> u32 {
        self.header().next_ticket.0.load(Relaxed) as u32
    }

    fn is_recent(&self, word: u64, now: u32) -> bool {
        let lately = (CLAIMS_A_SLOT * self.n_slots()) as u32;
        word != 0 && now.wrapping_sub(word as u32) <= lately
    }
}

fn role_of(word: u64) -> u32 {
    (word >> 32) as u32
}
