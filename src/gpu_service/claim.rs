//! Who loads in the background, of the whole server at most one process, and what is to be left alone for a while, by sessions too; in shared
//! memory.
//!
//! | state of the claim | to | by |
//! |---|---|---|
//! | ended | asked | who has a process started |
//! | asked | running | that process; it ends at once if the claim is another's by now |
//! | asked | ended | who asked, if no process is to be had; anybody, if none has come within [`START_TIME`] |
//! | running | ended | the process, at the latest by its exit callback |
//!
//! A process that ends without exit callbacks has the server restart, which makes this memory anew.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use omen_service::message::TierKey;
use pgrx::pg_sys;

use super::breaker::{micros, now};
use super::turn::Turn;
use crate::storage::IndexPages;

/// A process that was asked for and has not begun by then is not expected any more.
const START_TIME: Duration = Duration::from_secs(10);
/// When no process was to be had, nobody asks for so long.
const NO_PROCESS_PAUSE: Duration = Duration::from_secs(10);
/// An index that could not be had, as others use or want it, rests for so long; one whose load failed longer each time, up to the last.
const SHORT_REST: Duration = Duration::from_secs(5);
const FIRST_REST: Duration = Duration::from_secs(30);
const LAST_REST: Duration = Duration::from_secs(3600);
/// After a refresh, an index rests so many times what that took, and a second at least; only for the pause if searches have lost as much time by
/// what its tier lacks: so refreshes take no more than what is lost without them.
const REFRESH_SHARE: u32 = 20;
const REFRESH_REST: Duration = Duration::from_secs(1);
const REFRESH_PAUSE: Duration = Duration::from_millis(2);
/// Indexes that rest, at most, and places that an index may have: what one does not leave to another is lost, and that may be the rest of an index
/// whose load fails each time.
const N_RESTS: usize = 64;
const N_PLACES: usize = 8;

/// An index, of whatever database: OIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IndexId {
    /// The database.
    pub(crate) database: u32,
    /// The index.
    pub(crate) index: u32,
}

impl IndexId {
    /// The index in `pages`, of this session's database.
    pub(super) fn of(pages: &IndexPages) -> Self {
        Self::here(pages.relation().to_u32())
    }

    /// The index with this OID of this session's database.
    pub(super) fn here(index: u32) -> Self {
        // SAFETY: reads a variable of the session.
        let database = unsafe { pg_sys::MyDatabaseId };
        Self {
            database: database.to_u32(),
            index,
        }
    }

    /// The index of a tier.
    pub(super) fn of_tier(key: &TierKey) -> Self {
        Self {
            database: key.database,
            index: key.index,
        }
    }

    /// One number for it.
    pub(super) fn word(self) -> u64 {
        u64::from(self.database) << 32 | u64::from(self.index)
    }
}

/// How a load ended, in the background or in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The service has the tier.
    Loaded = 0,
    /// There is nothing to load: the index is gone, or not to be loaded.
    Gone = 1,
    /// Others came first, or the process was told to end.
    Later = 2,
    /// By an error, which was reported.
    Failed = 3,
}

const OUTCOMES: [Outcome; 4] = [
    Outcome::Loaded,
    Outcome::Gone,
    Outcome::Later,
    Outcome::Failed,
];
const ASKED: u64 = 4;
const RUNNING: u64 = 5;

/// The right to load. Its number is the time it was claimed at, and no other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim(pub(super) i64);

impl Claim {
    /// A word of the memory: what became of this claim, in the last three bits.
    fn word(self, state: u64) -> u64 {
        (self.0 as u64) << 3 | state
    }

    fn of(word: u64) -> (Self, u64) {
        (Self((word >> 3) as i64), word & 7)
    }

    /// How it ended; `None`: it has not. One that was asked for too long ago will not begin.
    fn outcome(self, state: u64) -> Option<Outcome> {
        let is_lost = state == ASKED && now() > self.0 + micros(START_TIME);
        let lost = is_lost.then_some(Outcome::Later);
        OUTCOMES.get(state as usize).copied().or(lost)
    }
}

