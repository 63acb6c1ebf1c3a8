//! The table's side of a check: places of rows, and the rows themselves.
#![allow(unsafe_code)]

use core::ffi::c_int;

use omen_ivf::Tid;
use omen_ivf::check::CrossCheck;
use omen_ivf::index::Index;
use pgrx::pg_sys;

use crate::am::{HeapRows, OpClass, is_heap};
use crate::error::Result;
use crate::named_index::NamedIndex;
use crate::storage::TempFile;

/// Where rows of a heap can be. Of tables of other access methods nothing is known.
pub(super) struct HeapPlaces {
    /// The table, if it is a heap.
    heap: Option<pg_sys::Relation>,
    n_blocks: u32,
}

/// MaxHeapTuplesPerPage: of rows without columns, each with a line pointer.
const MOST_ROWS: u32 = {
    let header = size_of::<pg_sys::PageHeaderData>() as u32;
    let row = (size_of::<pg_sys::HeapTupleHeaderData>() as u32).next_multiple_of(8);
    (pg_sys::BLCKSZ - header) / (row + size_of::<pg_sys::ItemIdData>() as u32)
};

impl HeapPlaces {
    /// Those of `table`.
    ///
    /// # Safety
    /// `table` is open while this value lives.
    pub(super) unsafe fn of(table: pg_sys::Relation) -> Self {
        // SAFETY: by this function's contract.
        let is_heap = unsafe { is_heap(table) };
        Self {
            heap: is_heap.then_some(table),
            n_blocks: 0,
        }
    }

    /// Whether the table has this block, and a block can have such a line pointer.
    pub(super) fn has_place(&mut self, tid: Tid) -> bool {
        let Some(heap) = self.heap else {
            return true;
        };
        if tid.block >= self.n_blocks {
            let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
            // SAFETY: the table is open, by `of`.
            self.n_blocks = unsafe { pg_sys::RelationGetNumberOfBlocksInFork(heap, fork) };
        }
        tid.block < self.n_blocks && (1..=MOST_ROWS).contains(&tid.offset)
    }

    /// What is wrong with an index entry of this row, which nobody may see: VACUUM removes entries before it frees the row's line pointer,
    /// and rows in the middle of a HOT chain have none.
    pub(super) fn look_up(&mut self, tid: Tid) -> Option<&'static str> {
        if !self.has_place(tid) {
            // That was said of the entry before.
            return None;
        }
        let heap = self.heap?;
        // SAFETY: the table is open, by `of`, and has the block. The page is pinned and locked while it is read; line pointers and rows that
        // it has are looked at alone.
        unsafe {
            let buffer = pg_sys::ReadBuffer(heap, tid.block);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
            let state = line_state(pg_sys::BufferGetPage(buffer), tid.offset);
            pg_sys::UnlockReleaseBuffer(buffer);
            state
        }
    }
}

/// # Safety
/// `page` is a page of a heap, pinned and locked.
unsafe fn line_state(page: pg_sys::Page, offset: u32) -> Option<&'static str> {
    // Postgres' macros for this are not in the bindings of every major.
    const LINES_AT: usize = core::mem::offset_of!(pg_sys::PageHeaderData, pd_linp);
    // SAFETY: by this function's contract.
    unsafe {
        let end = (*page.cast::<pg_sys::PageHeaderData>()).pd_lower as usize;
        let end = end.min(pg_sys::BLCKSZ as usize);
        let n_lines = end.saturating_sub(LINES_AT) / size_of::<pg_sys::ItemIdData>();
        if offset as usize > n_lines {
            return Some("whose line pointer is past the end of its page");
        }
        let lines = page.cast::<u8>().add(LINES_AT);
        let line = &*lines.cast::<pg_sys::ItemIdData>().add(offset as usize - 1);
        if line.lp_flags() == pg_sys::LP_UNUSED {
            return Some("whose line pointer is unused");
        }
        let start = line.lp_off() as usize;
        let is_row = line.lp_flags() == pg_sys::LP_NORMAL;
        if !is_row || start + size_of::<pg_sys::HeapTupleHeaderData>() > pg_sys::BLCKSZ as usize {
            return None;
        }
        let row = page.cast::<u8>().add(start);
        let flags = (*row.cast::<pg_sys::HeapTupleHeaderData>()).t_infomask2;
        let is_inner = u32::from(flags) & pg_sys::HEAP_ONLY_TUPLE != 0;
        is_inner.then_some("which is in the middle of a HOT chain")
    }
}

/// Compares all rows of the table that `snapshot` sees and that belong into the index.
///
/// # Safety
/// `snapshot` is registered; index and table are open.
pub(super) unsafe fn compare(
    named: &NamedIndex,
    index: &Index,
    snapshot: pg_sys::Snapshot,
    rest: &mut CrossCheck<TempFile>,
    lookup: &mut dyn FnMut(Tid) -> omen_ivf::Result<Option<&'static str>>,
) -> Result<()> {
    // SAFETY: by this function's contract. An error leaves user and settings to the abort of the transaction.
    unsafe {
        let owner = AsOwner::begin(named.table());
        let info = pg_sys::BuildIndexInfo(named.index());
        // Rows as a build of this kind sees them: by a snapshot.
        (*info).ii_Concurrent = true;
        let class = OpClass::of(named.index())?;
        let rows = HeapRows::new(named.table(), named.index(), info, class);
        rows.for_each_seen(snapshot, &mut |tid, value| {
            if let Some(stored) = value.with(|v| index.to_stored(v))?? {
                rest.row(tid, &stored, lookup)?;
            }
            Ok(())
        });
        owner.end();
    }
    Ok(())
}

/// Expressions and predicates of the index run as the table's owner and can do no harm, as in REINDEX and in amcheck.
struct AsOwner {
    user: pg_sys::Oid,
    context: c_int,
    settings: c_int,
}

impl AsOwner {
    /// # Safety
    /// `table` is open.
    unsafe fn begin(table: pg_sys::Relation) -> Self {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: by this function's contract, on the main thread.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            let restricted = context | pg_sys::SECURITY_RESTRICTED_OPERATION as c_int;
            pg_sys::SetUserIdAndSecContext((*(*table).rd_rel).relowner, restricted);
            let settings = pg_sys::NewGUCNestLevel();
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            pg_sys::RestrictSearchPath();
            Self {
                user,
                context,
                settings,
            }
        }
    }

    /// # Safety
    /// In the transaction of `begin`.
    unsafe fn end(self) {
        // SAFETY: by this function's contract.
        unsafe {
            pg_sys::AtEOXact_GUC(false, self.settings);
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
}
