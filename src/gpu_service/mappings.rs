//! Which sessions have tiers of the service mapped into contexts of their own (`omen.gpu_context = backend`), in shared memory.
//!
//! A session notes that it maps a tier before it asks what by, and takes the note back when it has let go of the memory. What the worker finds
//! noted it neither refreshes nor frees. Sessions see by the tier's number that the worker has given it up, and then let go with their next search.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use omen_service::message::TierKey;

use super::control::hash_of;
use super::memory::Service;
use crate::wake;

/// Mappings at most; further sessions load tiers for themselves.
pub(crate) const MAX_MAPPINGS: usize = 128;

/// A note. All zero: free.
#[repr(C)]
struct Note {
    /// Number of the session among the processes, and one.
    owner: AtomicU32,
    /// Start of the worker whose tier it is: what another has had is gone with it.
    starts: AtomicU32,
    /// Hash of the tier's key.
    hash: AtomicU64,
    /// The tier's number; 0: not known yet, so any.
    number: AtomicU64,
}

impl Note {
    fn is_of(&self, hash: u64, starts: u32) -> bool {
        self.owner.load(Ordering::Acquire) != 0
            && self.hash.load(Ordering::Acquire) == hash
            && self.starts.load(Ordering::Acquire) == starts
    }

    fn free(&self) {
        self.hash.store(0, Ordering::Release);
        self.number.store(0, Ordering::Release);
        self.owner.store(0, Ordering::Release);
    }
}

/// The notes. All zero at start.
#[repr(C)]
pub(crate) struct Mappings([Note; MAX_MAPPINGS]);

impl Mappings {
    /// Mappings there are.
    pub(crate) fn n(&self) -> usize {
        let owners = self.0.iter().map(|note| note.owner.load(Ordering::Relaxed));
        owners.filter(|&owner| owner != 0).count()
    }

    fn note(&'static self, key: &TierKey, starts: u32) -> Option<&'static Note> {
        let (me, order) = (wake::my_number() + 1, Ordering::SeqCst);
        let mut notes = self.0.iter();
        let note = notes.find(|note| note.owner.compare_exchange(0, me, order, order).is_ok())?;
        note.starts.store(starts, Ordering::SeqCst);
        note.hash.store(hash_of(key), Ordering::SeqCst);
        Some(note)
    }

    /// What a process had mapped, that ends.
    pub(super) fn release_all_of(&self, owner: u32) {
        let owners = self.0.iter();
        let owned = |note: &&Note| note.owner.load(Ordering::Acquire) == owner + 1;
        owners.filter(owned).for_each(Note::free);
    }
}

impl Service {
    /// Whether any tier that this key has, or had, may be mapped.
    pub(super) fn may_be_mapped(&self, key: &TierKey) -> bool {
        let (hash, starts) = (hash_of(key), self.starts());
        let mut notes = self.control.mappings.0.iter();
        notes.any(|note| note.is_of(hash, starts))
    }

    /// Whether the tier of this key and number may be mapped.
    pub(super) fn is_mapped(&self, key: &TierKey, number: u64) -> bool {
        let (hash, starts) = (hash_of(key), self.starts());
        let is_it = |note: &Note| {
            let noted = note.number.load(Ordering::Acquire);
            note.is_of(hash, starts) && (noted == 0 || noted == number)
        };
        self.control.mappings.0.iter().any(is_it)
    }

    fn starts(&self) -> u32 {
        self.control.starts.load(Ordering::Acquire)
    }
}

/// A tier of the service that this session maps, or is about to. Dropping it says that nothing of it is mapped any more.
pub(crate) struct Mapping {
    service: &'static Service,
    note: &'static Note,
    key: TierKey,
    /// Start of the worker whose tier it is.
    starts: u32,
}

impl Mapping {
    /// Notes that this session maps the tier of this key; `None` where too many are mapped.
    pub(super) fn new(service: &'static Service, key: &TierKey) -> Option<Self> {
        let starts = service.starts();
        Some(Self {
            service,
            starts,
            note: service.control.mappings.note(key, starts)?,
            key: *key,
        })
    }

    /// It is the tier of this number.
    pub(super) fn is(&self, number: u64) {
        self.note.number.store(number, Ordering::Release);
    }

    /// Whether the worker still has the tier as it was mapped.
    pub(crate) fn is_current(&self) -> bool {
        let control = self.service.control;
        let number = self.note.number.load(Ordering::Relaxed);
        self.is_alive() && control.number_of(&self.key) == Some(number)
    }

    /// Whether the worker lives that has the memory.
    pub(crate) fn is_alive(&self) -> bool {
        self.service.starts() == self.starts && super::session::is_up(self.service)
    }

    /// The device does not answer any more, so that the memory cannot be let go of: the note stays until the process ends.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.note.free();
    }
}
