//! What the ORDER BY operators return for rows of a scan, worked out from the table as the scan's snapshot sees it.
#![allow(unsafe_code)]

use omen_ivf::Tid;
use pgrx::pg_sys;

/// Values of the ORDER BY keys of one row, in their order; `None`: NULL.
pub(super) type Values = Vec<Option<f64>>;

/// Looks up rows of one scan's table. Lives as long as the scan; what it has of Postgres lies in the scan's memory context.
pub(super) struct RowValues {
    fetch: *mut pg_sys::IndexFetchTableData,
    slot: *mut pg_sys::TupleTableSlot,
    info: *mut pg_sys::IndexInfo,
    state: *mut pg_sys::EState,
    /// A page is pinned.
    pins: bool,
}

impl RowValues {
    /// For the rows of `scan`.
    ///
    /// # Safety
    /// `scan` is in progress, with its table open.
    pub(super) unsafe fn begin(scan: pg_sys::IndexScanDesc) -> Self {
        // SAFETY: by this function's contract. A table access method has all callbacks, which may raise errors and so run behind
        // a guard. `scan` was allocated on its own.
        unsafe {
            let table = (*scan).heapRelation;
            let old = pg_sys::MemoryContextSwitchTo(pg_sys::GetMemoryChunkContext(scan.cast()));
            let begin = (*(*table).rd_tableam).index_fetch_begin;
            let begin = begin.expect("a table access method has all callbacks");
            let made = Self {
                fetch: pg_sys::ffi::pg_guard_ffi_boundary(|| begin(table)),
                slot: pg_sys::table_slot_create(table, core::ptr::null_mut()),
                info: pg_sys::BuildIndexInfo((*scan).indexRelation),
                state: pg_sys::CreateExecutorState(),
                pins: false,
            };
            pg_sys::MemoryContextSwitchTo(old);
            made
        }
    }

    /// The values of the visible version of the row whose chain of versions begins at `root`; `None` if there is none.
    ///
    /// # Safety
    /// `scan` is the one that this was begun for; its first ORDER BY key is not NULL.
    pub(super) unsafe fn of(&mut self, scan: pg_sys::IndexScanDesc, root: Tid) -> Option<Values> {
        let mut tid = super::tid_of(root);
        self.pins = true;
        let (mut call_again, mut all_dead) = (false, false);
        // SAFETY: fetch and slot are of the scan's table, the snapshot is the scan's. An omen index has one column, on which all
        // ORDER BY keys are. What is made on the way lives until the reset, of a context that the state owns.
        unsafe {
            let fetch = (*(*(*scan).heapRelation).rd_tableam).index_fetch_tuple;
            let fetch = fetch.expect("a table access method has all callbacks");
            let found = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                fetch(
                    self.fetch,
                    &mut tid,
                    (*scan).xs_snapshot,
                    self.slot,
                    &mut call_again,
                    &mut all_dead,
                )
            });
            if !found {
                return None;
            }
            let context = match (*self.state).es_per_tuple_exprcontext {
                made if !made.is_null() => made,
                _ => pg_sys::MakePerTupleExprContext(self.state),
            };
            (*context).ecxt_scantuple = self.slot;
            let old = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            let mut column = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
            pg_sys::FormIndexDatum(
                self.info,
                self.slot,
                self.state,
                column.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            let values = (0..(*scan).numberOfOrderBys as usize)
                .map(|i| {
                    let key = &mut *(*scan).orderByData.add(i);
                    let is_null = nulls[0] || key.sk_flags & pg_sys::SK_ISNULL as i32 != 0;
                    (!is_null).then(|| {
                        // The function of the operator itself: what the executor would call.
                        let value = pg_sys::FunctionCall2Coll(
                            &mut key.sk_func,
                            key.sk_collation,
                            column[0],
                            key.sk_argument,
                        );
                        f64::from_bits(value.value() as u64)
                    })
                })
                .collect();
            pg_sys::MemoryContextSwitchTo(old);
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            Some(values)
        }
    }

    /// Gives back the page that is pinned, if there is one: a cursor may rest for long, and VACUUM waits for pages.
    ///
    /// # Safety
    /// As [`Self::of`].
    pub(super) unsafe fn release(&mut self, scan: pg_sys::IndexScanDesc) {
        if !core::mem::take(&mut self.pins) {
            return;
        }
        // SAFETY: by this function's contract; as in `begin`.
        unsafe {
            let reset = (*(*(*scan).heapRelation).rd_tableam).index_fetch_reset;
            let reset = reset.expect("a table access method has all callbacks");
            pg_sys::ffi::pg_guard_ffi_boundary(|| reset(self.fetch));
            let clear = (*(*self.slot).tts_ops).clear;
            let clear = clear.expect("a slot has all callbacks");
            pg_sys::ffi::pg_guard_ffi_boundary(|| clear(self.slot));
        }
    }

    /// Ends looking.
    ///
    /// # Safety
    /// As [`Self::of`]; the table is still open.
    pub(super) unsafe fn end(self, scan: pg_sys::IndexScanDesc) {
        // SAFETY: by this function's contract; as in `begin`.
        unsafe {
            let end = (*(*(*scan).heapRelation).rd_tableam).index_fetch_end;
            let end = end.expect("a table access method has all callbacks");
            pg_sys::ffi::pg_guard_ffi_boundary(|| end(self.fetch));
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::FreeExecutorState(self.state);
        }
    }
}
