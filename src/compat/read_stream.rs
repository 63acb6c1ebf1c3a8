//! Read streams, which PostgreSQL has from 17 on and pgrx does not declare.
#![allow(unsafe_code)]

use core::ffi::{c_int, c_void};
use std::cell::Cell;
use std::rc::Rc;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// READ_STREAM_FULL: all blocks will be read. READ_STREAM_USE_BATCHING (18): the callback does nothing but answer.
const FLAGS: c_int = 0x04 | if cfg!(feature = "pg18") { 0x08 } else { 0 };

/// `struct ReadStream`.
#[repr(C)]
struct RawStream {
    _private: [u8; 0],
}

type NextBlock = unsafe extern "C-unwind" fn(*mut RawStream, *mut c_void, *mut c_void) -> u32;

// Called through `pg_guard_ffi_boundary`, which makes unwinding of Postgres's errors, as pgrx does for what it declares.
unsafe extern "C-unwind" {
    fn read_stream_begin_relation(
        flags: c_int,
        strategy: pg_sys::BufferAccessStrategy,
        rel: pg_sys::Relation,
        fork: pg_sys::ForkNumber::Type,
        callback: Option<NextBlock>,
        callback_private_data: *mut c_void,
        per_buffer_data_size: usize,
    ) -> *mut RawStream;
    fn read_stream_next_buffer(
        stream: *mut RawStream,
        per_buffer_data: *mut *mut c_void,
    ) -> pg_sys::Buffer;
    fn read_stream_end(stream: *mut RawStream);
}

/// What the callback reads.
struct Source {
    blocks: Vec<u32>,
    /// Blocks before this place were given to the stream, or will not be.
    given: Cell<usize>,
}

/// Called by the stream for the block to be read next.
unsafe extern "C-unwind" fn next_block(
    _stream: *mut RawStream,
    source: *mut c_void,
    _per_buffer_data: *mut c_void,
) -> u32 {
    // SAFETY: the stream's `source`, which lives until the stream ends and is shared only.
    let source = unsafe { &*source.cast::<Source>() };
    let place = source.given.get();
    match source.blocks.get(place) {
        Some(&block) => {
            source.given.set(place + 1);
            block
        }
        None => pg_sys::InvalidBlockNumber,
    }
}

/// A read stream over given blocks of a relation's main fork. Dropping it without [`Self::end`] leaves its pins to the
/// abort of the transaction.
pub(crate) struct ReadStream {
    stream: *mut RawStream,
    /// Shared with the callback; does not move.
    source: Rc<Source>,
}

/// Fewer pages are not worth a stream: it takes a while to look far ahead, in 18 it leaves single pages to few processes, and
/// to end it is to wait for all it has begun.
const LEAST_PAGES: usize = 512;

impl ReadStream {
    /// Whether a stream is the better way to read `blocks`: they are many, and most follow their predecessors in the file.
    pub(crate) fn suits(blocks: &[u32]) -> bool {
        let follows = |b: &&[u32]| b[0].checked_add(1) == Some(b[1]);
        blocks.len() >= LEAST_PAGES && 2 * blocks.windows(2).filter(follows).count() > blocks.len()
    }

    /// # Safety
    /// `rel` is open, `strategy` null or valid, both until the stream ends; the current memory context lives as long.
    pub(crate) unsafe fn begin(
        rel: pg_sys::Relation,
        strategy: pg_sys::BufferAccessStrategy,
        blocks: Vec<u32>,
    ) -> Self {
        let source = Rc::new(Source {
            blocks,
            given: Cell::new(0),
        });
        // SAFETY: by this function's contract; `source` is freed after the stream's last use.
        let stream = unsafe {
            let private = Rc::as_ptr(&source).cast_mut().cast();
            let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
            pg_guard_ffi_boundary(|| {
                read_stream_begin_relation(FLAGS, strategy, rel, fork, Some(next_block), private, 0)
            })
        };
        Self { stream, source }
    }

    /// All blocks.
    pub(crate) fn blocks(&self) -> &[u32] {
        &self.source.blocks
    }

    /// The buffer of the block at `place`, pinned; those before it are passed over. `None` if the stream does not have it.
    /// `place` grows from call to call.
    ///
    /// # Safety
    /// As at `begin`.
    pub(crate) unsafe fn take(&mut self, place: usize) -> Option<pg_sys::Buffer> {
        let wanted = self.source.blocks[place];
        if self.source.given.get() < place {
            self.source.given.set(place);
        }
        loop {
            // SAFETY: the stream has not ended; a buffer it hands out is pinned for us.
            unsafe {
                let stream = self.stream;
                let buffer = pg_guard_ffi_boundary(|| {
                    read_stream_next_buffer(stream, core::ptr::null_mut())
                });
                if buffer == pg_sys::InvalidBuffer as pg_sys::Buffer {
                    return None;
                }
                if pg_sys::BufferGetBlockNumber(buffer) == wanted {
                    return Some(buffer);
                }
                pg_sys::ReleaseBuffer(buffer);
            }
        }
    }

    /// Ends the stream: waits for its reads, and releases its pins.
    ///
    /// # Safety
    /// As at `begin`; no error is unwinding.
    pub(crate) unsafe fn end(self) {
        // SAFETY: the stream has not ended.
        unsafe { pg_guard_ffi_boundary(|| read_stream_end(self.stream)) }
    }
}
