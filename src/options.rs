//! Options of `CREATE INDEX ... USING omen (...) WITH (...)`.
#![allow(unsafe_code)]

use core::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicU32, Ordering};

use omen_ivf::params::MAX_LISTS;
use pgrx::pg_sys;

use crate::compat;
use crate::storage::IndexPages;

/// Parsed options as Postgres keeps them in the relation cache.
#[repr(C)]
struct Options {
    /// Length word of the bytea that this is.
    vl_len: i32,
    lists: c_int,
    hot: c_int,
    m: c_int,
    ef_construction: c_int,
}

/// The `hot` option: whether the index has a hot tier on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hot {
    /// From when it pays on.
    Auto,
    /// From the first search on, and it goes last when memory runs short.
    On,
    /// Never.
    Off,
}

/// The words of `hot`, with their numbers, until the one without a name. Postgres keeps the pointer.
struct HotWords([pg_sys::relopt_enum_elt_def; 4]);

// SAFETY: names are constants; Postgres reads the table on the main thread alone, and does not write to it.
unsafe impl Sync for HotWords {}

const fn word(name: *const c_char, hot: Hot) -> pg_sys::relopt_enum_elt_def {
    pg_sys::relopt_enum_elt_def {
        string_val: name,
        symbol_val: hot as c_int,
    }
}

static HOT_WORDS: HotWords = HotWords([
    word(c"auto".as_ptr(), Hot::Auto),
    word(c"on".as_ptr(), Hot::On),
    word(c"off".as_ptr(), Hot::Off),
    word(core::ptr::null(), Hot::Auto),
]);

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
        pg_sys::add_enum_reloption(
            kind,
            c"hot".as_ptr(),
            c"Whether sessions keep a copy of the index on the GPU".as_ptr(),
            HOT_WORDS.0.as_ptr().cast_mut(),
            Hot::Auto as c_int,
            c"Valid values are \"auto\", \"on\", and \"off\".".as_ptr(),
            pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE,
        );
        // pgvector's options of hnsw indexes, with its ranges, so that of such a statement only the method's name needs to change.
        for (name, what, default, least, most) in [
            (c"m", c"Accepted as hnsw's, without effect", 16, 2, 100),
            (
                c"ef_construction",
                c"Accepted as hnsw's, without effect",
                64,
                4,
                1000,
            ),
        ] {
            pg_sys::add_int_reloption(
                kind,
                name.as_ptr(),
                what.as_ptr(),
                default,
                least,
                most,
                pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
            );
        }
        KIND.store(kind as u32, Ordering::Relaxed);
    }
}

/// Parses options: the `amoptions` of the access method.
///
/// # Safety
/// `reloptions` is a text array or null, as Postgres passes it.
pub(crate) unsafe fn parse(reloptions: pg_sys::Datum, validate: bool) -> *mut pg_sys::bytea {
    use core::mem::offset_of;
    let table = [
        compat::int_option(c"lists", offset_of!(Options, lists)),
        compat::enum_option(c"hot", offset_of!(Options, hot)),
        compat::int_option(c"m", offset_of!(Options, m)),
        compat::int_option(c"ef_construction", offset_of!(Options, ef_construction)),
    ];
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

/// The `hot` option of an index.
pub(crate) fn hot_of(pages: &IndexPages) -> Hot {
    // SAFETY: `IndexPages` holds an open relation of this access method; its `rd_options` are null or what `parse` returned.
    let hot = unsafe {
        let options = (*pages.rel()).rd_options.cast::<Options>();
        if options.is_null() {
            return Hot::Auto;
        }
        (*options).hot
    };
    [Hot::On, Hot::Off]
        .into_iter()
        .find(|&known| known as c_int == hot)
        .unwrap_or(Hot::Auto)
}
