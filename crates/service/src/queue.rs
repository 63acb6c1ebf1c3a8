//! The memory that all processes map: a header, a bitmap of what is ready, slots, and their payloads. Processes may map it at different
//! addresses, so it holds numbers only, and every number that is read from it is checked before it is used: another process may have died
//! while it wrote.
//!
//! A slot's state and its owner are one atomic word, so that no step mistakes another client's slot for its own:
//!
//! ```text
//! FREE -> CLAIMED -> READY -> TAKEN -> DONE -> FREE       client, client, server, server, client
//! CLAIMED, READY, DONE -> FREE, TAKEN -> ABANDONED        the client gives up
//! ABANDONED -> FREE                                       the server, where it would have answered
//! READY, TAKEN -> DONE                                    the server ends or has started anew (`Queue::fail_all`)
//! READY -> CLAIMED -> DONE                                the client sees that no server is up
//! ```
//!
//! Payloads are written in CLAIMED (by the client) and in TAKEN (by the server) alone, and read by the other side after the step that follows.
//!
//! Two sleep protocols keep wake-ups from being lost. Whoever wants to sleep says so, then looks once more for what it waits for; whoever
//! provides that does so first, then looks whether the other sleeps. Both have a `SeqCst` fence between, so at least one sees the other.

#![allow(unsafe_code)]

mod share;
mod steps;

pub(crate) use steps::give_up;

use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};
use thiserror::Error;

/// Most slots of a queue.
pub const MAX_SLOTS: usize = 1 << 16;
/// Bytes of a slot's payload, if nothing else is wanted: 32,000 dimensions' worth of f32, or 8,000 candidates.
pub const DEFAULT_SLOT_BYTES: usize = 128 << 10;
/// Most bytes of a slot's payload.
pub const MAX_SLOT_BYTES: usize = 1 << 30;
/// Everything is aligned to cache lines, no two of which are written by different parties without need.
pub const LINE: usize = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"omen svc");
const VERSION: u32 = 2;

pub(crate) const FREE: u32 = 0;
pub(crate) const CLAIMED: u32 = 1;
pub(crate) const READY: u32 = 2;
pub(crate) const TAKEN: u32 = 3;
pub(crate) const DONE: u32 = 4;
pub(crate) const ABANDONED: u32 = 5;

/// Why memory is not a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QueueError {
    /// Null, or not aligned to [`LINE`] bytes.
    #[error("the queue's memory is not aligned")]
    Misaligned,
    /// Less memory than the queue takes.
    #[error("the queue takes {needed} bytes, there are {there}")]
    TooSmall {
        /// Bytes the queue takes.
        needed: usize,
        /// Bytes there are.
        there: usize,
    },
    /// No queue was created here, or by another version.
    #[error("there is no queue of this version in the memory")]
    NoQueue,
    /// Numbers of slots or bytes outside what a queue can have.
    #[error("a queue of {n_slots} slots of {slot_bytes} bytes is not possible")]
    Shape {
        /// Slots.
        n_slots: usize,
        /// Bytes of a slot's payload.
        slot_bytes: usize,
    },
}

#[repr(C, align(64))]
pub(crate) struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    n_slots: AtomicU32,
    slot_bytes: AtomicU64,
    server_up: AtomicU32,
    /// The role served last: the server's alone, here so that turns go on after a restart.
    pub(crate) last_role: AtomicU32,
    pub(crate) server_sleeps: Line<AtomicU32>,
    next_ticket: Line<AtomicU64>,
    refused: share::Refused,
}

#[repr(C, align(64))]
pub(crate) struct Line<T>(pub(crate) T);

#[repr(C, align(64))]
pub(crate) struct Slot {
    /// Owner in the high half, state in the low half.
    pub(crate) word: AtomicU64,
    /// Number of the claim: no two claims have the same.
    pub(crate) ticket: AtomicU64,
    pub(crate) role: AtomicU32,
    /// Queries of the request, as the client says.
    pub(crate) n_queries: AtomicU32,
    /// Whether the owner sleeps, or is about to.
    pub(crate) sleeps: AtomicU32,
    /// Bytes of the answer.
    pub(crate) answered: AtomicU32,
}