/// All zero: nobody loads, nothing rests.
#[repr(C)]
pub(crate) struct Loaders {
    /// The last claim.
    claim: AtomicU64,
    turn: Turn,
    /// Nobody asks for a process before this time.
    no_process_until: AtomicI64,
    /// Processes started.
    pub(crate) n_started: AtomicU64,
    /// Times that none was to be had.
    pub(crate) n_refused: AtomicU64,
    /// Loads that failed.
    pub(crate) n_failed: AtomicU64,
    rests: [Rest; N_RESTS],
}

/// An index that is left alone for a while.
#[repr(C)]
struct Rest {
    /// An [`IndexId`].
    index: AtomicU64,
    /// Number of its file: another, as after REINDEX, does not rest. 0: not known.
    file: AtomicU32,
    until: AtomicI64,
    /// Until when all of it is not loaded again; it may be brought up to date.
    load_until: AtomicI64,
    /// Loads that failed, one after the other.
    failures: AtomicU32,
    /// After a refresh: until when it is not done again for little, how long it took, and what searches have lost since, in microseconds.
    refresh_until: AtomicI64,
    refresh_us: AtomicU64,
    lost_us: AtomicU64,
}

impl Rest {
    fn is_of(&self, index: IndexId, file: u32) -> bool {
        let of = self.file.load(Ordering::Relaxed);
        let is_file = file == 0 || of == 0 || of == file;
        is_file && self.index.load(Ordering::Relaxed) == index.word()
    }

    /// When nothing of it counts any more.
    fn ends(&self) -> i64 {
        let times = [&self.until, &self.load_until, &self.refresh_until];
        let times = times.map(|time| time.load(Ordering::Relaxed));
        times.into_iter().max().unwrap_or(0)
    }

    /// Makes it this index's, which has no rest.
    fn begin(&self, index: IndexId, file: u32) {
        self.failures.store(0, Ordering::Relaxed);
        for time in [&self.until, &self.load_until, &self.refresh_until] {
            time.store(0, Ordering::Relaxed);
        }
        self.refresh_us.store(0, Ordering::Relaxed);
        self.lost_us.store(0, Ordering::Relaxed);
        self.index.store(index.word(), Ordering::Relaxed);
        self.file.store(file, Ordering::Relaxed);
    }
}

impl Loaders {
    /// Claims for an index; `None` while somebody loads, if it is another's turn, or if no process was to be had lately.
    pub(super) fn claim(&self, index: IndexId) -> Option<Claim> {
        let seen = self.claim.load(Ordering::Acquire);
        if !self.is_free(seen) || !self.turn.is_of(index) {
            return None;
        }
        let (last, _) = Claim::of(seen);
        let claim = Claim(now().max(last.0 + 1));
        let is_mine = self.change(seen, claim.word(ASKED));
        if is_mine {
            self.turn.take(index);
        }
        is_mine.then_some(claim)
    }

    /// Whether a load of an index with this file (0: whatever file), which is wanted, could be claimed now. If only because somebody loads it could
    /// not, it has the next turn.
    pub(super) fn may_claim(&self, index: IndexId, file: u32) -> bool {
        if self.is_at_rest(index, file) {
            return false;
        }
        let is_free = self.is_free(self.claim.load(Ordering::Acquire));
        if !is_free {
            self.turn.wait(index);
        }
        is_free && self.turn.is_of(index)
    }

    /// Whether another index than this one waits for its loader to end.
    pub(super) fn is_awaited(&self, index: IndexId) -> bool {
        !self.turn.is_of(index)
    }

