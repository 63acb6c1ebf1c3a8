//! Which index is to be loaded next, in shared memory. One that is searched by many clients would else be claimed for again as soon as its loader has
//! ended, however long another has been waiting that is searched now and then.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::breaker::{micros, now};
use super::claim::IndexId;

/// Who waits asks again within this time, or has its turn no more.
const TURN: Duration = Duration::from_secs(2);

/// All zero: nobody waits.
#[repr(C)]
pub(super) struct Turn {
    /// The index that was claimed for last: an [`IndexId`].
    claimed_for: AtomicU64,
    /// The one that waits for its turn, likewise; 0: none.
    waits: AtomicU64,
    /// Until when it has its turn.
    until: AtomicI64,
}

impl Turn {
    /// This index was claimed for.
    pub(super) fn take(&self, index: IndexId) {
        self.claimed_for.store(index.word(), Ordering::Relaxed);
        let _ = self
            .waits
            .compare_exchange(index.word(), 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// This index is to be loaded, and somebody loads. Of several the first has the next turn.
    pub(super) fn wait(&self, index: IndexId) {
        let word = index.word();
        if self.claimed_for.load(Ordering::Relaxed) != word && self.is_of(index) {
            let until = now() + micros(TURN);
            self.until.store(until, Ordering::Relaxed);
            self.waits.store(word, Ordering::Relaxed);
        }
    }

    /// Whether this index may be claimed for: no other has its turn.
    pub(super) fn is_of(&self, index: IndexId) -> bool {
        let waits = self.waits.load(Ordering::Relaxed);
        waits == 0 || waits == index.word() || now() > self.until.load(Ordering::Relaxed)
    }
}
