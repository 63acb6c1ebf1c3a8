//! Figures of indexes, in memory that all processes map: what searches of each did, and what the server has of it.
//!
//! Writers add with relaxed atomics, once a search. An index is found by its id from a place that its id gives, as in any hash table with linear
//! probing. Places are never given back, so the table fills up; then the index that was searched and loaded longest ago, and of which the server
//! has no tier, makes way for the next. What is being added to an index at that moment may count for the other.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64};

/// Indexes that have figures at the same time.
pub const MAX_INDEXES: usize = 1024;

/// No index: the place is free, or is being given to another.
const FREE: u64 = 0;
const CHANGING: u64 = u64::MAX;

/// Who answered a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The CPU alone.
    Cpu,
    /// The device, and the CPU at most for what the device lacks.
    Gpu,
    /// Some rounds the one, some the other.
    Both,
}

/// What a search did, or several that were made in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Searched {
    /// Searches.
    pub n: u64,
    /// Who answered.
    pub by: By,
    /// Whether it is one call for many queries.
    pub is_call: bool,
    /// Whether the CPU took over because the device could not.
    pub fell_back: bool,
    /// Rows returned.
    pub rows: u64,
    /// Entries looked at.
    pub candidates: u64,
    /// When it ended, in the caller's unit; not 0.
    pub at: i64,
}

/// What the server has of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hot {
    /// Bytes of device memory.
    pub bytes: u64,
    /// Lists of the tier.
    pub lists: u64,
    /// Those of them that are out of date, hence not searched.
    pub stale_lists: u64,
}

/// Figures of an index, as they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Searches that the device answered.
    pub by_gpu: u64,
    /// Searches that the CPU answered.
    pub by_cpu: u64,
    /// Searches that both answered, some rounds each.
    pub by_both: u64,
    /// Searches that the CPU took over because the device could not.
    pub fallbacks: u64,
    /// Calls for many queries.
    pub calls: u64,
    /// Rows returned.
    pub rows: u64,
    /// Entries looked at.
    pub candidates: u64,
    /// When a search ended last, 0: never.
    pub searched_at: i64,
    /// Tiers loaded.
    pub loads: u64,
    /// When that was last, 0: never.
    pub loaded_at: i64,
    /// Lists that were brought up to date in a tier.
    pub refreshes: u64,
    /// What the server has.
    pub hot: Hot,
}

/// What sessions write is on a cache line of its own.
#[derive(Default)]
#[repr(C, align(64))]
struct Place {
    by_gpu: AtomicU64,
    by_cpu: AtomicU64,
    by_both: AtomicU64,
    fallbacks: AtomicU64,
    calls: AtomicU64,
    rows: AtomicU64,
    candidates: AtomicU64,
    searched_at: AtomicI64,
    loads: AtomicU64,
    loaded_at: AtomicI64,
    refreshes: AtomicU64,
    hot_bytes: AtomicU64,
    hot_lists: AtomicU64,
    stale_lists: AtomicU64,
    /// Whether the index's tier goes last.
    goes_last: AtomicU32,
}

const _: () = assert!(size_of::<Place>() == 128);

/// The table. All zero: nothing is known of any index.
#[repr(C)]
pub struct Indexes {
    ids: [AtomicU64; MAX_INDEXES],
    places: [Place; MAX_INDEXES],
    /// Whether somebody gives a place to another index.
    is_changing: AtomicBool,
}

impl Indexes {
    /// Counts a search of index `id`, which is any number but 0 and the largest.
    pub fn note_search(&self, id: u64, searched: &Searched) {
        let Some(place) = self.place_for(id) else {
            return;
        };
        let Searched { n, by, .. } = *searched;
        let by = match by {
            By::Cpu => &place.by_cpu,
            By::Gpu => &place.by_gpu,
            By::Both => &place.by_both,
        };
        by.fetch_add(n, Relaxed);
        if searched.fell_back {
            place.fallbacks.fetch_add(n, Relaxed);
        }
        if searched.is_call {
            place.calls.fetch_add(1, Relaxed);
        }
        place.rows.fetch_add(searched.rows, Relaxed);
        place.candidates.fetch_add(searched.candidates, Relaxed);
        place.searched_at.store(searched.at, Relaxed);
    }

    /// A tier of index `id` was loaded, at time `at`.
    pub fn note_load(&self, id: u64, at: i64) {
        if let Some(place) = self.place_for(id) {
            place.loads.fetch_add(1, Relaxed);
            place.loaded_at.store(at, Relaxed);
        }
    }

    /// So many lists of the tier of index `id` were brought up to date.
    pub fn note_refresh(&self, id: u64, n_lists: u64) {
        if let Some(place) = self.place_for(id) {
            place.refreshes.fetch_add(n_lists, Relaxed);
        }
    }

    /// Whether the tier of index `id` goes last where room is wanted.
    pub fn note_goes_last(&self, id: u64, goes_last: bool) {
        let place = if goes_last {
            self.place_for(id)
        } else {
            self.find(id)
        };
        // Mostly known: then the cache line is not written to.
        let changed = place.filter(|place| place.goes_last() != goes_last);
        if let Some(place) = changed {
            place.goes_last.store(u32::from(goes_last), Relaxed);
        }
    }

    /// Whether it was said so last.
    pub fn goes_last(&self, id: u64) -> bool {
        self.find(id).is_some_and(Place::goes_last)
    }

    /// Bytes of the tiers that go last, but for that of index `id`.
    pub fn last_bytes_beside(&self, id: u64) -> u64 {
        let kept = self
            .known()
            .filter(|(other, place)| *other != id && place.goes_last());
        kept.map(|(_, place)| place.hot_bytes.load(Relaxed)).sum()
    }

