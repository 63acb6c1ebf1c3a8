//! Which row versions the entries of an index stand for, as the active snapshot sees them.
//!
//! An entry points to the root of a chain of versions on one page; the table's access method finds the visible one.
#![allow(unsafe_code)]

use omen_ivf::{Metric, Tid};
use pgrx::{PgSqlErrorCode, check_for_interrupts, pg_sys};

use super::heap_pages::HeapPages;
use crate::am::table_rows::{IndexedValue, TableRows};
use crate::am::{HeapEnd, OpClass};
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
    rows: TableRows,
    /// Evaluates the indexed column or expression; made when it is needed.
    column: Option<(OpClass, IndexedValue)>,
    /// Reads the table's pages itself, if they are those of a heap.
    heap: Option<HeapPages>,
    end: HeapEnd,
    /// So many rows more are looked up with that.
    cold: u32,
}

impl VisibleRows {
    /// Begins to read the table of an index with this metric. Errors: the statement has no MVCC snapshot.
    pub(super) fn begin(named: &NamedIndex, metric: Metric) -> Result<Self> {
        let (index, table) = (named.index(), named.table());
        // SAFETY: the table is open.
        unsafe {
            let snapshot = pg_sys::GetActiveSnapshot();
            let mvcc = pg_sys::SnapshotType::SNAPSHOT_MVCC;
            if snapshot.is_null() || (*snapshot).snapshot_type != mvcc {
                return Err(PgError::new(
                    PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                    "non-MVCC snapshots are not supported with omen indexes",
                ));
            }
            Ok(Self {
                index,
                table,
                metric,
                snapshot,
                rows: TableRows::begin(table),
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
        // SAFETY: the snapshot is the statement's: `begin`.
        unsafe { self.rows.find(self.snapshot, Tid::from_u64(root)) }
    }

    /// What the operator returns for the visible version of the row whose chain begins at `root` and this query (`[dim]`); `None` if there
    /// is no such version.
    pub(super) fn distance_to(&mut self, root: u64, query: &[f32]) -> Result<Option<f64>> {
        check_for_interrupts!();
        if self.find(root).is_none() {
            return Ok(None);
        }
        let metric = self.metric;
        // SAFETY: the index is open, and the slot holds the row found last. Its value is null only if the row's expression changed its mind.
        unsafe {
            if self.column.is_none() {
                let class = OpClass::of(self.index)?;
                self.column = Some((class, IndexedValue::new(self.index)));
            }
            let (class, column) = self.column.as_mut().expect("it was just made");
            column
                .with(self.rows.slot(), |value| match value {
                    None => Ok(f64::INFINITY),
                    Some(value) => class.with_input(value, |row| distance(metric, row, query)),
                })
                .map(Some)
        }
    }

    /// Ends reading.
    pub(super) fn end(self) {
        self.rows.end();
        if let Some((_, column)) = self.column {
            column.end();
        }
    }
}
