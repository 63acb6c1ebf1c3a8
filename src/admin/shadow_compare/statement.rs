//! A search as a prepared statement, run under the snapshot of the statement that called the function.
//!
//! By the interface for C: that for Rust keeps the rows of each statement until the function ends, and takes a new snapshot for each once the
//! transaction has written.
#![allow(unsafe_code)]

use std::ffi::CString;

use pgrx::itemptr::item_pointer_to_u64;
use pgrx::pg_sys;

use super::answers::Answer;
use super::rivals::Search;

/// A statement with one parameter. Lives while SPI is connected.
pub(super) struct Statement(pg_sys::SPIPlanPtr);

impl Statement {
    /// Prepares a search. Raises Postgres's own error for what cannot be prepared.
    pub(super) fn prepare(search: &Search) -> Self {
        let text =
            CString::new(search.statement.as_str()).expect("the catalog's names have no NUL");
        let mut types = [search.value_type];
        // SAFETY: on the main thread, SPI is connected; one parameter of the type given.
        Self(unsafe { pg_sys::SPI_prepare(text.as_ptr(), 1, types.as_mut_ptr()) })
    }

    /// Rows of the answer to `query`, which is of the type that the statement was prepared for.
    pub(super) fn run(&self, query: pg_sys::Datum) -> Answer {
        let mut values = [query];
        // SAFETY: on the main thread, SPI is still connected; the parameter is not NULL. The table is null or has the rows of the result, a tid and a number each,
        // and nothing refers to it when it is freed.
        unsafe {
            pg_sys::SPI_execute_plan(self.0, values.as_mut_ptr(), core::ptr::null(), true, 0);
            let table = pg_sys::SPI_tuptable;
            if table.is_null() {
                return Answer::new();
            }
            let n_rows = (*table).numvals as usize;
            let column = |row: usize, number: i32| {
                let mut is_null = false;
                let tuple = *(*table).vals.add(row);
                let value = pg_sys::SPI_getbinval(tuple, (*table).tupdesc, number, &mut is_null);
                (!is_null).then_some(value)
            };
            let row = |row: usize| {
                let tid = column(row, 1).map(|tid| *tid.cast_mut_ptr::<pg_sys::ItemPointerData>());
                let distance = column(row, 2).map(|value| f64::from_bits(value.value() as u64));
                (
                    tid.map_or(0, item_pointer_to_u64),
                    distance.unwrap_or(f64::NAN),
                )
            };
            let answer = (0..n_rows).map(row).collect();
            pg_sys::SPI_freetuptable(table);
            answer
        }
    }
}
