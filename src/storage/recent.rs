//! Where this session found blocks last: pins a page without a look-up in the table of buffers, which for an index larger
//! than the processor's caches costs as much as scanning the page.
//!
//! The table is a hint: Postgres compares the buffer's tag under its header lock (`ReadRecentBuffer`) before it pins.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};

use pgrx::pg_sys;

use crate::compat;

/// Entries of the table, a power of two: half a MB for the indexes of a session.
const SLOTS: usize = 1 << 17;
/// One read in so many takes the long way: only that one counts as a use when Postgres decides which buffers to keep.
const LONG_WAY: u32 = 64;

thread_local! {
    /// Buffers by a hash of file and block; 0 (InvalidBuffer) where none is known.
    static BUFFERS: RefCell<Vec<pg_sys::Buffer>> = const { RefCell::new(Vec::new()) };
    static READS: Cell<u32> = const { Cell::new(0) };
}

/// Blocks of one file.
#[derive(Clone, Copy)]
pub(super) struct Recent {
    seed: u64,
}

impl Recent {
    /// # Safety
    /// `rel` is open.
    pub(super) unsafe fn new(rel: pg_sys::Relation) -> Self {
        // SAFETY: by this function's contract.
        let file = unsafe { compat::file_id(rel) };
        Self {
            seed: u64::from(file.number) ^ u64::from(file.database) << 32,
        }
    }

    fn slot(self, block: u32) -> usize {
        // Neighbouring blocks get neighbouring slots, files start anywhere.
        let start = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        (start as usize).wrapping_add(block as usize) & (SLOTS - 1)
    }

    /// The buffer of `block`, pinned, if it is where it was found last.
    ///
    /// # Safety
    /// `rel` is open and the file is its main fork's.
    pub(super) unsafe fn pin(self, rel: pg_sys::Relation, block: u32) -> Option<pg_sys::Buffer> {
        let reads = READS.get().wrapping_add(1);
        READS.set(reads);
        if reads.is_multiple_of(LONG_WAY) {
            return None;
        }
        let buffer = BUFFERS.with_borrow(|b| b.get(self.slot(block)).copied())?;
        // SAFETY: by this function's contract; any buffer number that Postgres once gave out may be asked for.
        unsafe {
            if buffer != pg_sys::InvalidBuffer as pg_sys::Buffer
                && compat::read_recent_buffer(rel, block, buffer)
            {
                compat::count_buffer_hit(rel);
                return Some(buffer);
            }
        }
        None
    }

    /// Remembers where `block` was found.
    pub(super) fn note(self, block: u32, buffer: pg_sys::Buffer) {
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.is_empty() {
                buffers.resize(SLOTS, pg_sys::InvalidBuffer as pg_sys::Buffer);
            }
            buffers[self.slot(block)] = buffer;
        });
    }
}
