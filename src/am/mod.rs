//! The index access method `omen`: what it can do, and its callbacks, one verb a file.
//!
//! Callbacks keep Postgres's names. Each is the outermost Rust frame: it raises what comes back as `Err` after all
//! destructors have run.
#![allow(unsafe_code)]

mod assign_thread;
mod build;
mod build_workers;
mod calibration;
mod cost;
mod entry_sink;
mod entry_sort;
pub(crate) mod estimate;
mod heap_end;
mod heap_rows;
mod insert;
mod opclass;
mod ordered;
mod parallel;
mod parallel_read;
mod parallel_write;
mod progress;
mod random;
mod reorder;
mod row_values;
mod sample;
mod sample_blocks;
mod sample_workers;
mod scan;
pub(crate) mod table_rows;
mod unordered;
mod vacuum;
mod validate;

pub(crate) use heap_end::{HeapEnd, is_heap};
pub(crate) use heap_rows::HeapRows;
pub(crate) use opclass::OpClass;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::PgError;

/// Everything Postgres asks of an access method, unused members included. Members of later majors are marked.
static ROUTINE: pg_sys::IndexAmRoutine = pg_sys::IndexAmRoutine {
    type_: pg_sys::NodeTag::T_IndexAmRoutine,
    amstrategies: opclass::STRATEGY,
    amsupport: crate::storage::SUPPORT_PROC,
    amoptsprocnum: 0,
    amcanorder: false,
    amcanorderbyop: true,
    #[cfg(feature = "pg18")]
    amcanhash: false,
    #[cfg(feature = "pg18")]
    amconsistentequality: false,
    #[cfg(feature = "pg18")]
    amconsistentordering: false,
    amcanbackward: false,
    amcanunique: false,
    amcanmulticol: false,
    // A scan needs no WHERE clause on the column.
    amoptionalkey: true,
    amsearcharray: false,
    amsearchnulls: false,
    amstorage: false,
    amclusterable: false,
    // Postgres takes predicate locks on the whole index.
    ampredlocks: false,
    amcanparallel: false,
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    amcanbuildparallel: false,
    amcaninclude: false,
    amusemaintenanceworkmem: false,
    #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
    amsummarizing: false,
    amparallelvacuumoptions: (pg_sys::VACUUM_OPTION_PARALLEL_BULKDEL
        | pg_sys::VACUUM_OPTION_PARALLEL_CLEANUP) as u8,
    amkeytype: pg_sys::InvalidOid,
    ambuild: Some(build::ambuild),
    ambuildempty: Some(build::ambuildempty),
    aminsert: Some(insert::aminsert),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    aminsertcleanup: None,
    ambulkdelete: Some(vacuum::ambulkdelete),
    amvacuumcleanup: Some(vacuum::amvacuumcleanup),
    amcanreturn: None,
    amcostestimate: Some(cost::amcostestimate),
    #[cfg(feature = "pg18")]
    amgettreeheight: None,
    amoptions: Some(amoptions),
    amproperty: None,
    ambuildphasename: Some(progress::ambuildphasename),
    amvalidate: Some(validate::amvalidate),
    amadjustmembers: None,
    ambeginscan: Some(scan::ambeginscan),
    amrescan: Some(scan::amrescan),
    amgettuple: Some(scan::amgettuple),
    amgetbitmap: None,
    amendscan: Some(scan::amendscan),
    ammarkpos: None,
    amrestrpos: None,
    amestimateparallelscan: None,
    aminitparallelscan: None,
    amparallelrescan: None,
    #[cfg(feature = "pg18")]
    amtranslatestrategy: None,
    #[cfg(feature = "pg18")]
    amtranslatecmptype: None,
};

/// Handler function of `CREATE ACCESS METHOD omen`.
#[pg_extern(sql = false)]
fn omen_handler(_fcinfo: pg_sys::FunctionCallInfo) -> PgBox<pg_sys::IndexAmRoutine> {
    // SAFETY: allocates a node of this type in the current memory context, and fills all of it.
    unsafe {
        let mut routine =
            PgBox::<pg_sys::IndexAmRoutine>::alloc_node(pg_sys::NodeTag::T_IndexAmRoutine);
        *routine = ROUTINE;
        routine.into_pg_boxed()
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn amoptions(
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    // SAFETY: Postgres passes what `parse` expects.
    unsafe { crate::options::parse(reloptions, validate) }
}

/// Dimension of the indexed column or expression: its type modifier.
///
/// # Safety
/// `index` is open.
pub(crate) unsafe fn column_dim(index: pg_sys::Relation) -> crate::error::Result<u32> {
    // SAFETY: by this function's contract.
    let (typmod, class) = unsafe { (crate::storage::column_typmod(index), OpClass::of(index)?) };
    if typmod < 1 {
        let (example, name) = (class.type_example(), class.default_name());
        return Err(PgError::new(
            pgrx::PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "column does not have dimensions",
        )
        .with_hint(format!(
            "Give the column a dimension, as in {example}, or index an expression: ((column::{example}) {name})."
        )));
    }
    check_max_dim(class, typmod as u32)?;
    Ok(typmod as u32)
}

/// Errors: more dimensions than indexes of this class have.
fn check_max_dim(class: OpClass, dim: u32) -> crate::error::Result<()> {
    let most = omen_ivf::form::max_dim(class.kind());
    if dim <= most {
        return Ok(());
    }
    Err(PgError::new(
        pgrx::PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        format!("column cannot have more than {most} dimensions for omen index"),
    ))
}

/// The heap address in Postgres's form.
pub(crate) fn tid_of(tid: omen_ivf::Tid) -> pg_sys::ItemPointerData {
    pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData {
            bi_hi: (tid.block >> 16) as u16,
            bi_lo: (tid.block & 0xFFFF) as u16,
        },
        ip_posid: tid.offset as u16,
    }
}

/// The heap address in ours.
pub(crate) fn tid_from(tid: &pg_sys::ItemPointerData) -> omen_ivf::Tid {
    let block = u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo);
    omen_ivf::Tid::new(block, tid.ip_posid)
}

/// Whether an open index belongs to this access method.
///
/// # Safety
/// `rel` is an open index.
pub(crate) unsafe fn is_ours(rel: pg_sys::Relation) -> bool {
    // SAFETY: by this function's contract; the name is null or a string in the current memory context.
    unsafe {
        let name = pg_sys::get_am_name((*(*rel).rd_rel).relam);
        !name.is_null() && core::ffi::CStr::from_ptr(name) == c"omen"
    }
}
