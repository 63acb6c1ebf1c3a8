//! [`BulkPages`]: a new index, written page by page into buffers and logged as ranges of full pages at the end.
#![allow(unsafe_code)]

use omen_ivf::Result;
use omen_ivf::store::{BulkWriter, PAGE_BYTES};
use pgrx::pg_sys;

use super::buffer;
use crate::compat;

/// A new index in one fork of a relation that nobody else can see yet.
pub(crate) struct BulkPages {
    rel: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    n_blocks: u32,
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
            n_blocks: 0,
        }
    }

    /// Logs all pages, if the relation is logged; an init fork always is.
    pub(crate) fn log(&self) {
        // SAFETY: `rel` is open; all `n_blocks` pages were written with pd_lower and pd_upper in order.
        unsafe {
            if self.fork == pg_sys::ForkNumber::INIT_FORKNUM || compat::needs_wal(self.rel) {
                pg_sys::log_newpage_range(self.rel, self.fork, 0, self.n_blocks, true);
            }
        }
    }

    fn put(&mut self, block: u32, page: Option<&[u8]>) -> u32 {
        // SAFETY: `rel` is open. The page is pinned and locked while written, and no other process knows it.
        unsafe {
            let buf = buffer::pin(self.rel, self.fork, block, core::ptr::null_mut());
            let block = pg_sys::BufferGetBlockNumber(buf);
            if let Some(page) = page {
                buffer::lock_exclusive(buf);
                buffer::bytes_mut(pg_sys::BufferGetPage(buf)).copy_from_slice(page);
                pg_sys::MarkBufferDirty(buf);
                buffer::unlock(buf);
            }
            pg_sys::ReleaseBuffer(buf);
            block
        }
    }

    fn extend(&mut self, page: Option<&[u8]>) -> u32 {
        let block = self.put(buffer::NEW_BLOCK, page);
        assert_eq!(
            block, self.n_blocks,
            "somebody else extends an index that is being built"
        );
        self.n_blocks += 1;
        block
    }
}

impl BulkWriter for BulkPages {
    fn reserve(&mut self, n: u32) -> Result<u32> {
        let first = self.n_blocks;
        for _ in 0..n {
            self.extend(None);
        }
        Ok(first)
    }

    fn append(&mut self, page: &[u8]) -> Result<u32> {
        Ok(self.extend(Some(page)))
    }

    fn write_at(&mut self, block: u32, page: &[u8]) -> Result<()> {
        assert!(
            block < self.n_blocks && page.len() == PAGE_BYTES,
            "block {block} is not reserved"
        );
        self.put(block, Some(page));
        Ok(())
    }

    fn check_interrupts(&mut self) -> Result<()> {
        pgrx::check_for_interrupts!();
        Ok(())
    }
}
