//! Which row versions the entries of an index stand for, as the active snapshot sees them.
//!
//! An entry points to the root of a chain of versions on one page; the table's access method finds the visible one.
#![allow(unsafe_code)]

use omen_ivf::{Metric, Tid};
use pgrx::{PgSqlErrorCode, check_for_interrupts, pg_sys};

use super::heap_pages::HeapPages;
use crate::am::{self, HeapEnd, OpClass};
use crate::datatype::vector::distance;
use crate::error::{PgError, Result};
use crate::named_index::NamedIndex;
use crate::storage::misses;

/// After a page that was not in memory, so many rows are looked up with pages asked for ahead, those of so many rows.
const COLD_ROWS: u32 = 256;
const ROWS_AHEAD: usize = 64;

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
    /// Reads the table's pages itself, if they are those of a heap.
    heap: Option<HeapPages>,
    end: HeapEnd,
    /// So many rows more are looked up with that.
    cold: u32,
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
                heap: HeapPages::of(table),
                end: HeapEnd::default(),
                cold: 0,
            })
        }
    }

    /// The snapshot rows are looked at with.
    pub(super) fn snapshot(&self) -> pg_sys::Snapshot {
        self.snapshot
    }

    /// The visible version, if there is one, of each row whose chain begins at one of `roots`, in their order. `roots` as
    /// [`Tid::as_u64`], ascending: each page is visited once. Errors: one is beyond the end of the table.
    pub(super) fn find_all(&mut self, roots: &[u64]) -> Result<Vec<Option<Tid>>> {
        let mut found = Vec::with_capacity(roots.len());
        if let Some(&last) = roots.last() {
            // SAFETY: the table is open.
            unsafe { self.end.check(self.table, Tid::from_u64(last))? };
        }
        let mut n_ahead = 0;
        for roots_of_page in roots.chunk_by(|a, b| a >> 16 == b >> 16) {
            check_for_interrupts!();
            if self.cold > 0 {
                let next = found.len() + roots_of_page.len();
                n_ahead = n_ahead.max(next);
                let ahead = &roots[n_ahead..roots.len().min(next + ROWS_AHEAD)];
                self.ask_for(ahead);
                n_ahead += ahead.len();
            }
            let before = misses();
            match &mut self.heap {
                Some(heap) => heap.find(self.table, self.snapshot, roots_of_page, &mut found),
                None => found.extend(roots_of_page.iter().map(|&root| self.find(root))),
            }
            self.cold = if self.heap.is_some() && misses() > before {
                COLD_ROWS
            } else {
                self.cold.saturating_sub(roots_of_page.len() as u32)
            };
        }
        if let Some(heap) = &mut self.heap {
            // SAFETY: in the statement that pinned it.
            unsafe { heap.release() }
        }
        Ok(found)
    }

    /// Asks for the pages of `roots` (ascending) ahead of reading them.
    fn ask_for(&self, roots: &[u64]) {
        for of_page in roots.chunk_by(|a, b| a >> 16 == b >> 16) {
            // SAFETY: the table is open, and kept in pages that tids name.
            unsafe {
                let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
                pg_sys::PrefetchBuffer(self.table, fork, Tid::from_u64(of_page[0]).block);
            }
        }
    }

    /// The visible version of the row whose chain begins at `root`, if there is one.
    fn find(&mut self, root: u64) -> Option<Tid> {
        let mut tid = am::tid_of(Tid::from_u64(root));
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

    /// What the operator returns for the visible version of the row whose chain begins at `root` and this query (`[dim]`); `None` if there
    /// is no such version.
    pub(super) fn distance_to(&mut self, root: u64, query: &[f32]) -> Result<Option<f64>> {
        check_for_interrupts!();
        if self.find(root).is_none() {
            return Ok(None);
        }
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
                    .with_input(values[0], |row| distance(metric, row, query))
            };
            pg_sys::MemoryContextSwitchTo(old);
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            self.column = Some(column);
            found.map(Some)
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
