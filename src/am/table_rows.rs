//! Rows of an index's table, looked up one by one, and what the index has of them: its column, or its expression worked out.
//!
//! What is made here lies in the memory context current then. After an error the abort of the transaction gives back what is held: nothing is dropped.
#![allow(unsafe_code)]

use omen_ivf::Tid;
use pgrx::pg_sys;

/// Finds row versions of one table.
pub(crate) struct TableRows {
    table: pg_sys::Relation,
    fetch: *mut pg_sys::IndexFetchTableData,
    slot: *mut pg_sys::TupleTableSlot,
}

impl TableRows {
    /// Begins.
    ///
    /// # Safety
    /// `table` is open until [`Self::end`].
    pub(crate) unsafe fn begin(table: pg_sys::Relation) -> Self {
        // SAFETY: by this function's contract. A table access method has all callbacks, which may raise errors and so run behind
        // a guard; likewise below.
        unsafe {
            let begin = (*(*table).rd_tableam).index_fetch_begin;
            let begin = begin.expect("a table access method has all callbacks");
            Self {
                table,
                fetch: pg_sys::ffi::pg_guard_ffi_boundary(|| begin(table)),
                slot: pg_sys::table_slot_create(table, core::ptr::null_mut()),
            }
        }
    }

    /// The row found last.
    pub(crate) fn slot(&self) -> *mut pg_sys::TupleTableSlot {
        self.slot
    }

    /// Puts the version that `snapshot` sees of the row whose chain begins at `root` into the slot, if there is one, and returns its place. Its page stays
    /// pinned.
    ///
    /// # Safety
    /// `snapshot` is an MVCC snapshot that is registered or active.
    pub(crate) unsafe fn find(&mut self, snapshot: pg_sys::Snapshot, root: Tid) -> Option<Tid> {
        let mut tid = super::tid_of(root);
        let (mut call_again, mut all_dead) = (false, false);
        // SAFETY: fetch and slot are of the table, which is open: `begin`.
        unsafe {
            let fetch = (*(*self.table).rd_tableam).index_fetch_tuple;
            let fetch = fetch.expect("a table access method has all callbacks");
            let found = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                fetch(
                    self.fetch,
                    &mut tid,
                    snapshot,
                    self.slot,
                    &mut call_again,
                    &mut all_dead,
                )
            });
            found.then(|| super::tid_from(&(*self.slot).tts_tid))
        }
    }

    /// Gives back the page that is pinned.
    pub(crate) fn release(&mut self) {
        // SAFETY: as in `find`.
        unsafe {
            let reset = (*(*self.table).rd_tableam).index_fetch_reset;
            let reset = reset.expect("a table access method has all callbacks");
            pg_sys::ffi::pg_guard_ffi_boundary(|| reset(self.fetch));
            let clear = (*(*self.slot).tts_ops).clear;
            let clear = clear.expect("a slot has all callbacks");
            pg_sys::ffi::pg_guard_ffi_boundary(|| clear(self.slot));
        }
    }

    /// Ends.
    pub(crate) fn end(self) {
        // SAFETY: as in `find`; nothing of this is used any more.
        unsafe {
            let end = (*(*self.table).rd_tableam).index_fetch_end;
            let end = end.expect("a table access method has all callbacks");
            pg_sys::ffi::pg_guard_ffi_boundary(|| end(self.fetch));
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
        }
    }
}

/// Works out what an index has of a row.
pub(crate) struct IndexedValue {
    info: *mut pg_sys::IndexInfo,
    state: *mut pg_sys::EState,
}

impl IndexedValue {
    /// Of rows of the table of `index`.
    ///
    /// # Safety
    /// `index` is open.
    pub(crate) unsafe fn new(index: pg_sys::Relation) -> Self {
        // SAFETY: by this function's contract.
        unsafe {
            Self {
                info: pg_sys::BuildIndexInfo(index),
                state: pg_sys::CreateExecutorState(),
            }
        }
    }

    /// Calls `f` with the value of the row in `slot`, `None` if it is NULL. What `f` has Postgres allocate, as the value itself, is gone afterwards.
    ///
    /// # Safety
    /// The slot holds a row of the index's table.
    pub(crate) unsafe fn with<R>(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
        f: impl FnOnce(Option<pg_sys::Datum>) -> R,
    ) -> R {
        // SAFETY: by this function's contract. An omen index has one column. What is made on the way lives until the reset, in a context
        // that the state owns.
        unsafe {
            let context = match (*self.state).es_per_tuple_exprcontext {
                made if !made.is_null() => made,
                _ => pg_sys::MakePerTupleExprContext(self.state),
            };
            (*context).ecxt_scantuple = slot;
            let old = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            let mut values = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
            pg_sys::FormIndexDatum(
                self.info,
                slot,
                self.state,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            let done = f((!nulls[0]).then_some(values[0]));
            pg_sys::MemoryContextSwitchTo(old);
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            done
        }
    }

    /// Ends.
    pub(crate) fn end(self) {
        // SAFETY: made by `new`, and not used any more.
        unsafe { pg_sys::FreeExecutorState(self.state) }
    }
}
