//! [`IndexPages`]: the pages of one index, the main fork.
#![allow(unsafe_code)]

use core::ffi::c_int;
use std::cell::Cell;

use omen_ivf::layout::page::{check_header, init_free, is_free};
use omen_ivf::store::{ListLock, MAX_UPDATE_PAGES, PageStore, PageStoreMut};
use omen_ivf::{IvfError, Result};
use pgrx::pg_sys;

use super::ahead::Ahead;
use super::recent::Recent;
#[cfg(feature = "simulated-gpu")]
use super::stop;
use super::{buffer, changes, lock};
use crate::compat::{self, FileId};

const MAIN: pg_sys::ForkNumber::Type = pg_sys::ForkNumber::MAIN_FORKNUM;

/// The pages of an index. Errors of Postgres do not come back as `Err`: they unwind.
pub(crate) struct IndexPages {
    rel: pg_sys::Relation,
    strategy: pg_sys::BufferAccessStrategy,
    in_vacuum: bool,
    /// The file has so many blocks at least.
    n_known: Cell<u32>,
    /// Exclusive list locks held through this value.
    pub(super) n_exclusive: Cell<u32>,
    /// Blocks freed so far: first and last.
    freed: Cell<Option<(u32, u32)>>,
    /// Blocks that this process had to read from disk, as counted by Postgres when `read` looked last.
    n_misses: Cell<i64>,
    /// So many more pages are prefetched or read ahead.
    cold: Cell<u32>,
    recent: Recent,
    ahead: Ahead,
    /// Buffer pinned last to be copied, 0 if none was.
    pub(super) last_pin: Cell<pg_sys::Buffer>,
}

/// After a page that was not in memory, so many pages are prefetched: asking for pages that are there costs as much as a
/// third of scanning them.
const COLD_PAGES: u32 = 256;

impl IndexPages {
    /// The pages of `rel`.
    ///
    /// # Safety
    /// The caller has opened and locked `rel`, an index of this access method, and keeps it so while this value lives.
    pub(crate) unsafe fn new(rel: pg_sys::Relation) -> Self {
        Self {
            rel,
            strategy: core::ptr::null_mut(),
            in_vacuum: false,
            n_known: Cell::new(0),
            n_exclusive: Cell::new(0),
            freed: Cell::new(None),
            n_misses: Cell::new(misses()),
            cold: Cell::new(0),
            // SAFETY: by this function's contract.
            recent: unsafe { Recent::new(rel) },
            ahead: Ahead::default(),
            last_pin: Cell::new(0),
        }
    }

    /// The pages of `rel` for VACUUM: with its buffer ring, and pausing as it is told.
    ///
    /// # Safety
    /// As [`Self::new`]; `strategy` is null or valid as long.
    pub(crate) unsafe fn for_vacuum(
        rel: pg_sys::Relation,
        strategy: pg_sys::BufferAccessStrategy,
    ) -> Self {
        // SAFETY: by this function's contract.
        Self {
            strategy,
            in_vacuum: true,
            ..unsafe { Self::new(rel) }
        }
    }

    /// The pages of `rel` for who reads each once, with a buffer ring.
    ///
    /// # Safety
    /// As [`Self::for_vacuum`].
    pub(crate) unsafe fn with_strategy(
        rel: pg_sys::Relation,
        strategy: pg_sys::BufferAccessStrategy,
    ) -> Self {
        // SAFETY: by this function's contract.
        Self {
            strategy,
            ..unsafe { Self::new(rel) }
        }
    }

    /// The relation.
    pub(crate) fn rel(&self) -> pg_sys::Relation {
        self.rel
    }

    /// The relation's OID.
    pub(crate) fn relation(&self) -> pg_sys::Oid {
        // SAFETY: `rel` is open, by `new`.
        unsafe { (*self.rel).rd_id }
    }

    /// Whether the table is temporary: files of such have numbers of their own, which another session's may have too.
    pub(crate) fn is_temporary(&self) -> bool {
        let temporary = pg_sys::RELPERSISTENCE_TEMP as core::ffi::c_char;
        // SAFETY: `rel` is open, by `new`.
        unsafe { (*(*self.rel).rd_rel).relpersistence == temporary }
    }

    /// The file of the relation.
    pub(crate) fn file(&self) -> FileId {
        // SAFETY: `rel` is open, by `new`.
        unsafe { compat::file_id(self.rel) }
    }

    /// Makes what was freed through this value findable for everyone's `allocate`. VACUUM does it for the whole index.
    pub(crate) fn publish_free_space(&self) {
        if let Some((first, last)) = self.freed.take() {
            // SAFETY: `rel` is open, by `new`.
            unsafe { pg_sys::FreeSpaceMapVacuumRange(self.rel, first, last + 1) }
        }
    }

