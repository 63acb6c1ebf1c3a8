//! Whose the region is. Its loader gives one command at a time (`caller`), which the host answers (`callee`).
//!
//! The state is one word: what, which load, whose. Who changes it from what to what:
//!
//! | from | to | by |
//! |---|---|---|
//! | IDLE | OPEN | the loader that begins, with the next load's number |
//! | OPEN | FINISHED, FAILED | the host, when it has answered and holds nothing of the load any more |
//! | OPEN | CANCELLED | its loader, whose threads have stopped |
//! | FINISHED, FAILED | IDLE | its loader, likewise |
//! | OPEN, FINISHED, FAILED | GONE | whoever knows that the loader is gone |
//! | CANCELLED | IDLE | the host, when it holds nothing of the load any more |
//! | GONE | IDLE | the host, likewise, after [`QUARANTINE`] |
//!
//! So nobody begins while a loader that is alive may still write into areas, nor while the host holds memory for it.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long areas rest after their loader was declared gone: it may be about to end, with threads that copy some last bytes.
pub(super) const QUARANTINE: Duration = Duration::from_millis(500);
/// Turns before the first sleep: about ten microseconds.
const SPINS: u32 = 200;
const SLEEP: Duration = Duration::from_micros(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    Open,
    Cancelled,
    Finished,
    Failed,
    /// Also anything that is no state.
    Gone,
}

/// The state of the region: number of the state in bits 0 to 8, of the load in bits 8 to 32, of its owner in the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

const STATES: [State; 6] = [
    State::Idle,
    State::Open,
    State::Cancelled,
    State::Finished,
    State::Failed,
    State::Gone,
];

impl Word {
    pub(super) fn state(self) -> State {
        *STATES.get((self.0 & 0xFF) as usize).unwrap_or(&State::Gone)
    }

    pub(super) fn load(self) -> u64 {
        self.0 >> 8 & 0xFF_FFFF
    }

    pub(super) fn owner(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The same load in another state.
    pub(super) fn with(self, state: State) -> Self {
        Self(self.0 & !0xFF | state as u64)
    }

    pub(super) fn next(self, owner: u32) -> Self {
        let load = (self.load() + 1) & 0xFF_FFFF;
        Self(u64::from(owner) << 32 | load << 8 | State::Open as u64)
    }

    /// Number of the load's command number `n`, of all loads.
    pub(super) fn number(self, n: u64) -> u64 {
        self.load() << 40 | n & 0xFF_FFFF_FFFF
    }
}

pub(super) fn read(state: &AtomicU64) -> Word {
    Word(state.load(Ordering::SeqCst))
}

/// Changes the state of the load that `from` is of; false if it is another by now.
pub(super) fn change(state: &AtomicU64, from: Word, to: State) -> bool {
    let to = from.with(to).0;
    let changed = state.compare_exchange(from.0, to, Ordering::SeqCst, Ordering::SeqCst);
    changed.is_ok()
}

pub(super) fn release_of(state: &AtomicU64, owner: u32) {
    loop {
        let word = read(state);
        let held = matches!(word.state(), State::Open | State::Finished | State::Failed);
        if !held || word.owner() != owner || change(state, word, State::Gone) {
            return;
        }
    }
}

/// How one side waits for the other: it looks again and again, and soon sleeps in between.
#[derive(Default)]
pub(super) struct Pause(u32);

impl Pause {
    /// Whether the next turn sleeps.
    pub(super) fn sleeps(&self) -> bool {
        self.0 >= SPINS
    }

    pub(super) fn turn(&mut self) {
        if self.sleeps() {
            std::thread::sleep(SLEEP);
        } else {
            self.0 += 1;
            spin_loop();
        }
    }
}
