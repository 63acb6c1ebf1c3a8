//! State and figures of the service, in shared memory: written by the worker, read by everyone.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use omen_service::message::TierKey;
use omen_service::serve::TierUse;

use super::breaker::Breaker;
use super::claim::Loaders;
use super::mappings::Mappings;

/// Hot tiers at most.
pub(crate) const MAX_TIERS: usize = 128;

/// What the worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum State {
    /// Not running: not started yet, ended by an error and to be started again, or shut down.
    Down = 0,
    /// Creating its GPU context.
    Opening = 1,
    /// Answering.
    Up = 2,
    /// There is no GPU it could use; it looks again now and then.
    NoGpu = 3,
}

impl State {
    /// Word shown to users.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Opening => "opening",
            Self::Up => "up",
            Self::NoGpu => "no GPU",
        }
    }
}

/// A figure that sessions look at while they spin: nobody else writes to its cache line.
#[repr(align(64))]
struct OwnLine(AtomicU64);

/// The block. All zero at start. Figures count since the server was started.
#[repr(C)]
pub(crate) struct Control {
    state: AtomicU32,
    /// Process id of the worker, 0 if there is none.
    pub(crate) pid: AtomicU32,
    /// The worker's number among the processes, for waking it.
    pub(crate) proc_number: AtomicU32,
    /// Whether the worker's device is the simulated one.
    pub(crate) is_simulated: AtomicU32,
    /// Number of the device.
    pub(crate) device: AtomicU32,
    /// Starts of the worker since it answered last.
    pub(crate) failed_starts: AtomicU32,
    /// Starts of the worker.
    pub(crate) starts: AtomicU32,
    /// When the worker became able to answer, microseconds as Postgres counts them.
    pub(crate) up_since: AtomicI64,
    /// Batches given to the device.
    pub(crate) batches: AtomicU64,
    /// Searches in them.
    pub(crate) searches: AtomicU64,
    /// Searches of the largest.
    pub(crate) max_batch: AtomicU64,
    /// Whether the watchdog ended the last worker.
    stuck: AtomicU32,
    /// Rounds that the CPU answered in the service's place, by the places of `fallback::REASONS`.
    pub(crate) fallbacks: [AtomicU64; MAX_REASONS],
    /// Running average of the searches that are ready at once, in `CROWD_UNIT`s.
    crowd: OwnLine,
    /// Microseconds in which the worker was not idle.
    pub(crate) busy_us: AtomicU64,
    /// Microseconds in which a batch ran.
    pub(crate) device_us: AtomicU64,
    /// Searches that found no free slot.
    pub(crate) refused: AtomicU64,
    /// Searches given up by their session: cancelled or out of time.
    pub(crate) abandoned: AtomicU64,
    /// Batches that failed.
    pub(crate) failures: AtomicU64,
    /// Hot tiers loaded so far.
    pub(crate) loads: AtomicU64,
    /// The same since the server was started, whatever figures are reset.
    pub(super) takeovers: AtomicU64,
    /// Times that lists of hot tiers were refreshed.
    pub(crate) refreshes: AtomicU64,
    /// Hot tiers there are.
    pub(crate) n_tiers: AtomicU64,
    /// Searches that were not answered in time.
    pub(crate) timeouts: AtomicU64,
    /// Whether sessions may ask.
    pub(crate) breaker: Breaker,
    /// Who loads a tier in the background.
    pub(crate) loaders: Loaders,
    /// Hashes of the keys of the tiers there are, their bytes, their numbers, and whether they have codes alone.
    tier_keys: [AtomicU64; MAX_TIERS],
    bytes_of: [AtomicU64; MAX_TIERS],
    numbers: [AtomicU64; MAX_TIERS],
    codes_alone: [AtomicBool; MAX_TIERS],
    /// Hash of the key of a tier that a session wants evicted, or [`ALL_TIERS`]; 0: none.
    to_evict: AtomicU64,
    /// Bytes of tiers that were given up while sessions have them mapped.
    pub(crate) retired_bytes: AtomicU64,
    /// Which tiers sessions have mapped.
    pub(crate) mappings: Mappings,
}

/// Reasons that are counted.
pub(crate) const MAX_REASONS: usize = 16;
/// Of a running average: parts of a search, and how many batches it is over.
const CROWD_UNIT: u64 = 64;
const CROWD_WEIGHT: u64 = 8;
/// In place of a hash: all tiers.
const ALL_TIERS: u64 = u64::MAX;

