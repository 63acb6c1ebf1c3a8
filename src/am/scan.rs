//! Index scans: `ORDER BY column <operator> query`, rows handed out one by one for as long as the executor pulls.
//!
//! The scan's state is a Rust value behind `opaque`. It is dropped by `amendscan` or, if an error ends the query before,
//! by a callback of the memory context the scan lives in; its destructors do not call Postgres.
#![allow(unsafe_code)]

use core::ffi::c_void;
use std::rc::Rc;
use std::time::Instant;

use omen_ivf::index::Index;
use omen_ivf::{IvfError, Tid};
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};

use super::heap_end::HeapEnd;
use super::opclass::OpClass;
use super::ordered::OrderedScan;
use super::reorder::Reorder;
use super::row_values::{RowValues, Values};
use super::unordered::UnorderedScan;
use crate::compat;
use crate::engine::stats::{self, ScanRecord};
use crate::error::{PgError, Result};
use crate::storage::{IndexPages, open_index};

/// A row's address and the order values Postgres gets for it.
struct Row {
    tid: Tid,
    values: Values,
    /// Its place is certain: Postgres need not compute the operators to find it.
    settled: bool,
}

/// What the scan does since the last `amrescan`.
enum Mode {
    /// Nothing yet: the query is read at the first pull.
    Start,
    /// Rows by distance, and those that wait for their place.
    Ordered(Box<OrderedScan>, Reorder),
    /// All rows, all with this order value: NULL, or NaN for the zero query under cosine.
    Unordered(Box<UnorderedScan>, Option<f64>),
}

/// Behind `opaque`.
struct State {
    mode: Mode,
    index: Option<Rc<Index>>,
    heap_end: HeapEnd,
    record: ScanRecord,
    /// Made when a row's place is not certain.
    row_values: Option<RowValues>,
}

impl State {
    fn new() -> Self {
        Self {
            mode: Mode::Start,
            index: None,
            heap_end: HeapEnd::default(),
            record: ScanRecord::default(),
            row_values: None,
        }
    }

    /// Ends what the last rescan began: its figures become those of the session's last scan.
    fn finish(&mut self) {
        if !matches!(self.mode, Mode::Start) {
            stats::finish(&self.record);
        }
        *self = Self {
            row_values: self.row_values.take(),
            ..Self::new()
        };
    }

    /// The next row.
    ///
    /// # Safety
    /// `scan` is the scan this state belongs to.
    unsafe fn next(&mut self, scan: pg_sys::IndexScanDesc) -> Result<Option<Row>> {
        // SAFETY: Postgres keeps the index open during the scan.
        let pages = unsafe { IndexPages::new((*scan).indexRelation) };
        if matches!(self.mode, Mode::Start) {
            // SAFETY: by this function's contract.
            unsafe { self.start(scan, &pages)? };
        }
        if matches!(self.mode, Mode::Ordered(..)) {
            // SAFETY: by this function's contract.
            return unsafe { self.next_ordered(scan, &pages) };
        }
        let index = self.index.as_ref().expect("start sets it");
        let Mode::Unordered(all, order_by) = &mut self.mode else {
            unreachable!("start sets another mode");
        };
        let order_by = *order_by;
        let Some(tid) = all.next(&pages, index)? else {
            return Ok(None);
        };
        // SAFETY: Postgres keeps the table open during the scan.
        let n_keys = unsafe {
            self.heap_end.check((*scan).heapRelation, tid)?;
            (*scan).numberOfOrderBys as usize
        };
        self.record.rows += 1;
        // Further keys (ORDER BY v <-> NULL, v <-> b): the executor orders by them when it rechecks. The first is what the operator returns.
        let mut values = vec![Some(f64::NEG_INFINITY); n_keys];
        values[0] = order_by;
        let settled = n_keys == 1;
        Ok(Some(Row {
            tid,
            values,
            settled,
        }))
    }

