//! Which row versions the entries of an index stand for, as the active snapshot sees them.
//!
//! An entry points to the root of a chain of versions on one page; the table's access method finds the visible one.
#![allow(unsafe_code)]

use omen_ivf::{Metric, Tid};
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::am::{self, OpClass};
use crate::datatype::vector::distance;
use crate::error::{PgError, Result};
use crate::named_index::NamedIndex;

/// Reads rows of one table. After an error the abort of the transaction gives back what it holds.
pub(super) struct VisibleRows {
    index: pg_sys::Relation,
    table: pg_sys::Relation,
    metric: Metric,
    snapshot: pg_sys::Snapshot,
    scan: *mut pg_sys::IndexFetchTableData,
    slot: *mut pg_sys::TupleTableSlot,
    /// Evaluates the indexed column or expression; made when it is needed.
    column: Option<Column>,
}

struct Column {
    opclass: OpClass,
    info: *mut pg_sys::IndexInfo,
    state: *mut pg_sys::EState,
}

impl VisibleRows {
    /// Begins to read the table of an index with this metric. Errors: the statement has no MVCC snapshot.
    pub(super) fn begin(named: &NamedIndex, metric: Metric) -> Result<Self> {
        let (index, table) = (named.index(), named.table());
        // SAFETY: the table is open; a table access method has all callbacks, which may raise errors and so run behind a
        // guard.
        unsafe {
            let snapshot = pg_sys::GetActiveSnapshot();
            let mvcc = pg_sys::SnapshotType::SNAPSHOT_MVCC;
            if snapshot.is_null() || (*snapshot).snapshot_type != mvcc {
                return Err(PgError::new(
                    PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                    "non-MVCC snapshots are not supported with omen indexes",
                ));
            }
            let begin = (*(*table).rd_tableam).index_fetch_begin;
            let begin = begin.expect("a table access method has all callbacks");
            Ok(Self {
                index,
                table,
                metric,
                snapshot,
                scan: pg_sys::ffi::pg_guard_ffi_boundary(|| begin(table)),
                slot: pg_sys::table_slot_create(table, core::ptr::null_mut()),
                column: None,
            })
        }
    }

    /// The snapshot rows are looked at with.
    pub(super) fn snapshot(&self) -> pg_sys::Snapshot {
        self.snapshot
    }

    /// The visible version of the row whose chain begins at `root`, if there is one. Fast when roots come in the order of pages.
    pub(super) fn find(&mut self, root: Tid) -> Option<Tid> {
        let mut tid = am::tid_of(root);
        let (mut call_again, mut all_dead) = (false, false);
        // SAFETY: the fetch and the slot are of this table, which is open; `begin` says the rest.
        unsafe {
            let fetch = (*(*self.table).rd_tableam).index_fetch_tuple;
            let fetch = fetch.expect("a table access method has all callbacks");
            let found = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                fetch(
                    self.scan,
                    &mut tid,
                    self.snapshot,
                    self.slot,
                    &mut call_again,
                    &mut all_dead,
                )
            });
            found.then(|| am::tid_from(&(*self.slot).tts_tid))
        }
    }

    /// What the operator returns for the row found last and this query (`[dim]`).
    pub(super) fn distance_to(&mut self, query: &[f32]) -> Result<f64> {
        let metric = self.metric;
        // SAFETY: the slot holds the row found last. An omen index has one column; its value is null only if the row's
        // expression changed its mind. Values live until the reset.
        unsafe {
            let column = match self.column.take() {
                Some(column) => column,
                None => Column {
                    opclass: OpClass::of(self.index)?,
                    info: pg_sys::BuildIndexInfo(self.index),
                    state: pg_sys::CreateExecutorState(),
                },
            };
            let context = match (*column.state).es_per_tuple_exprcontext {
                made if !made.is_null() => made,
                _ => pg_sys::MakePerTupleExprContext(column.state),
            };
            (*context).ecxt_scantuple = self.slot;
            let old = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            let mut values = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
            pg_sys::FormIndexDatum(
                column.info,
                self.slot,
                column.state,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            let found = if nulls[0] {
                Ok(f64::INFINITY)
            } else {
                column
                    .opclass
                    .with_vector(values[0], |row| distance(metric, row, query))
            };
            pg_sys::MemoryContextSwitchTo(old);
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            self.column = Some(column);
            found
        }
    }

    /// Ends reading.
    pub(super) fn end(self) {
        // SAFETY: all was begun by `begin` and `distance_to`, and is not used any more.
        unsafe {
            let end = (*(*self.table).rd_tableam).index_fetch_end;
            let end = end.expect("a table access method has all callbacks");
            pg_sys::ffi::pg_guard_ffi_boundary(|| end(self.scan));
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            if let Some(column) = self.column {
                pg_sys::FreeExecutorState(column.state);
            }
        }
    }
}
