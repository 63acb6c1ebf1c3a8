//! Visible versions of the rows of one heap page.
//!
//! What `index_fetch_tuple` does a row at a time, with one pin and lock a page, and the rows' memory asked for before the first is looked
//! at: they are all over the table, and waiting for each in turn takes longer than all else.
#![allow(unsafe_code)]

use core::ffi::c_int;

use omen_ivf::Tid;
use pgrx::pg_sys;

use crate::am;

/// Reads pages of a heap.
pub(super) struct HeapPages {
    /// The page read last, pinned; 0 before the first.
    buffer: pg_sys::Buffer,
}

impl HeapPages {
    /// For `table`, if it is a heap.
    ///
    /// # Safety
    /// `table` is open.
    pub(super) unsafe fn of(table: pg_sys::Relation) -> Option<Self> {
        // SAFETY: by this function's contract.
        unsafe { am::is_heap(table) }.then_some(Self { buffer: 0 })
    }

    /// Appends to `found` the version that `snapshot` sees of each row whose chain begins at one of `roots`, which are of one page.
    pub(super) fn find(
        &mut self,
        table: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        roots: &[u64],
        found: &mut Vec<Option<Tid>>,
    ) {
        let block = Tid::from_u64(roots[0]).block;
        // SAFETY: the table is the open heap of `of`, the snapshot is active. What may raise an error stands behind pgrx's guards; locks
        // and pins go with the transaction then. Nothing between lock and unlock waits.
        unsafe {
            self.buffer = pg_sys::ReleaseAndReadBuffer(self.buffer, table, block);
            // As a fetch by tid does at each page it comes to.
            pg_sys::heap_page_prune_opt(table, self.buffer);
            pg_sys::LockBuffer(self.buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
            ask_for(pg_sys::BufferGetPage(self.buffer), roots);
            for &root in roots {
                let mut tid = am::tid_of(Tid::from_u64(root));
                let mut tuple = pg_sys::HeapTupleData::default();
                let is_visible = pg_sys::heap_hot_search_buffer(
                    &mut tid,
                    table,
                    self.buffer,
                    snapshot,
                    &mut tuple,
                    core::ptr::null_mut(),
                    true,
                );
                found.push(is_visible.then(|| am::tid_from(&tid)));
            }
            pg_sys::LockBuffer(self.buffer, pg_sys::BUFFER_LOCK_UNLOCK as c_int);
        }
    }

    /// Gives back the last page: what follows may wait.
    ///
    /// # Safety
    /// In the transaction and with the resource owner of the calls of `find`.
    pub(super) unsafe fn release(&mut self) {
        if self.buffer != 0 {
            // SAFETY: pinned by `find`.
            unsafe { pg_sys::ReleaseBuffer(self.buffer) }
            self.buffer = 0;
        }
    }
}

/// Brings line pointers, then headers of the rows `roots` of a page into the processor's caches.
///
/// # Safety
/// `page` is a page of a heap, pinned and locked.
#[inline]
unsafe fn ask_for(page: pg_sys::Page, roots: &[u64]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: by this function's contract. Prefetching accesses nothing; only line pointers that the page has are read.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // Postgres' macros for this are not in the bindings of every major.
        const LINES_AT: usize = core::mem::offset_of!(pg_sys::PageHeaderData, pd_linp);
        let end = (*page.cast::<pg_sys::PageHeaderData>()).pd_lower as usize;
        let n_lines = end.saturating_sub(LINES_AT) / size_of::<pg_sys::ItemIdData>();
        let first = page.cast::<u8>().add(LINES_AT);
        let first = first.cast::<pg_sys::ItemIdData>();
        let lines = || {
            let offsets = roots.iter().map(|&root| usize::from(root as u16));
            let there = offsets.filter(|offset| (1..=n_lines).contains(offset));
            there.map(|offset| first.add(offset - 1))
        };
        for line in lines() {
            _mm_prefetch::<_MM_HINT_T0>(line.cast());
        }
        for line in lines() {
            _mm_prefetch::<_MM_HINT_T0>(page.cast::<i8>().add((*line).lp_off() as usize));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (page, roots);
}