    /// The next row by distance.
    ///
    /// # Safety
    /// As [`Self::next`], in an ordered scan.
    unsafe fn next_ordered(
        &mut self,
        scan: pg_sys::IndexScanDesc,
        pages: &IndexPages,
    ) -> Result<Option<Row>> {
        let index = self.index.as_ref().expect("start sets it");
        let Mode::Ordered(ordered, reorder) = &mut self.mode else {
            unreachable!("the caller looked");
        };
        loop {
            check_for_interrupts!();
            if let Some(row) = reorder.pop() {
                return Ok(Some(Row {
                    tid: row.tid,
                    values: row.values,
                    settled: true,
                }));
            }
            if reorder.is_ended() {
                return Ok(None);
            }
            let Some((candidate, settled)) = ordered.next(pages, index, &mut self.record)? else {
                reorder.end();
                continue;
            };
            self.record.rows += 1;
            let bound = index.lower_bound(candidate.key);
            // SAFETY: by this function's contract; Postgres keeps the table open during the scan.
            let (values, upper) = unsafe {
                self.heap_end.check((*scan).heapRelation, candidate.tid)?;
                // Further keys (ORDER BY v <-> a, v <-> b) break ties.
                if settled && (*scan).numberOfOrderBys == 1 {
                    let upper = index.upper_bound(candidate.ceiling);
                    (Some(vec![Some(bound)]), Some(upper))
                } else {
                    let rows = self
                        .row_values
                        .get_or_insert_with(|| RowValues::begin(scan));
                    (rows.of(scan, candidate.tid), None)
                }
            };
            match values {
                None => reorder.advance(bound),
                Some(values) if values[0].is_some_and(|value| value < bound) => {
                    return Err(PgError::new(
                        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                        "index returned tuples in wrong order",
                    ));
                }
                Some(values) => {
                    if !reorder.add(candidate.tid, values, upper, bound) {
                        self.record.late += 1;
                    }
                }
            }
        }
    }

    /// Reads the query and begins.
    ///
    /// # Safety
    /// As [`Self::next`].
    unsafe fn start(&mut self, scan: pg_sys::IndexScanDesc, pages: &IndexPages) -> Result<()> {
        let began = Instant::now();
        let index = open_index(pages)?;
        // SAFETY: `amgettuple` checked that there is an ORDER BY key; the datum of a key that is not NULL is of the
        // operator's right type, which is the column's.
        let query = unsafe {
            let key = &*(*scan).orderByData;
            if key.sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
                None
            } else {
                let class = OpClass::of(pages.rel())?;
                let prepared = class.with_input(key.sk_argument, |q| index.prepare_uncoded(q))?;
                Some(prepared.map_err(|error| query_error(class, error))?)
            }
        };
        self.record.relation = pages.relation().to_u32();
        self.record.lists = index.n_lists();
        self.record.select += began.elapsed();
        self.mode = match query {
            None => Mode::Unordered(Box::default(), None),
            Some(query) if query.unordered() => Mode::Unordered(Box::default(), Some(f64::NAN)),
            Some(query) => {
                let ordered = OrderedScan::start(pages, &index, query, &mut self.record)?;
                let reorder = Reorder::new(ordered.is_strict());
                Mode::Ordered(Box::new(ordered), reorder)
            }
        };
        self.index = Some(index);
        Ok(())
    }
}