    /// Whether the file has this block. Numbers of blocks are read from pages, which may be damaged: Postgres takes one far beyond the
    /// end for a missing file, and the greatest for a wish to extend it.
    fn has_block(&self, block: u32) -> bool {
        if block >= self.n_known.get() {
            // SAFETY: `rel` is open, by `new`.
            let n_blocks = unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.rel, MAIN) };
            self.n_known.set(n_blocks);
        }
        block < self.n_known.get()
    }

    /// Pins a block by Postgres' table. Errors: the file does not have it.
    pub(super) fn pin_by_table(&self, block: u32) -> Result<pg_sys::Buffer> {
        if !self.has_block(block) {
            let n_blocks = self.n_known.get();
            return Err(IvfError::corrupt(
                block,
                format!("there are {n_blocks} pages"),
            ));
        }
        // SAFETY: `rel` and `strategy` are valid, by `new`.
        Ok(unsafe { buffer::pin(self.rel, MAIN, block, self.strategy) })
    }

    fn pin(&self, block: u32) -> Result<pg_sys::Buffer> {
        // SAFETY: `rel` is open, by `new`.
        if let Some(buffer) = unsafe { self.recent.pin(self.rel, block) } {
            return Ok(buffer);
        }
        let buffer = self.pin_by_table(block)?;
        self.recent.note(block, buffer);
        Ok(buffer)
    }

    /// As `pin`, of a page that a scan reads.
    #[inline]
    fn pin_ahead(&self, block: u32) -> Result<pg_sys::Buffer> {
        if self.ahead.is_active() {
            // SAFETY: `rel` and `strategy` are valid, by `new`.
            unsafe {
                if self.cold.get() == 0 {
                    // In memory for a while: the rest is cheaper to find without.
                    self.ahead.end();
                } else if let Some(buffer) = self.ahead.take(block) {
                    self.recent.note(block, buffer);
                    return Ok(buffer);
                }
            }
        }
        self.pin(block)
    }

    /// As `pin_ahead`, of a page that is read once by a reader of all pages.
    pub(super) fn pin_to_copy(&self, block: u32) -> Result<pg_sys::Buffer> {
        let buf = if self.ahead.is_active() {
            self.pin_ahead(block)?
        // SAFETY: `rel` is open, by `new`.
        } else if let Some(buf) = unsafe { self.recent.pin(self.rel, block) } {
            buf
        } else {
            // Not to be remembered: the places of more pages than that has room for would drive out those of searches.
            self.pin_by_table(block)?
        };
        self.note_misses();
        Ok(buf)
    }

    /// Looks whether the last page had to be read from disk.
    #[inline]
    fn note_misses(&self) {
        if self.n_misses.replace(misses()) == self.n_misses.get() {
            self.cold.set(self.cold.get().saturating_sub(1));
        } else {
            self.cold.set(COLD_PAGES);
        }
    }

    /// A pinned, exclusively locked page that nobody uses: a free one, or a new one at the end of the file.
    fn free_page(&self) -> Result<pg_sys::Buffer> {
        // SAFETY: `rel` is open, by `new`; each buffer is pinned before it is locked, and unlocked at most once.
        unsafe {
            loop {
                let block = pg_sys::GetFreeIndexPage(self.rel);
                if block == pg_sys::InvalidBlockNumber {
                    break;
                }
                // The map is not logged: after a crash it may name pages that never reached the file.
                if !self.has_block(block) {
                    continue;
                }
                let buf = self.pin(block)?;
                // The map is only a hint: somebody may have taken the page since, or hold it at this moment.
                if pg_sys::ConditionalLockBuffer(buf) {
                    if is_free(buffer::bytes(buf)) {
                        return Ok(buf);
                    }
                    buffer::unlock(buf);
                }
                pg_sys::ReleaseBuffer(buf);
            }
            let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
            pg_sys::LockRelationForExtension(self.rel, mode);
            // Locked from the start: VACUUM, which looks for empty pages, must not find this one before us.
            let buf = pg_sys::ReadBufferExtended(
                self.rel,
                MAIN,
                buffer::NEW_BLOCK,
                pg_sys::ReadBufferMode::RBM_ZERO_AND_LOCK,
                self.strategy,
            );
            pg_sys::UnlockRelationForExtension(self.rel, mode);
            Ok(buf)
        }
    }

    /// Logs the locked page `buf` as what `init` makes of zeroes, then unlocks it.
    ///
    /// # Safety
    /// This process pins `buf` and locks it exclusively.
    unsafe fn replace(&self, buf: pg_sys::Buffer, init: impl FnOnce(&mut [u8])) {
        // SAFETY: by this function's contract; the image belongs to the record until it is finished.
        unsafe {
            let record = pg_sys::GenericXLogStart(self.rel);
            let full = pg_sys::GENERIC_XLOG_FULL_IMAGE as c_int;
            let image = buffer::bytes_mut(pg_sys::GenericXLogRegisterBuffer(record, buf, full));
            image.fill(0);
            init(image);
            pg_sys::GenericXLogFinish(record);
            pg_sys::UnlockReleaseBuffer(buf);
        }
    }
}

/// Blocks this process has read from disk so far.
pub(crate) fn misses() -> i64 {
    // SAFETY: a counter of this process, read on the main thread.
    unsafe { pg_sys::pgBufferUsage.shared_blks_read }
}