    /// Whether an index with this file, the tier of which is there, could be brought up to date now, and is worth it; a search has lost so much
    /// time by what the tier lacks.
    pub(super) fn may_refresh(&self, index: IndexId, file: u32, lost: Duration) -> bool {
        let rest = self.rest_of(index, file);
        let rest = rest.unwrap_or_else(|| self.place_for(index, file));
        let lost = micros(lost) as u64;
        let lost = rest.lost_us.fetch_add(lost, Ordering::Relaxed) + lost;
        let is_time = now() >= rest.refresh_until.load(Ordering::Relaxed);
        let is_much = lost >= rest.refresh_us.load(Ordering::Relaxed);
        (is_time || is_much) && self.may_claim(index, file)
    }

    /// Whether searches have lost enough since the last refresh of an index with this file, and its pause is over.
    pub(super) fn wants_refresh(&self, index: IndexId, file: u32) -> bool {
        self.rest_of(index, file).is_some_and(|rest| {
            let lost = rest.lost_us.load(Ordering::Relaxed);
            let is_over = now() >= rest.until.load(Ordering::Relaxed);
            is_over && lost >= rest.refresh_us.load(Ordering::Relaxed).max(1)
        })
    }

    fn is_at_rest(&self, index: IndexId, file: u32) -> bool {
        let rest = self.rest_of(index, file);
        rest.is_some_and(|rest| now() < rest.until.load(Ordering::Relaxed))
    }

    fn is_free(&self, word: u64) -> bool {
        let (last, state) = Claim::of(word);
        last.outcome(state).is_some() && now() >= self.no_process_until.load(Ordering::Relaxed)
    }

    /// The process that was asked for has come. `false`: too late.
    pub(super) fn begin(&self, claim: Claim) -> bool {
        self.change(claim.word(ASKED), claim.word(RUNNING))
    }

    /// The load of an index with this file is over. `false`: that is known.
    pub(super) fn end(&self, claim: Claim, index: IndexId, file: u32, outcome: Outcome) -> bool {
        // Before others may claim.
        if Claim::of(self.claim.load(Ordering::Acquire)) == (claim, RUNNING) {
            self.note(index, file, outcome);
        }
        self.change(claim.word(RUNNING), claim.word(outcome as u64))
    }

