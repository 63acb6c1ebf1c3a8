//! What Postgres's catalog says of an index. The metapage says the same, or it is damaged.
#![allow(unsafe_code)]

use omen_ivf::IvfError;
use omen_ivf::index::Index;
use omen_ivf::layout::meta::META_BLOCK;
use pgrx::pg_sys;

/// Number of the support function that tells type and metric: `(internal) returns integer`, [`UNITS`] * type + metric.
pub(crate) const SUPPORT_PROC: u16 = 1;
/// See [`SUPPORT_PROC`].
pub(crate) const UNITS: i32 = 100;

/// What the support function of the only column's operator class returns.
///
/// # Safety
/// `index` is an open index of this access method.
pub(crate) unsafe fn opclass_code(index: pg_sys::Relation) -> i32 {
    // SAFETY: by this function's contract; the handler announces one support function, so it is there. Its argument is
    // ignored.
    unsafe {
        let function = pg_sys::index_getprocinfo(index, 1, SUPPORT_PROC);
        let none = pg_sys::Datum::from(0);
        pg_sys::FunctionCall1Coll(function, pg_sys::InvalidOid, none).value() as i32
    }
}

/// Type modifier of the only column, which is its dimension; -1 if it has none.
///
/// # Safety
/// `index` is open.
pub(crate) unsafe fn column_typmod(index: pg_sys::Relation) -> i32 {
    let (mut type_id, mut typmod, mut collation) = (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
    // SAFETY: an index has a first column; the catalog row exists while the index is open.
    unsafe {
        pg_sys::get_atttypetypmodcoll((*index).rd_id, 1, &mut type_id, &mut typmod, &mut collation);
    }
    typmod
}

/// Errors: the metapage has another dimension or metric than the catalog. Sums computed by them would be wrong, or a query be refused as if it
/// were the user's mistake.
///
/// # Safety
/// `rel` is an open index of this access method, `index` what its metapage says.
pub(super) unsafe fn check(rel: pg_sys::Relation, index: &Index) -> omen_ivf::Result<()> {
    // SAFETY: by this function's contract.
    let (typmod, code) = unsafe { (column_typmod(rel), opclass_code(rel)) };
    let differs =
        |what: &str, found: &dyn core::fmt::Display, expected: &dyn core::fmt::Display| {
            Err(IvfError::corrupt(
                META_BLOCK,
                format!("{what} is {found}, that of the column is {expected}"),
            ))
        };
    if typmod >= 1 && typmod as u32 != index.meta.dim {
        return differs("dim", &index.meta.dim, &typmod);
    }
    let class = crate::am::OpClass::of_code(code).ok();
    if class.is_some_and(|class| class.kind() != index.form.kind()) {
        let kind = index.form.kind().name();
        return differs("kind of its rows", &kind, &"another");
    }
    if (code % UNITS) as u32 != index.meta.metric {
        return differs("metric", &index.meta.metric, &(code % UNITS));
    }
    Ok(())
}