const _: () = assert!(offset_of!(Header, next_ticket) == 128 && size_of::<Slot>() == LINE);

pub(crate) fn word_of(owner: u32, state: u32) -> u64 {
    u64::from(owner) << 32 | u64::from(state)
}

pub(crate) fn state_of(word: u64) -> u32 {
    word as u32
}

pub(crate) fn owner_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// A request that the server has taken and must answer; made by [`Queue::take_ready`].
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    pub(crate) slot: u32,
    pub(crate) ticket: u64,
    pub(crate) role: u32,
    pub(crate) owner: u32,
    pub(crate) n_queries: usize,
}

impl Taken {
    /// Number of the slot.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Number of the claim: later claims have larger ones.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Whom the request counts for (`take.rs`).
    pub fn role(&self) -> u32 {
        self.role
    }

    /// Who has asked.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// How many queries it counts for.
    pub fn n_queries(&self) -> usize {
        self.n_queries
    }
}

/// A queue in memory that several processes map. A copy is another handle of the same queue.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    mem: NonNull<u8>,
    // As they were when they were checked: what the memory says later does not count.
    n_slots: usize,
    slot_bytes: usize,
}

// SAFETY: the memory behind a handle is used through atomics, and through payloads, which the slot's state gives to one side at a time.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Bytes of a queue of `n_slots` slots with payloads of `slot_bytes` bytes.
    pub fn bytes(n_slots: usize, slot_bytes: usize) -> usize {
        let slots = n_slots.saturating_mul(slot_bytes.saturating_add(size_of::<Slot>()));
        Self::slots_at(n_slots).saturating_add(slots)
    }

    fn slots_at(n_slots: usize) -> usize {
        size_of::<Header>() + (n_slots.div_ceil(64) * 8).next_multiple_of(LINE)
    }

    /// Makes a queue of 1 to [`MAX_SLOTS`] slots, with payloads of a multiple of [`LINE`] bytes, all free and no server up.
    /// Errors: `Misaligned`, `Shape`.
    ///
    /// # Safety
    /// As for [`Queue::attach`], of `Queue::bytes(n_slots, slot_bytes)` bytes; and nobody else uses the memory before this returns.
    pub unsafe fn create(
        mem: *mut u8,
        n_slots: usize,
        slot_bytes: usize,
    ) -> Result<Self, QueueError> {
        let queue = Self::new(mem, n_slots, slot_bytes)?;
        let headers = Self::slots_at(n_slots) + n_slots * size_of::<Slot>();
        // SAFETY: inside the caller's memory, which is this function's alone for now.
        unsafe { mem.write_bytes(0, headers) };
        let header = queue.header();
        header.n_slots.store(n_slots as u32, Relaxed);
        header.slot_bytes.store(slot_bytes as u64, Relaxed);
        header.version.store(VERSION, Relaxed);
        header.magic.store(MAGIC, Release);
        Ok(queue)
    }

    /// A handle of the queue that was created in this memory. Errors: all of [`QueueError`].
    ///
    /// # Safety
    /// `mem` is `len` bytes that stay mapped, readable and writable, while any handle of the queue (and what came from it) is used. All that
    /// processes write there, they write through this crate, and keep to its roles: one process at a time is the server; no two clients
    /// that live at once have the same owner number; an owner's `Claim`s and `Waiting`s are not used any more after `release_all_of(owner)`;
    /// the server uses no request any more that it took before it calls `fail_all`.
    pub unsafe fn attach(mem: *mut u8, len: usize) -> Result<Self, QueueError> {
        let too_small = |needed| QueueError::TooSmall { needed, there: len };
        if len < size_of::<Header>() {
            return Err(too_small(size_of::<Header>()));
        }
        // The shape is not known yet: a handle of the smallest one reads the header.
        let queue = Self::new(mem, 1, LINE)?;
        let header = queue.header();
        if header.magic.load(Acquire) != MAGIC || header.version.load(Relaxed) != VERSION {
            return Err(QueueError::NoQueue);
        }
        let n_slots = header.n_slots.load(Relaxed) as usize;
        let slot_bytes = usize::try_from(header.slot_bytes.load(Relaxed)).unwrap_or(usize::MAX);
        let queue = Self::new(mem, n_slots, slot_bytes)?;
        let needed = Self::bytes(n_slots, slot_bytes);
        if needed > len {
            return Err(too_small(needed));
        }
        Ok(queue)
    }

    fn new(mem: *mut u8, n_slots: usize, slot_bytes: usize) -> Result<Self, QueueError> {
        let mem = NonNull::new(mem).ok_or(QueueError::Misaligned)?;
        if !(mem.as_ptr() as usize).is_multiple_of(LINE) {
            return Err(QueueError::Misaligned);
        }
        let (slots, bytes) = (1..=MAX_SLOTS, LINE..=MAX_SLOT_BYTES);
        if !slots.contains(&n_slots)
            || !bytes.contains(&slot_bytes)
            || !slot_bytes.is_multiple_of(LINE)
        {
            return Err(QueueError::Shape {
                n_slots,
                slot_bytes,
            });
        }
        Ok(Self {
            mem,
            n_slots,
            slot_bytes,
        })
    }

    /// Slots.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// Slots that are not free: searches that wait or are answered, and those given up that the server has not noticed yet.
    pub fn n_used(&self) -> usize {
        let is_used = |slot: &&Slot| slot.word.load(Relaxed) != u64::from(FREE);
        self.slots().iter().filter(is_used).count()
    }

    /// Bytes of a slot's payload.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: aligned memory of at least a header's size; all bits are valid atomics.
        unsafe { self.mem.cast().as_ref() }
    }

    /// `[ceil(n_slots / 64)]`: a bit is set for every slot that is ready, and for some that are not any more.
    pub(crate) fn ready_bits(&self) -> &[AtomicU64] {
        // SAFETY: inside the memory by `bytes`, aligned; all bits are valid atomics.
        unsafe {
            let first = self.mem.add(size_of::<Header>()).cast();
            std::slice::from_raw_parts(first.as_ptr(), self.n_slots.div_ceil(64))
        }
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        // SAFETY: as above.
        unsafe {
            let first = self.mem.add(Self::slots_at(self.n_slots)).cast();
            std::slice::from_raw_parts(first.as_ptr(), self.n_slots)
        }
    }

    /// The payload of slot `slot`, `[slot_bytes]`, aligned to [`LINE`].
    pub(crate) fn payload(&self, slot: usize) -> NonNull<[u8]> {
        assert!(slot < self.n_slots);
        let at = Self::slots_at(self.n_slots)
            + self.n_slots * size_of::<Slot>()
            + slot * self.slot_bytes;
        // SAFETY: inside the memory by `bytes`.
        NonNull::slice_from_raw_parts(unsafe { self.mem.add(at) }, self.slot_bytes)
    }

    /// Slots that nobody uses now.
    pub fn n_free(&self) -> usize {
        let is_free = |slot: &&Slot| slot.word.load(Relaxed) == u64::from(FREE);
        self.slots().iter().filter(is_free).count()
    }

    pub(crate) fn new_ticket(&self) -> u64 {
        self.header().next_ticket.0.fetch_add(1, Relaxed)
    }

    /// Whether a server is there to answer.
    pub fn server_is_up(&self) -> bool {
        self.header().server_up.load(Acquire) != 0
    }

    /// The server says that it has started (after [`Self::fail_all`]) or that it ends (before it).
    pub fn set_server_up(&self, up: bool) {
        self.header().server_up.store(u32::from(up), Release);
        // A request that comes now is seen by the `fail_all` that follows, or its client sees that the server is gone (`Claim::submit`).
        fence(SeqCst);
    }
}
