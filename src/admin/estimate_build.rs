//! `omen_estimate_build(table, column, lists)`: what a build would take, before it is begun.
#![allow(unsafe_code)]

use core::ffi::CStr;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::am::OpClass;
use crate::am::estimate::{self, Estimate};
use crate::error::{PgError, Result};
use crate::privilege;

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// One row. Raises an error if there is no such table or column, the column is no vector, or the caller may not read it.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn omen_estimate_build(
    table: pg_sys::Oid,
    column: &CStr,
    lists: i32,
) -> TableIterator<
    'static,
    (
        name!(lists, i32),
        name!(rows, i64),
        name!(engine, String),
        name!(parallel_workers, i32),
        name!(seconds, f64),
        name!(memory_bytes, i64),
        name!(device_bytes, i64),
        name!(index_bytes, i64),
        name!(wal_bytes, i64),
    ),
> {
    match estimate_named(table, column, lists) {
        Ok(estimate) => TableIterator::once((
            estimate.lists as i32,
            estimate.rows as i64,
            estimate.engine.to_owned(),
            estimate.workers as i32,
            estimate.seconds,
            estimate.memory_bytes as i64,
            estimate.device_bytes as i64,
            estimate.index_bytes as i64,
            estimate.wal_bytes as i64,
        )),
        Err(error) => error.raise(),
    }
}

fn estimate_named(table: pg_sys::Oid, column: &CStr, lists: i32) -> Result<Estimate> {
    let lists = estimate::check_lists(lists)?;
    privilege::check_select(table, "table", table)?;
    // SAFETY: on the main thread, in a transaction; raises Postgres's own error if there is no such relation. After an error the abort of the
    // transaction closes it.
    let rel = unsafe { pg_sys::relation_open(table, LOCK) };
    // SAFETY: it is open, and what is asked for checked before it is looked at.
    unsafe {
        check_table(rel)?;
        let (column, class) = vector_column(rel, column)?;
        let estimate = estimate::estimate(rel, class, column, lists)?;
        pg_sys::relation_close(rel, LOCK);
        Ok(estimate)
    }
}

/// Errors: a relation without rows of its own, or whose rows this session or role cannot see.
///
/// # Safety
/// `rel` is open.
unsafe fn check_table(rel: pg_sys::Relation) -> Result<()> {
    // SAFETY: by this function's contract.
    let (id, name, kind, persistence, is_local) = unsafe {
        let form = &*(*rel).rd_rel;
        (
            (*rel).rd_id,
            pgrx::name_data_to_str(&form.relname).to_owned(),
            form.relkind as u8,
            form.relpersistence as u8,
            (*rel).rd_islocaltemp,
        )
    };
    if privilege::hides_rows(id) {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("row-level security hides rows of table \"{name}\""),
        )
        .with_hint("Ask as a role that bypasses its policies, as the table's owner does."));
    }
    if kind == pg_sys::RELKIND_PARTITIONED_TABLE {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("table \"{name}\" is partitioned"),
        )
        .with_hint("Ask for its partitions: each gets an index of its own."));
    }
    if kind != pg_sys::RELKIND_RELATION && kind != pg_sys::RELKIND_MATVIEW {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("\"{name}\" is not a table"),
        )
        .with_hint("Name a table or a materialized view."));
    }
    if persistence == pg_sys::RELPERSISTENCE_TEMP && !is_local {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot access temporary tables of other sessions",
        ));
    }
    // SAFETY: reads shared memory on the main thread.
    if persistence == pg_sys::RELPERSISTENCE_UNLOGGED && unsafe { pg_sys::RecoveryInProgress() } {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("unlogged table \"{name}\" has no data on a standby"),
        ));
    }
    Ok(())
}

/// Number of a column of `rel`, and the default operator class of its type. Errors: there is none of that name, or `omen` has no operator class for its type.
///
/// # Safety
/// `rel` is open.
unsafe fn vector_column(rel: pg_sys::Relation, column: &CStr) -> Result<(i16, OpClass)> {
    // SAFETY: by this function's contract; names are strings in the current memory context.
    unsafe {
        let name = column.to_string_lossy();
        let table = pgrx::name_data_to_str(&(*(*rel).rd_rel).relname);
        let number = pg_sys::get_attnum((*rel).rd_id, column.as_ptr());
        if number <= 0 {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("column \"{name}\" of table \"{table}\" does not exist"),
            )
            .with_hint("Name a column of type vector, halfvec, bit or sparsevec."));
        }
        let type_id = pg_sys::get_atttype((*rel).rd_id, number);
        let method = pg_sys::get_am_oid(c"omen".as_ptr(), false);
        let Some(class) = OpClass::default_for(type_id, method)? else {
            let found = CStr::from_ptr(pg_sys::format_type_be(type_id)).to_string_lossy();
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!("column \"{name}\" of table \"{table}\" is of type {found}, not vector"),
            )
            .with_hint("Name a column of type vector, halfvec, bit or sparsevec."));
        };
        Ok((number, class))
    }
}
