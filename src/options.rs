//! Options of `CREATE INDEX ... USING omen (...) WITH (...)`.
#![allow(unsafe_code)]

use core::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

use omen_ivf::params::MAX_LISTS;
use pgrx::pg_sys;

use crate::compat;

/// Parsed options as Postgres keeps them in the relation cache.
#[repr(C)]
struct Options {
    /// Length word of the bytea that this is.
    vl_len: i32,
    lists: c_int,
}

/// Kind number that Postgres gave our options; set once, in `_PG_init`.
static KIND: AtomicU32 = AtomicU32::new(0);

/// Registers the options; called once, from `_PG_init`.
pub(crate) fn define() {
    // SAFETY: called from `_PG_init` on the main thread; names are NUL-terminated constants.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        pg_sys::add_int_reloption(
            kind,
            c"lists".as_ptr(),
            c"Number of lists, 0 to choose by the number of rows".as_ptr(),
            0,
            0,
            MAX_LISTS as c_int,
            pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
        );
        KIND.store(kind as u32, Ordering::Relaxed);
    }
}

/// Parses options: the `amoptions` of the access method.
///
/// # Safety
/// `reloptions` is a text array or null, as Postgres passes it.
pub(crate) unsafe fn parse(reloptions: pg_sys::Datum, validate: bool) -> *mut pg_sys::bytea {
    let table = [compat::int_option(
        c"lists",
        core::mem::offset_of!(Options, lists),
    )];
    // SAFETY: `table` describes `Options`, whose size is given; Postgres copies what it needs.
    unsafe {
        pg_sys::build_reloptions(
            reloptions,
            validate,
            KIND.load(Ordering::Relaxed) as pg_sys::relopt_kind::Type,
            size_of::<Options>(),
            table.as_ptr(),
            table.len() as c_int,
        )
        .cast()
    }
}

/// The `lists` option of an index, 0 if it was not given.
///
/// # Safety
/// `index` is an open index of this access method.
pub(crate) unsafe fn lists(index: pg_sys::Relation) -> u32 {
    // SAFETY: `rd_options` of an omen index is null or what `parse` returned.
    unsafe {
        let options = (*index).rd_options.cast::<Options>();
        if options.is_null() {
            0
        } else {
            (*options).lists as u32
        }
    }
}
