//! [`BulkPages`]: a new index, written page by page into buffers and logged as ranges of full pages soon after.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use omen_ivf::Result;
use omen_ivf::store::{BulkWriter, PAGE_BYTES};
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

use super::buffer;
use crate::compat;
use crate::error::PgError;

/// Pages added to the file at a time; so many buffers are pinned.
const EXTEND_PAGES: usize = 64;
/// Pages logged at a time, a multiple of what one record takes (32): few enough that the processor's cache still has them.
const LOG_PAGES: u32 = 128;

/// A new index in one fork of a relation that nobody else can see yet.
pub(crate) struct BulkPages {
    rel: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    is_logged: bool,
    n_blocks: u32,
    /// The first pages, which are written, and logged, last.
    n_reserved: u32,
    /// All pages up to here are logged, but for the reserved ones.
    n_logged: u32,
    put_time: Duration,
    log_time: Duration,
}

impl BulkPages {
    /// The main fork of `rel`, or its init fork: what an unlogged index is after a crash.
    ///
    /// # Safety
    /// The caller has opened `rel`, an index being built, and keeps it open while this value lives.
    pub(crate) unsafe fn new(rel: pg_sys::Relation, init_fork: bool) -> Self {
        let fork = if init_fork {
            pg_sys::ForkNumber::INIT_FORKNUM
        } else {
            pg_sys::ForkNumber::MAIN_FORKNUM
        };
        Self {
            rel,
            fork,
            // An init fork always is.
            // SAFETY: `rel` is open.
            is_logged: init_fork || unsafe { compat::needs_wal(rel) },
            n_blocks: 0,
            n_reserved: 0,
            n_logged: 0,
            put_time: Duration::ZERO,
            log_time: Duration::ZERO,
        }
    }

    /// Logs what is not logged yet, if the relation is logged: the index is complete then, also after a crash.
    pub(crate) fn finish(mut self) {
        self.log_all();
        PgError::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("omen index has {} pages", self.n_blocks),
        )
        .with_detail(format!(
            "Put into buffers in {:.2} s, logged in {:.2} s.",
            self.put_time.as_secs_f64(),
            self.log_time.as_secs_f64()
        ))
        .report(PgLogLevel::DEBUG1);
    }

    /// Logs what is not logged yet; once.
    pub(super) fn log_all(&mut self) {
        self.log_appended();
        self.log(0, self.n_reserved);
    }

    fn log_appended(&mut self) {
        self.log(self.n_logged, self.n_blocks);
        self.n_logged = self.n_blocks;
    }

    /// Logs pages that are written.
    fn log(&mut self, start: u32, end: u32) {
        if self.is_logged && start < end {
            let began = Instant::now();
            // SAFETY: `rel` is open; these pages are written.
            unsafe { log_range(self.rel, self.fork, start, end) }
            self.log_time += began.elapsed();
        }
    }

    /// Whether its changes are logged.
    pub(super) fn is_logged(&self) -> bool {
        self.is_logged
    }

    /// Blocks of the file, as far as this value has added them.
    pub(super) fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    /// Writes a page that `buf` holds, and unpins it.
    ///
    /// # Safety
    /// This process pins `buf`, a page of this relation.
    unsafe fn fill(buf: pg_sys::Buffer, page: &[u8]) {
        // SAFETY: by this function's contract. The page is locked while written, and no other process knows it.
        unsafe {
            buffer::lock_exclusive(buf);
            fill_locked(buf, page);
        }
    }

    /// Adds up to `n` pages to the file (1 to [`EXTEND_PAGES`]); `put` gets each, pinned, with its number among them. Returns how many there are.
    fn extend(&mut self, n: usize, mut put: impl FnMut(usize, pg_sys::Buffer)) -> usize {
        let mut buffers = [0; EXTEND_PAGES];
        // SAFETY: `rel` is open, and no other process extends it.
        let (first, n) = unsafe { compat::extend(self.rel, self.fork, &mut buffers[..n]) };
        assert_eq!(
            first, self.n_blocks,
            "somebody else extends an index that is being built"
        );
        for (i, &buf) in buffers[..n].iter().enumerate() {
            put(i, buf);
        }
        self.n_blocks += n as u32;
        n
    }
}

/// Writes a page that `buf` holds, unlocks and unpins it.
///
/// # Safety
/// This process pins `buf`, a page of an index that is being built, and locks it exclusively.
pub(super) unsafe fn fill_locked(buf: pg_sys::Buffer, page: &[u8]) {
    // SAFETY: by this function's contract.
    unsafe {
        buffer::bytes_mut(pg_sys::BufferGetPage(buf)).copy_from_slice(page);
        pg_sys::MarkBufferDirty(buf);
        pg_sys::UnlockReleaseBuffer(buf);
    }
}

/// Logs pages from `start` to before `end` as they are, and marks them with the place of their record.
///
/// # Safety
/// `rel` is open; the pages are written, with pd_lower and pd_upper in order.
pub(super) unsafe fn log_range(
    rel: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    start: u32,
    end: u32,
) {
    // SAFETY: by this function's contract.
    unsafe { pg_sys::log_newpage_range(rel, fork, start, end, true) }
}

impl BulkWriter for BulkPages {
    fn reserve(&mut self, n: u32) -> Result<u32> {
        let first = self.n_blocks;
        assert_eq!(
            first, self.n_reserved,
            "pages are reserved before others are written"
        );
        self.n_reserved += n;
        self.n_logged = self.n_reserved;
        while self.n_blocks < self.n_reserved {
            let n = (self.n_reserved - self.n_blocks) as usize;
            // SAFETY: the page was pinned by `extend`.
            self.extend(n.min(EXTEND_PAGES), |_, buf| unsafe {
                pg_sys::ReleaseBuffer(buf)
            });
        }
        Ok(first)
    }

    fn append(&mut self, page: &[u8]) -> Result<u32> {
        self.append_all(page)
    }

    fn append_all(&mut self, pages: &[u8]) -> Result<u32> {
        let first = self.n_blocks;
        let (mut rest, _) = pages.as_chunks::<PAGE_BYTES>();
        while !rest.is_empty() {
            let began = Instant::now();
            // SAFETY: the page was pinned by `extend`.
            let n = self.extend(rest.len().min(EXTEND_PAGES), |i, buf| unsafe {
                Self::fill(buf, &rest[i]);
            });
            self.put_time += began.elapsed();
            rest = &rest[n..];
            if self.n_blocks - self.n_logged >= LOG_PAGES {
                self.log_appended();
            }
        }
        Ok(first)
    }

    fn write_at(&mut self, block: u32, page: &[u8]) -> Result<()> {
        assert!(
            block < self.n_reserved && page.len() == PAGE_BYTES,
            "block {block} is not reserved"
        );
        // SAFETY: `rel` is open.
        unsafe {
            let buf = buffer::pin(self.rel, self.fork, block, core::ptr::null_mut());
            Self::fill(buf, page);
        }
        Ok(())
    }

    fn check_interrupts(&mut self) -> Result<()> {
        pgrx::check_for_interrupts!();
        Ok(())
    }
}
