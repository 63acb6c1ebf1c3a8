//! INSERT of one row. Needs no GPU.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::opclass::OpClass;
use crate::error::Result;
use crate::storage::{IndexPages, open_index};

#[pg_guard]
#[allow(clippy::too_many_arguments)] // Postgres's signature
pub(super) unsafe extern "C-unwind" fn aminsert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    heap_tid: pg_sys::ItemPointer,
    _heap: pg_sys::Relation,
    _check_unique: pg_sys::IndexUniqueCheck::Type,
    _index_unchanged: bool,
    _info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: Postgres passes an open index, one value and null flag (the index has one column), and the row's tid.
    let result = unsafe {
        if *is_null {
            return false;
        }
        insert(index, *values, super::tid_from(&*heap_tid))
    };
    if let Err(error) = result {
        error.raise();
    }
    // Uniqueness was not checked.
    false
}

/// Inserts the row `tid` with column value `value`. Zero vectors under cosine are not indexed.
///
/// # Safety
/// `index` is an open index of this access method, `value` of its column's type, not null.
unsafe fn insert(index: pg_sys::Relation, value: pg_sys::Datum, tid: omen_ivf::Tid) -> Result<()> {
    // SAFETY: by this function's contract. What the value is detoasted into is freed at the end of the closure.
    unsafe {
        let pages = IndexPages::new(index);
        let open = open_index(&pages)?;
        OpClass::of(index)?
            .with_input(value, |v| omen_ivf::insert::insert(&pages, &open, v, tid))??;
        pages.publish_free_space();
    }
    Ok(())
}
