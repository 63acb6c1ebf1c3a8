//! What the ORDER BY operators return for rows of a scan, worked out from the table as the scan's snapshot sees it.
#![allow(unsafe_code)]

use omen_ivf::Tid;
use pgrx::pg_sys;

use super::table_rows::{IndexedValue, TableRows};

/// Values of the ORDER BY keys of one row, in their order; `None`: NULL.
pub(super) type Values = Vec<Option<f64>>;

/// Looks up rows of one scan's table. Lives as long as the scan; what it has of Postgres lies in the scan's memory context.
pub(super) struct RowValues {
    rows: TableRows,
    column: IndexedValue,
    /// A page is pinned.
    pins: bool,
}

impl RowValues {
    /// For the rows of `scan`.
    ///
    /// # Safety
    /// `scan` is in progress, with its table open until [`Self::end`].
    pub(super) unsafe fn begin(scan: pg_sys::IndexScanDesc) -> Self {
        // SAFETY: by this function's contract. `scan` was allocated on its own.
        unsafe {
            let old = pg_sys::MemoryContextSwitchTo(pg_sys::GetMemoryChunkContext(scan.cast()));
            let made = Self {
                rows: TableRows::begin((*scan).heapRelation),
                column: IndexedValue::new((*scan).indexRelation),
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
        self.pins = true;
        // SAFETY: the snapshot is the scan's, and the slot holds what was found. All ORDER BY keys are on the index's one column.
        unsafe {
            self.rows.find((*scan).xs_snapshot, root)?;
            let values = self.column.with(self.rows.slot(), |column| {
                (0..(*scan).numberOfOrderBys as usize)
                    .map(|i| {
                        let key = &mut *(*scan).orderByData.add(i);
                        let is_null = key.sk_flags & pg_sys::SK_ISNULL as i32 != 0;
                        column.filter(|_| !is_null).map(|column| {
                            // The function of the operator itself: what the executor would call.
                            let value = pg_sys::FunctionCall2Coll(
                                &mut key.sk_func,
                                key.sk_collation,
                                column,
                                key.sk_argument,
                            );
                            f64::from_bits(value.value() as u64)
                        })
                    })
                    .collect()
            });
            Some(values)
        }
    }

    /// Gives back the page that is pinned, if there is one: a cursor may rest for long, and VACUUM waits for pages.
    pub(super) fn release(&mut self) {
        if core::mem::take(&mut self.pins) {
            self.rows.release();
        }
    }

    /// Ends looking.
    pub(super) fn end(self) {
        self.rows.end();
        self.column.end();
    }
}