    /// There was no process to be had. Returns whether that happened for the first time.
    pub(super) fn give_up(&self, claim: Claim) -> bool {
        let until = now() + micros(NO_PROCESS_PAUSE);
        self.no_process_until.store(until, Ordering::Relaxed);
        self.change(claim.word(ASKED), claim.word(Outcome::Later as u64));
        self.n_refused.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// How a claim ended; `None`: it has not.
    pub(super) fn outcome_of(&self, claim: Claim) -> Option<Outcome> {
        match Claim::of(self.claim.load(Ordering::Acquire)) {
            (last, state) if last == claim => claim.outcome(state),
            // Somebody has claimed since.
            _ => Some(Outcome::Later),
        }
    }

    /// Whether an index with this file rests because its load failed.
    pub(super) fn failed_lately(&self, index: IndexId, file: u32) -> bool {
        self.is_at_rest(index, file) && self.failed_before(index, file)
    }

    /// Whether the last load of an index with this file failed as well.
    pub(super) fn failed_before(&self, index: IndexId, file: u32) -> bool {
        let rest = self.rest_of(index, file);
        rest.is_some_and(|rest| rest.failures.load(Ordering::Relaxed) > 0)
    }

    /// A load of an index with this file ended so, in the background or in a session.
    pub(super) fn note(&self, index: IndexId, file: u32, outcome: Outcome) {
        let rest = self.place_for(index, file);
        let pause = match outcome {
            Outcome::Loaded => {
                // A rest that is not for failures goes on.
                if rest.failures.swap(0, Ordering::Relaxed) == 0 {
                    return;
                }
                Duration::ZERO
            }
            Outcome::Gone | Outcome::Later => SHORT_REST,
            Outcome::Failed => {
                self.n_failed.fetch_add(1, Ordering::Relaxed);
                let before = rest.failures.load(Ordering::Relaxed);
                // Those that had begun before it rests fail for the same reason.
                if before > 0 && now() < rest.until.load(Ordering::Relaxed) {
                    return;
                }
                rest.failures.store(before + 1, Ordering::Relaxed);
                FIRST_REST.saturating_mul(1 << before.min(8)).min(LAST_REST)
            }
        };
        rest.until.store(now() + micros(pause), Ordering::Relaxed);
    }

    /// An index with this file has just been loaded again, or will be: that is not done again for so long, and for a while at least.
    pub(super) fn rest(&self, index: IndexId, file: u32, pause: Duration) {
        let until = now() + micros(pause.clamp(FIRST_REST, LAST_REST));
        let rest = self.place_for(index, file);
        rest.load_until.store(until, Ordering::Relaxed);
    }

    /// Whether an index with this file may be loaded again.
    pub(super) fn may_reload(&self, index: IndexId, file: u32) -> bool {
        let rest = self.rest_of(index, file);
        rest.is_none_or(|rest| now() >= rest.load_until.load(Ordering::Relaxed))
    }

    /// The tier of an index with this file cannot be brought up to date: that is not tried again for a while, which is longer where only others can
    /// change that.
    pub(super) fn rest_in_vain(&self, index: IndexId, file: u32, is_up_to_others: bool) {
        let pause = if is_up_to_others {
            FIRST_REST
        } else {
            SHORT_REST
        };
        let rest = self.place_for(index, file);
        rest.until.store(now() + micros(pause), Ordering::Relaxed);
    }

    /// An index with this file has just been brought up to date, in this time, of which it had a processor for `busy`: that is not done again before
    /// it is but a small part of the time, or searches have lost as much as it cost. Where it was of no use, whatever searches lose.
    pub(super) fn rest_after_refresh(
        &self,
        index: IndexId,
        file: u32,
        (took, busy): (Duration, Duration),
        is_useful: bool,
    ) {
        let pause = (took * REFRESH_SHARE).clamp(REFRESH_REST, LAST_REST);
        let (rest, now) = (self.place_for(index, file), now());
        // On a busy machine it waits for a processor most of the time, which costs nobody anything.
        let least = if is_useful {
            micros(busy) as u64
        } else {
            u64::MAX
        };
        rest.refresh_us.store(least, Ordering::Relaxed);
        rest.lost_us.store(0, Ordering::Relaxed);
        rest.refresh_until
            .store(now + micros(pause), Ordering::Relaxed);
        rest.until
            .store(now + micros(REFRESH_PAUSE), Ordering::Relaxed);
    }

    /// The place of an index, made its own: if it has none, that of the one which needs it least. Of two that write at once, one may rest for the
    /// other's time.
    fn place_for(&self, index: IndexId, file: u32) -> &Rest {
        let own = self.places_of(index).find(|rest| rest.is_of(index, 0));
        let least = || self.places_of(index).min_by_key(|rest| rest.ends());
        let rest = own.or_else(least).unwrap_or(&self.rests[0]);
        if !rest.is_of(index, file) {
            rest.begin(index, file);
        }
        rest.file.store(file, Ordering::Relaxed);
        rest
    }

    /// The place that an index with this file has.
    fn rest_of(&self, index: IndexId, file: u32) -> Option<&Rest> {
        self.places_of(index).find(|rest| rest.is_of(index, file))
    }

    /// The places that an index may have.
    fn places_of(&self, index: IndexId) -> impl Iterator<Item = &Rest> {
        // OIDs of one database are often a few apart.
        let first = index.database.wrapping_mul(31).wrapping_add(index.index) as usize;
        (0..N_PLACES).map(move |i| &self.rests[(first % N_RESTS + i) % N_RESTS])
    }

    fn change(&self, from: u64, to: u64) -> bool {
        self.claim
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}