/// A query of another dimension: the operator's own error.
fn query_error(class: OpClass, error: IvfError) -> PgError {
    match error {
        IvfError::Dimension { expected, found } => PgError::new(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            class.differs(expected, found),
        ),
        other => other.into(),
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    n_keys: i32,
    n_order_bys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: Postgres passes an open index. Everything allocated lives in the executor's context, like the scan.
    unsafe {
        let scan = pg_sys::RelationGetIndexScan(index, n_keys, n_order_bys);
        if n_order_bys > 0 {
            let n = n_order_bys as usize;
            (*scan).xs_orderbyvals = pg_sys::palloc0(n * size_of::<pg_sys::Datum>()).cast();
            (*scan).xs_orderbynulls = pg_sys::palloc0(n * size_of::<bool>()).cast();
        }
        let callback = pg_sys::palloc0(size_of::<pg_sys::MemoryContextCallback>())
            .cast::<pg_sys::MemoryContextCallback>();
        (*callback).func = Some(drop_state);
        (*callback).arg = Box::into_raw(Box::new(State::new())).cast();
        pg_sys::MemoryContextRegisterResetCallback(pg_sys::CurrentMemoryContext, callback);
        (*scan).opaque = callback.cast();
        scan
    }
}

/// Drops the state of a scan, once. Called by Postgres when the scan's memory goes; must not call Postgres.
unsafe extern "C-unwind" fn drop_state(state: *mut c_void) {
    if !state.is_null() {
        // SAFETY: `state` comes from Box::into_raw; `amendscan` nulls the pointer when it drops the box first.
        drop(unsafe { Box::from_raw(state.cast::<State>()) });
    }
}

/// The state of a scan between `ambeginscan` and `amendscan`.
///
/// # Safety
/// `scan` is such a scan.
unsafe fn state<'a>(scan: pg_sys::IndexScanDesc) -> &'a mut State {
    // SAFETY: `ambeginscan` put the callback there; its argument is the state until `amendscan`.
    unsafe {
        let callback = (*scan).opaque.cast::<pg_sys::MemoryContextCallback>();
        &mut *(*callback).arg.cast::<State>()
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amrescan(
    scan: pg_sys::IndexScanDesc,
    keys: pg_sys::ScanKey,
    _n_keys: i32,
    order_bys: pg_sys::ScanKey,
    _n_order_bys: i32,
) {
    // SAFETY: Postgres passes as many keys as `ambeginscan` was told; the arrays may be the scan's own.
    unsafe {
        state(scan).finish();
        if !keys.is_null() && (*scan).numberOfKeys > 0 {
            core::ptr::copy(keys, (*scan).keyData, (*scan).numberOfKeys as usize);
        }
        if !order_bys.is_null() && (*scan).numberOfOrderBys > 0 {
            core::ptr::copy(
                order_bys,
                (*scan).orderByData,
                (*scan).numberOfOrderBys as usize,
            );
        }
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amgettuple(
    scan: pg_sys::IndexScanDesc,
    _direction: pg_sys::ScanDirection::Type,
) -> bool {
    // SAFETY: Postgres passes a scan in progress; the order-by arrays have an element for each key.
    unsafe {
        let state = state(scan);
        if matches!(state.mode, Mode::Start) {
            check_scan(scan);
            compat::count_index_scan(scan);
        }
        let next = state.next(scan);
        if let Some(values) = &mut state.row_values {
            values.release();
        }
        match next {
            Err(error) => error.raise(),
            Ok(None) => false,
            Ok(Some(row)) => {
                (*scan).xs_heaptid = super::tid_of(row.tid);
                (*scan).xs_recheck = false;
                (*scan).xs_recheckorderby = !row.settled;
                for (i, value) in row.values.iter().enumerate() {
                    *(*scan).xs_orderbynulls.add(i) = value.is_none();
                    *(*scan).xs_orderbyvals.add(i) =
                        pg_sys::Datum::from(value.unwrap_or(0.0).to_bits());
                }
                true
            }
        }
    }
}

/// Raises an error for scans we cannot answer.
///
/// # Safety
/// `scan` is a scan in progress.
unsafe fn check_scan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: by this function's contract; the snapshot is null or valid.
    let (ordered, mvcc) = unsafe {
        let snapshot = (*scan).xs_snapshot;
        let mvcc = !snapshot.is_null()
            && matches!(
                (*snapshot).snapshot_type,
                pg_sys::SnapshotType::SNAPSHOT_MVCC | pg_sys::SnapshotType::SNAPSHOT_HISTORIC_MVCC
            );
        ((*scan).numberOfOrderBys >= 1, mvcc)
    };
    if !ordered {
        PgError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot scan omen index without order",
        )
        .raise();
    }
    // VACUUM may remove an entry whose row the scan is about to fetch, and the row's place may be taken by another. Only
    // an MVCC snapshot cannot see that one.
    if !mvcc {
        PgError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "non-MVCC snapshots are not supported with omen indexes",
        )
        .raise();
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: as in `state`; afterwards the callback finds nothing to drop.
    unsafe {
        let state = state(scan);
        state.finish();
        if let Some(values) = state.row_values.take() {
            values.end();
        }
        let callback = (*scan).opaque.cast::<pg_sys::MemoryContextCallback>();
        let state = core::mem::replace(&mut (*callback).arg, core::ptr::null_mut());
        (*scan).opaque = core::ptr::null_mut();
        drop_state(state);
    }
}
