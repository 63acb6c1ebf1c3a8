//! Reading ahead of a scan that has told which pages it will read: by asking for a window of pages ahead of the one being
//! read, or, where there are many in runs and Postgres has it (17), with a read stream, which reads runs at once.
//!
//! What a scan reads does not depend on it: a page comes from here only if it is the block wanted.
//!
//! A stream lives from one announcement to the next within one call of the access method, so that the memory context and the
//! resource owner it was made in outlive it. It is ended by [`Ahead::end`] alone: while an error unwinds nothing of Postgres
//! is called, and the abort of the transaction releases the stream's pins and waits for its reads.
#![allow(unsafe_code)]

use std::cell::RefCell;

use pgrx::pg_sys;

#[cfg(any(feature = "pg17", feature = "pg18"))]
use crate::compat::read_stream::ReadStream;

/// What was announced, if anything was.
#[derive(Default)]
pub(super) struct Ahead(RefCell<Option<Announced>>);

struct Announced {
    reader: Reader,
    /// Blocks before this place have been read or passed over.
    at: usize,
}

/// Prefetching looks so far ahead at most: farther places are not looked at.
const NEAR: usize = 32;

impl Ahead {
    /// Begins with `blocks` of the main fork.
    ///
    /// # Safety
    /// `rel` is open, `strategy` null or valid, and both stay so until `end`; no announcement is in force.
    pub(super) unsafe fn begin(
        &self,
        rel: pg_sys::Relation,
        strategy: pg_sys::BufferAccessStrategy,
        blocks: Vec<u32>,
    ) {
        if blocks.is_empty() {
            return;
        }
        // SAFETY: by this function's contract.
        let reader = unsafe { Reader::begin(rel, strategy, blocks) };
        *self.0.borrow_mut() = reader.map(|reader| Announced { reader, at: 0 });
    }

    /// Whether an announcement is in force.
    #[inline]
    pub(super) fn is_active(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Whether `block` is announced, and among those to be read next.
    pub(super) fn covers(&self, block: u32) -> bool {
        let announced = self.0.borrow();
        let Some(Announced { reader, at }) = announced.as_ref() else {
            return false;
        };
        let rest = &reader.blocks()[*at..];
        rest[..rest.len().min(NEAR)].contains(&block)
    }

    /// `block` is about to be read: reads on ahead of it; its buffer, pinned, if that is at hand.
    ///
    /// # Safety
    /// As at `begin`.
    pub(super) unsafe fn take(&self, block: u32) -> Option<pg_sys::Buffer> {
        let mut announced = self.0.borrow_mut();
        let Announced { reader, at } = announced.as_mut()?;
        let place = *at + reader.blocks()[*at..].iter().position(|&b| b == block)?;
        *at = place + 1;
        // SAFETY: by this function's contract.
        unsafe { reader.take(place) }
    }

    /// Forgets the announcement.
    ///
    /// # Safety
    /// As at `begin`; no error is unwinding.
    pub(super) unsafe fn end(&self) {
        let announced = self.0.borrow_mut().take();
        if let Some(announced) = announced {
            // SAFETY: by this function's contract.
            unsafe { announced.reader.end() }
        }
    }
}

/// How announced pages are read ahead.
enum Reader {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    Stream(ReadStream),
    Window(Window),
}

impl Reader {
    /// `None` if the user wants nothing read ahead.
    ///
    /// # Safety
    /// As at [`Ahead::begin`].
    unsafe fn begin(
        rel: pg_sys::Relation,
        strategy: pg_sys::BufferAccessStrategy,
        blocks: Vec<u32>,
    ) -> Option<Self> {
        // SAFETY: `rel` is open.
        let concurrency =
            unsafe { pg_sys::get_tablespace_io_concurrency((*(*rel).rd_rel).reltablespace) };
        let concurrency = usize::try_from(concurrency).ok().filter(|&n| n > 0)?;
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        if concurrency >= LEAST && ReadStream::suits(&blocks) {
            // SAFETY: by this function's contract.
            return Some(Self::Stream(unsafe {
                ReadStream::begin(rel, strategy, blocks)
            }));
        }
        let _ = strategy;
        Some(Self::Window(Window::begin(rel, concurrency, blocks)))
    }

    fn blocks(&self) -> &[u32] {
        match self {
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            Self::Stream(stream) => stream.blocks(),
            Self::Window(window) => &window.blocks,
        }
    }

    /// The block at `place` is about to be read; its buffer, pinned, if that is at hand.
    ///
    /// # Safety
    /// As at [`Ahead::begin`].
    unsafe fn take(&mut self, place: usize) -> Option<pg_sys::Buffer> {
        match self {
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            // SAFETY: by this function's contract.
            Self::Stream(stream) => unsafe { stream.take(place) },
            Self::Window(window) => {
                // SAFETY: by this function's contract.
                unsafe { window.ask(place + 1) };
                None
            }
        }
    }

    /// # Safety
    /// As at [`Ahead::end`].
    unsafe fn end(self) {
        match self {
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            // SAFETY: by this function's contract.
            Self::Stream(stream) => unsafe { stream.end() },
            Self::Window(_) => {}
        }
    }
}

/// Asks for pages some places ahead of the one that is read.
struct Window {
    rel: pg_sys::Relation,
    blocks: Vec<u32>,
    /// Blocks before this place were asked for.
    asked: usize,
    ahead: usize,
}

/// Least pages asked for ahead: before PostgreSQL 18 `effective_io_concurrency` is 1 where nobody has set it, which is not
/// to say that the disk does one thing at a time. (0 says that.) A stream does no more at once than the setting says: below
/// this the window is faster.
const LEAST: usize = 16;

impl Window {
    fn begin(rel: pg_sys::Relation, concurrency: usize, blocks: Vec<u32>) -> Self {
        Self {
            rel,
            blocks,
            asked: 0,
            ahead: concurrency.max(LEAST),
        }
    }

    /// Asks for the pages from `place` on that were not asked for before.
    ///
    /// # Safety
    /// `rel` is open.
    unsafe fn ask(&mut self, place: usize) {
        let from = self.asked.max(place);
        let end = self.blocks.len().min(place + self.ahead);
        for &block in self.blocks.get(from..end).unwrap_or_default() {
            // SAFETY: by this function's contract.
            unsafe {
                pg_sys::PrefetchBuffer(self.rel, pg_sys::ForkNumber::MAIN_FORKNUM, block);
            }
        }
        self.asked = self.asked.max(end);
    }
}