    /// The server has tiers of these indexes and no others; of two of one index (in two files) both count. The server alone calls this.
    pub fn set_hot(&self, tiers: &[(u64, Hot)]) {
        for &(id, _) in tiers {
            // It may have been forgotten.
            let _ = self.place_for(id);
        }
        let mut by_id: HashMap<u64, Hot> = HashMap::new();
        for (id, hot) in tiers {
            let all = by_id.entry(*id).or_default();
            all.bytes += hot.bytes;
            all.lists += hot.lists;
            all.stale_lists += hot.stale_lists;
        }
        for (id, place) in self.known() {
            place.set_hot(by_id.get(&id).copied().unwrap_or_default());
        }
    }

    /// The figures of index `id`: zeros if nothing is known of it.
    pub fn read(&self, id: u64) -> Figures {
        self.find(id).map(Place::read).unwrap_or_default()
    }

    /// Counts from zero again; what the server has, it has.
    pub fn reset(&self) {
        for place in &self.places {
            place.reset();
        }
    }

    /// The places in use.
    fn known(&self) -> impl Iterator<Item = (u64, &Place)> {
        let ids = self.ids.iter().map(|id| id.load(Acquire));
        ids.zip(&self.places)
            .filter(|(id, _)| !matches!(*id, FREE | CHANGING))
    }

    fn find(&self, id: u64) -> Option<&Place> {
        match self.look(id) {
            Look::There(at) => Some(&self.places[at]),
            Look::Free(_) | Look::Full => None,
        }
    }

    /// Looks for an index: where it is, or else where it could be.
    fn look(&self, id: u64) -> Look {
        // The upper bits of the product depend on all bits of the id.
        let start = (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % MAX_INDEXES;
        for at in (start..MAX_INDEXES).chain(0..start) {
            match self.ids[at].load(Acquire) {
                FREE => return Look::Free(at),
                there if there == id => return Look::There(at),
                _ => {}
            }
        }
        Look::Full
    }

    /// The place of an index, if need be a new one. `None`: another gets one at this moment, and there is none free.
    fn place_for(&self, id: u64) -> Option<&Place> {
        if matches!(id, FREE | CHANGING) {
            return None;
        }
        loop {
            match self.look(id) {
                Look::There(at) => return Some(&self.places[at]),
                // Should another take it first, it may be for the same index.
                Look::Free(at) => {
                    let _ = self.ids[at].compare_exchange(FREE, id, AcqRel, Relaxed);
                }
                Look::Full => return self.take_over(id),
            }
        }
    }

    /// Gives an index the place of the one that is of least use.
    fn take_over(&self, id: u64) -> Option<&Place> {
        if self.is_changing.swap(true, Acquire) {
            return None;
        }
        let at = match self.look(id) {
            // It has just got one.
            Look::There(at) => Some(at),
            Look::Free(_) | Look::Full => self.least_used(),
        };
        if let Some(at) = at.filter(|&at| self.ids[at].load(Relaxed) != id) {
            self.ids[at].store(CHANGING, Relaxed);
            self.places[at].reset();
            self.places[at].goes_last.store(0, Relaxed);
            self.ids[at].store(id, Release);
        }
        self.is_changing.store(false, Release);
        at.map(|at| &self.places[at])
    }

    fn least_used(&self) -> Option<usize> {
        let used_at = |at: usize| {
            let place = &self.places[at];
            let (searched, loaded) = (&place.searched_at, &place.loaded_at);
            searched.load(Relaxed).max(loaded.load(Relaxed))
        };
        (0..MAX_INDEXES)
            .filter(|&at| self.places[at].hot_bytes.load(Relaxed) == 0)
            .min_by_key(|&at| used_at(at))
    }
}

enum Look {
    There(usize),
    Free(usize),
    Full,
}

impl Place {
    fn goes_last(&self) -> bool {
        self.goes_last.load(Relaxed) != 0
    }

    fn set_hot(&self, hot: Hot) {
        let figures = [
            (&self.hot_bytes, hot.bytes),
            (&self.hot_lists, hot.lists),
            (&self.stale_lists, hot.stale_lists),
        ];
        for (figure, value) in figures {
            // Sessions add to figures on the same line.
            if figure.load(Relaxed) != value {
                figure.store(value, Relaxed);
            }
        }
    }

    fn read(&self) -> Figures {
        let figure = |figure: &AtomicU64| figure.load(Relaxed);
        Figures {
            by_gpu: figure(&self.by_gpu),
            by_cpu: figure(&self.by_cpu),
            by_both: figure(&self.by_both),
            fallbacks: figure(&self.fallbacks),
            calls: figure(&self.calls),
            rows: figure(&self.rows),
            candidates: figure(&self.candidates),
            searched_at: self.searched_at.load(Relaxed),
            loads: figure(&self.loads),
            loaded_at: self.loaded_at.load(Relaxed),
            refreshes: figure(&self.refreshes),
            hot: Hot {
                bytes: figure(&self.hot_bytes),
                lists: figure(&self.hot_lists),
                stale_lists: figure(&self.stale_lists),
            },
        }
    }

    fn reset(&self) {
        let figures = [
            &self.by_gpu,
            &self.by_cpu,
            &self.by_both,
            &self.fallbacks,
            &self.calls,
            &self.rows,
            &self.candidates,
            &self.loads,
            &self.refreshes,
        ];
        for figure in figures {
            figure.store(0, Relaxed);
        }
        self.searched_at.store(0, Relaxed);
        self.loaded_at.store(0, Relaxed);
    }
}
