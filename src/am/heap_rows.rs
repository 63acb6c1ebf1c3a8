//! Rows of the table that an index is built on, as Postgres's own index builds see them (visibility, HOT chains,
//! predicate, expressions, CONCURRENTLY).
#![allow(unsafe_code)]

use core::ffi::c_void;

use omen_ivf::Tid;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::opclass::OpClass;
use crate::error::Result;

/// The table, and the index in the making.
pub(crate) struct HeapRows {
    pub(super) heap: pg_sys::Relation,
    pub(super) index: pg_sys::Relation,
    pub(super) info: *mut pg_sys::IndexInfo,
    opclass: OpClass,
}

/// The column's value in one row, not yet fetched if it is stored out of line.
pub(crate) struct HeapValue {
    opclass: OpClass,
    datum: pg_sys::Datum,
}

impl HeapValue {
    /// Calls `f` with the value's input (see [`omen_ivf::form`]): of vectors the coordinates.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
        // SAFETY: made by `visit_row` alone, of a value that is not null, for use during the visit.
        unsafe { self.opclass.with_input(self.datum, f) }
    }
}

/// Called with each row. Runs while a page of the table is pinned, none is locked.
type Visit<'a> = dyn FnMut(Tid, &HeapValue) -> Result<()> + 'a;

/// What the C callback works with.
struct Visitor<'a, 'b> {
    opclass: OpClass,
    visit: &'a mut Visit<'b>,
}

impl HeapRows {
    /// The rows of `heap` that belong into `index`.
    ///
    /// # Safety
    /// The relations are open, and `info` is the index's, while this value lives.
    pub(crate) unsafe fn new(
        heap: pg_sys::Relation,
        index: pg_sys::Relation,
        info: *mut pg_sys::IndexInfo,
        opclass: OpClass,
    ) -> Self {
        Self {
            heap,
            index,
            info,
            opclass,
        }
    }

    /// Blocks of the table.
    pub(super) fn n_blocks(&self) -> u32 {
        // SAFETY: `heap` is open, by `new`.
        unsafe {
            pg_sys::RelationGetNumberOfBlocksInFork(self.heap, pg_sys::ForkNumber::MAIN_FORKNUM)
        }
    }

    /// Whether the column is the result of an expression, which is worked out for each row visited.
    pub(super) fn has_expressions(&self) -> bool {
        // SAFETY: `info` is valid, by `new`.
        unsafe { !(*self.info).ii_Expressions.is_null() }
    }

    /// Calls `visit` with each row whose column is not NULL. Returns the number of rows of the table, NULLs included.
    pub(super) fn for_each(&self, visit: &mut Visit) -> f64 {
        self.scan(0, pg_sys::InvalidBlockNumber, None, visit)
    }

    /// As [`Self::for_each`], of the rows that this process's part of a parallel scan of the table comes across. Ends the scan.
    ///
    /// # Safety
    /// `scan` is one.
    pub(super) unsafe fn for_each_of(&self, scan: pg_sys::TableScanDesc, visit: &mut Visit) -> f64 {
        self.scan(0, pg_sys::InvalidBlockNumber, Some(scan), visit)
    }

    /// As [`Self::for_each`], of the rows that `snapshot` sees, block after block.
    ///
    /// # Safety
    /// `info` is of a concurrent build, `snapshot` an MVCC snapshot that is registered.
    pub(crate) unsafe fn for_each_seen(&self, snapshot: pg_sys::Snapshot, visit: &mut Visit) {
        let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN
            | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE
            | pg_sys::ScanOptions::SO_ALLOW_STRAT;
        // SAFETY: by this function's contract; every table access method has this function. `scan` ends the scan.
        unsafe {
            let begin = (*(*self.heap).rd_tableam).scan_begin;
            let begin = begin.expect("a table access method has all callbacks");
            let none = core::ptr::null_mut();
            let scan = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                begin(self.heap, snapshot, 0, none, core::ptr::null_mut(), flags)
            });
            self.scan(0, pg_sys::InvalidBlockNumber, Some(scan), visit);
        }
    }

    /// As [`Self::for_each`], of the rows of one block, in whatever state of commitment. What older snapshots see is told by the reading of the
    /// whole table alone.
    pub(super) fn for_each_in_block(&self, block: u32, visit: &mut Visit) {
        // SAFETY: `info` is valid, by `new`.
        let has_broken_hot_chain = unsafe { (*self.info).ii_BrokenHotChain };
        self.scan(block, 1, None, visit);
        // SAFETY: as above.
        unsafe { (*self.info).ii_BrokenHotChain = has_broken_hot_chain };
    }

    /// table_index_build_range_scan over some blocks, or table_index_build_scan, of `part` if it is given.
    fn scan(
        &self,
        first: u32,
        n_blocks: u32,
        part: Option<pg_sys::TableScanDesc>,
        visit: &mut Visit,
    ) -> f64 {
        let whole = n_blocks == pg_sys::InvalidBlockNumber;
        let mut visitor = Visitor {
            opclass: self.opclass,
            visit,
        };
        // SAFETY: the relations and `info` are valid, by `new`; `visitor` outlives the call; every table access method
        // has this function, which may raise errors and so runs behind a guard.
        unsafe {
            let routine = (*(*self.heap).rd_tableam).index_build_range_scan;
            let range_scan = routine.expect("a table access method has all callbacks");
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                range_scan(
                    self.heap,
                    self.index,
                    self.info,
                    whole,
                    // Of an MVCC snapshot, as CONCURRENTLY takes, all are visible.
                    !whole && !(*self.info).ii_Concurrent,
                    // Of a part its leader reports.
                    whole && part.is_none(),
                    first,
                    n_blocks,
                    Some(visit_row),
                    (&raw mut visitor).cast::<c_void>(),
                    part.unwrap_or(core::ptr::null_mut()),
                )
            })
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit_row(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    _is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: `state` is the visitor that `for_each*` passed; values and nulls have one element each, as the index has
    // one column. What the value is detoasted into is freed before the row ends.
    let result = unsafe {
        if *is_null {
            return;
        }
        let visitor = &mut *state.cast::<Visitor>();
        let value = HeapValue {
            opclass: visitor.opclass,
            datum: *values,
        };
        (visitor.visit)(super::tid_from(&*tid), &value)
    };
    if let Err(error) = result {
        error.raise();
    }
}