impl PageStore for IndexPages {
    fn n_blocks(&self) -> Result<u32> {
        // SAFETY: `rel` is open, by `new`.
        Ok(unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.rel, MAIN) })
    }

    fn read<R>(&self, block: u32, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let buf = self.pin_ahead(block)?;
        self.note_misses();
        // SAFETY: pinned just now; locked while `f` reads; `f` cannot keep the slice beyond the call.
        unsafe {
            buffer::lock_shared(buf);
            let result = f(buffer::bytes(buf));
            pg_sys::UnlockReleaseBuffer(buf);
            Ok(result)
        }
    }

    fn prefetch(&self, block: u32) {
        if self.cold.get() == 0 || self.ahead.covers(block) || !self.has_block(block) {
            return;
        }
        // SAFETY: `rel` is open, by `new`.
        unsafe {
            pg_sys::PrefetchBuffer(self.rel, MAIN, block);
        }
    }

    fn wants_announcements(&self) -> bool {
        self.cold.get() > 0
    }

    fn announce(&self, mut blocks: Vec<u32>) {
        blocks.retain(|&block| self.has_block(block));
        // SAFETY: `rel` and `strategy` are valid, by `new`; a scan goes on, so no error is unwinding.
        unsafe {
            self.ahead.end();
            self.ahead.begin(self.rel, self.strategy, blocks);
        }
    }

    fn check_interrupts(&self) -> Result<()> {
        // VACUUM does not pause while inserts wait for a list.
        if self.in_vacuum && self.n_exclusive.get() == 0 {
            compat::vacuum_delay_point();
        } else {
            pgrx::check_for_interrupts!();
        }
        Ok(())
    }

    fn list_version(&self, list: u32) -> u32 {
        changes::version(self.file(), list)
    }
}

impl PageStoreMut for IndexPages {
    fn update(&self, blocks: &[u32], f: impl FnOnce(&mut [&mut [u8]]) -> bool) -> Result<bool> {
        #[cfg(feature = "simulated-gpu")]
        stop::before_change();
        let n = blocks.len();
        assert!(
            (1..=MAX_UPDATE_PAGES).contains(&n),
            "a record covers 1 to 4 pages, not {n}"
        );
        let mut buffers = [0; MAX_UPDATE_PAGES];
        // All pages are read before the first is locked.
        for (buf, &block) in buffers.iter_mut().zip(blocks) {
            *buf = self.pin(block)?;
        }
        // SAFETY: each buffer is pinned above and locked once; images belong to the record until it is finished.
        unsafe {
            for &buf in &buffers[..n] {
                buffer::lock_exclusive(buf);
            }
            let mut headers = blocks.iter().zip(&buffers[..n]);
            let checked =
                headers.try_for_each(|(&block, &buf)| check_header(buffer::bytes(buf), block));
            if let Err(error) = checked {
                for &buf in &buffers[..n] {
                    pg_sys::UnlockReleaseBuffer(buf);
                }
                return Err(error);
            }
            let record = pg_sys::GenericXLogStart(self.rel);
            let mut images: [&mut [u8]; MAX_UPDATE_PAGES] = Default::default();
            for (image, &buf) in images.iter_mut().zip(&buffers[..n]) {
                *image = buffer::bytes_mut(pg_sys::GenericXLogRegisterBuffer(record, buf, 0));
            }
            let changed = f(&mut images[..n]);
            if changed {
                pg_sys::GenericXLogFinish(record);
            } else {
                // Didn't change anything: nothing to log.
                pg_sys::GenericXLogAbort(record);
            }
            for &buf in &buffers[..n] {
                pg_sys::UnlockReleaseBuffer(buf);
            }
            Ok(changed)
        }
    }

    fn allocate(&self, init: impl FnOnce(&mut [u8])) -> Result<u32> {
        #[cfg(feature = "simulated-gpu")]
        stop::before_change();
        let buf = self.free_page()?;
        // SAFETY: `free_page` returns a pinned buffer under exclusive lock.
        unsafe {
            let block = pg_sys::BufferGetBlockNumber(buf);
            self.replace(buf, init);
            Ok(block)
        }
    }

    fn free(&self, block: u32) -> Result<()> {
        #[cfg(feature = "simulated-gpu")]
        stop::before_change();
        let buf = self.pin(block)?;
        // SAFETY: pinned just now, locked before it is replaced; `rel` is open.
        unsafe {
            buffer::lock_exclusive(buf);
            self.replace(buf, init_free);
            pg_sys::RecordFreeIndexPage(self.rel, block);
        }
        let (first, last) = self.freed.get().unwrap_or((block, block));
        self.freed.set(Some((first.min(block), last.max(block))));
        Ok(())
    }

    fn lock_list(&self, list: u32, mode: ListLock) -> Result<()> {
        lock::lock(self, list, mode);
        Ok(())
    }

    fn try_lock_list(&self, list: u32, mode: ListLock) -> Result<bool> {
        Ok(lock::try_lock(self, list, mode))
    }

    fn unlock_list(&self, list: u32, mode: ListLock) -> Result<()> {
        lock::unlock(self, list, mode);
        Ok(())
    }

    fn note_change(&self, list: u32) {
        changes::note(self.file(), list);
    }
}
