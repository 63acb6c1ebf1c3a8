//! Whether the planner uses the only index that it sees.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use pgrx::{PgSqlErrorCode, pg_sys};

use super::rivals::Search;
use crate::error::{PgError, Result};

/// Errors: it does not. Called while SPI is connected.
pub(super) fn check_plan(search: &Search, index: pg_sys::Oid, query: pg_sys::Datum) -> Result<()> {
    let plan = explain(search, query);
    if plan.contains("Index Scan using") {
        return Ok(());
    }
    Err(PgError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("the planner does not use index {}", index.to_u32()),
    )
    .with_detail(plan)
    .with_hint(
        "Row-level security, or a predicate that the planner cannot prove, can be the reason.",
    ))
}

/// The plan of the search as text. EXPLAIN counts as a statement that writes, which would have all later ones of the interface for Rust see
/// new snapshots: so this is the interface for C.
fn explain(search: &Search, query: pg_sys::Datum) -> String {
    let explain = CString::new(format!("EXPLAIN (COSTS OFF) {}", search.statement))
        .expect("the catalog's names have no NUL");
    let (mut types, mut values) = ([search.value_type], [query]);
    let mut lines = Vec::new();
    // SAFETY: on the main thread, SPI is connected; one parameter of the type given. The table is null or has the rows of the result,
    // and is read before the next statement.
    unsafe {
        pg_sys::SPI_execute_with_args(
            explain.as_ptr(),
            1,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            core::ptr::null(),
            false,
            0,
        );
        let table = pg_sys::SPI_tuptable;
        if !table.is_null() {
            for row in 0..(*table).numvals as usize {
                let line = pg_sys::SPI_getvalue(*(*table).vals.add(row), (*table).tupdesc, 1);
                if !line.is_null() {
                    lines.push(CStr::from_ptr(line).to_string_lossy().into_owned());
                }
            }
            pg_sys::SPI_freetuptable(table);
        }
    }
    lines.join("\n")
}