impl Control {
    /// What the worker is doing.
    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            1 => State::Opening,
            2 => State::Up,
            3 => State::NoGpu,
            _ => State::Down,
        }
    }

    /// A call of the driver does not come back. Not on the main thread.
    pub(super) fn note_stuck(&self) {
        self.stuck.store(1, Ordering::Relaxed);
        self.set_state(State::Down);
    }

    /// Whether there is a worker that is to be ended for that.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) != 0
    }

    /// Whether the worker before this one was ended for that; asked once.
    pub(super) fn was_stuck(&self) -> bool {
        self.stuck.swap(0, Ordering::Relaxed) != 0
    }

    /// Number of the worker's device.
    pub(crate) fn device(&self) -> i32 {
        self.device.load(Ordering::Relaxed) as i32
    }

    /// Whether the worker's device is the simulated one.
    pub(crate) fn is_simulated(&self) -> bool {
        self.is_simulated.load(Ordering::Relaxed) != 0
    }

    /// How many searches wait at the same time, of late.
    pub(crate) fn crowd(&self) -> u64 {
        get(&self.crowd.0) / CROWD_UNIT
    }

    /// So many searches were ready at once. The worker alone calls this.
    pub(crate) fn note_crowd(&self, n_searches: u64) {
        let old = get(&self.crowd.0);
        let new = old - old / CROWD_WEIGHT + n_searches * CROWD_UNIT / CROWD_WEIGHT;
        self.crowd.0.store(new, Ordering::Relaxed);
    }

    /// Counts from zero again; what there is stays.
    pub(crate) fn reset_figures(&self) {
        let figures = [
            &self.batches,
            &self.searches,
            &self.max_batch,
            &self.busy_us,
            &self.device_us,
            &self.refused,
            &self.abandoned,
            &self.failures,
            &self.loads,
            &self.refreshes,
            &self.timeouts,
            &self.loaders.n_started,
            &self.loaders.n_refused,
            &self.loaders.n_failed,
        ];
        for figure in figures.into_iter().chain(&self.fallbacks) {
            figure.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the worker has a tier. One of the same hash may be taken for it: the worker knows better.
    pub(crate) fn has_tier(&self, key: &TierKey) -> bool {
        self.tier_bytes(key).is_some()
    }

    /// Bytes of a tier, if the worker has it.
    pub(crate) fn tier_bytes(&self, key: &TierKey) -> Option<u64> {
        Some(get(&self.bytes_of[self.place_of(key)?]))
    }

    /// Number of a tier, if the worker has it.
    pub(super) fn number_of(&self, key: &TierKey) -> Option<u64> {
        Some(self.numbers[self.place_of(key)?].load(Ordering::Acquire))
    }

    /// Whether the worker has a tier of codes alone. Answers say so too, which counts.
    pub(crate) fn has_codes_alone(&self, key: &TierKey) -> bool {
        let place = self.place_of(key);
        place.is_some_and(|at| self.codes_alone[at].load(Ordering::Relaxed))
    }

    fn place_of(&self, key: &TierKey) -> Option<usize> {
        let (hash, n) = (hash_of(key), get(&self.n_tiers) as usize);
        let mut keys = self.tier_keys[..n.min(MAX_TIERS)].iter();
        keys.position(|k| k.load(Ordering::Acquire) == hash)
    }

    /// Bytes of all tiers.
    pub(crate) fn all_tier_bytes(&self) -> u64 {
        let n = get(&self.n_tiers) as usize;
        self.bytes_of[..n.min(MAX_TIERS)].iter().map(get).sum()
    }

    /// The worker has these tiers.
    pub(crate) fn set_tiers(&self, tiers: &[TierUse]) {
        let mut n = 0;
        for (at, tier) in tiers.iter().take(MAX_TIERS).enumerate() {
            let codes_alone = tier.bytes_with_rows.is_some();
            self.codes_alone[at].store(codes_alone, Ordering::Relaxed);
            self.bytes_of[at].store(tier.bytes, Ordering::Relaxed);
            self.numbers[at].store(tier.number, Ordering::Release);
            self.tier_keys[at].store(hash_of(&tier.key), Ordering::Release);
            n += 1;
        }
        self.n_tiers.store(n, Ordering::Relaxed);
    }

    /// Asks the worker to evict a tier, or all. `false`: another session's wish is not fulfilled yet.
    pub(crate) fn ask_to_evict(&self, key: Option<&TierKey>) -> bool {
        let (hash, order) = (key.map_or(ALL_TIERS, hash_of), Ordering::Relaxed);
        self.to_evict
            .compare_exchange(0, hash, order, order)
            .is_ok()
    }

    /// Whether a wish for eviction is to be fulfilled.
    pub(crate) fn wants_eviction(&self) -> bool {
        get(&self.to_evict) != 0
    }

    /// Whether that wish is for this tier.
    pub(crate) fn is_to_evict(&self, key: &TierKey) -> bool {
        let hash = get(&self.to_evict);
        hash == ALL_TIERS || hash == hash_of(key)
    }

    /// It is fulfilled.
    pub(crate) fn note_evicted(&self) {
        self.to_evict.store(0, Ordering::Release);
    }

    /// The worker does something else from now on.
    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u32, Ordering::Release);
    }
}

/// Adds to a figure.
pub(crate) fn add(figure: &AtomicU64, n: u64) {
    figure.fetch_add(n, Ordering::Relaxed);
}

/// A figure.
pub(crate) fn get(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

/// What stands for a key in shared memory; neither 0 nor that of all tiers.
pub(super) fn hash_of(key: &TierKey) -> u64 {
    // With the same keys in every process.
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish().clamp(1, ALL_TIERS - 1)
}
