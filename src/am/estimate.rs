//! What a build will take: time, memory, bytes; from a look at the table and a small measurement of this machine.
#![allow(unsafe_code)]

mod model;
mod speed;

use omen_ivf::form::{coarse_dim, cpu_only, max_dim, row_words};
use omen_ivf::layout::group::GroupShape;
use omen_ivf::layout::size::index_size;
use omen_ivf::params::MAX_LISTS;
use omen_ivf::store::PAGE_BYTES;
use pgrx::{PgSqlErrorCode, pg_sys};

use self::model::Build;
use self::speed::Speed;
use super::heap_rows::HeapRows;
use super::opclass::OpClass;
use super::random::Random;
use super::sample_blocks::Density;
use super::{build, build_workers, sample};
use crate::engine::building::{self, Work};
use crate::error::{PgError, Result};
use crate::threads;

/// What is expected of a build.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Estimate {
    /// Rows in the index.
    pub rows: u64,
    /// Lists.
    pub lists: u32,
    /// Parallel workers that read the table, if they are free.
    pub workers: usize,
    /// What trains and assigns.
    pub engine: &'static str,
    /// Seconds from begin to end.
    pub seconds: f64,
    /// Most memory at a time, in bytes, of the process and its workers.
    pub memory_bytes: u64,
    /// Most memory on the device, in bytes.
    pub device_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Bytes of WAL.
    pub wal_bytes: u64,
}

/// Of an index of the default class `class` on column number `column` of `table`, with `lists` lists (0: by the number of rows).
///
/// Errors: the column has no dimensions, and there is no row to take them from; a damaged value.
///
/// # Safety
/// `table` is open, with its lock, and has pages; the column is of the type of `class`.
pub(crate) unsafe fn estimate(
    table: pg_sys::Relation,
    class: OpClass,
    column: i16,
    lists_option: u32,
) -> Result<Estimate> {
    // SAFETY: by this function's contract. What a build needs to know of the index that is to come is zero, but for what is set. Snapshots
    // decide which rows count, as for CONCURRENTLY: others go on writing. The table stands for the index, whose relation is looked at for
    // its expressions alone.
    let (rows, typmod) = unsafe {
        let info = pg_sys::palloc0(size_of::<pg_sys::IndexInfo>()).cast::<pg_sys::IndexInfo>();
        (*info).type_ = pg_sys::NodeTag::T_IndexInfo;
        (*info).ii_NumIndexAttrs = 1;
        (*info).ii_NumIndexKeyAttrs = 1;
        (*info).ii_IndexAttrNumbers[0] = column;
        (*info).ii_Concurrent = true;
        let (mut type_id, mut typmod, mut collation) = (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
        let id = (*table).rd_id;
        pg_sys::get_atttypetypmodcoll(id, column, &mut type_id, &mut typmod, &mut collation);
        // As of a column, or as its domain has it.
        pg_sys::getBaseTypeAndTypmod(type_id, &mut typmod);
        (HeapRows::new(table, table, info, class), typmod)
    };
    let mut random = Random::from_clock();
    let n_blocks = rows.n_blocks();
    let density = Density::measure(&rows, n_blocks, &mut random);
    let n_rows = (density.mean * f64::from(n_blocks)).round() as u64;
    let kind = class.kind();
    let known = (1..=max_dim(kind) as i32)
        .contains(&typmod)
        .then_some(typmod as u32);
    let read = speed::of_reading(&rows, class, n_blocks, known, &mut random)?;
    let dim = read.dim.ok_or_else(|| {
        PgError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "column does not have dimensions",
        )
        .with_hint(format!(
            "Give the column a dimension, as in {}, or ask again when the table has rows.",
            class.type_example()
        ))
    })?;
    let wanted = sample::wanted_lists(lists_option, n_rows);
    // SAFETY: settings are read on the main thread; the relation is open.
    let (work_bytes, workers, needs_wal) = unsafe {
        let work_bytes = build::work_bytes() as u64;
        let persistence = (*(*table).rd_rel).relpersistence as u8;
        // At this level a new file is flushed in place of being logged.
        let minimal = pg_sys::WalLevel::WAL_LEVEL_MINIMAL as i32;
        let is_logged = pg_sys::wal_level > minimal;
        (
            work_bytes,
            build_workers::planned_workers(&rows),
            is_logged && persistence == pg_sys::RELPERSISTENCE_PERMANENT,
        )
    };
    let values = sample::Values { kind, dim };
    let sampled = sample::planned_rows(lists_option, n_rows, values, work_bytes);
    let lists = wanted.min(sampled.min(n_rows).max(1) as u32);
    let filter = build::filter_of(class, dim);
    let shape = GroupShape::new(filter, coarse_dim(kind, dim));
    let row_words = read.row_words.unwrap_or_else(|| row_words(kind, dim));
    let size = index_size(n_rows, lists, row_words, coarse_dim(kind, dim), shape);
    let index_bytes = size.pages * PAGE_BYTES as u64;
    // An image of what is used of each page, in records of up to 32.
    let wal_bytes = if needs_wal { size.used_bytes } else { 0 };
    let work = Work {
        dim: coarse_dim(kind, dim) as usize,
        lists: lists as usize,
        n_sampled: sampled.min(n_rows) as usize,
        n_rows,
    };
    let gpu = building::would_use_gpu(&work, threads::count(), index_bytes);
    let has_gpu = gpu.is_some();
    let build = Build {
        has_gpu,
        is_loaded: gpu == Some(true) && cpu_only(kind, class.metric).is_none(),
        n_rows,
        kind,
        filter,
        row_words,
        input_words: values.words() as u32,
        coarse_dim: coarse_dim(kind, dim),
        lists,
        workers,
        // SAFETY: the relation is open.
        writers: unsafe { build_workers::planned_writers(&rows, size.pages) },
        sampled: sampled.min(n_rows),
        work_bytes,
        index_bytes,
        wal_bytes,
    };
    let speed = Speed::measure(
        coarse_dim(kind, dim) as usize,
        (kind, row_words),
        shape,
        lists as usize,
        read.seconds,
        &threads::pool()?,
        &mut random,
    );
    Ok(Estimate {
        rows: n_rows,
        lists,
        workers,
        engine: if has_gpu { "gpu" } else { "cpu" },
        seconds: build.seconds(&speed),
        memory_bytes: build.memory(),
        device_bytes: if has_gpu { build.device(&work) } else { 0 },
        index_bytes,
        wal_bytes,
    })
}

/// Numbers of a row's code.
fn code_bits(shape: GroupShape) -> f64 {
    f64::from(shape.code_dim) * shape.filter.bits() as f64
}

/// The `lists` option as an argument. Errors: out of range.
pub(crate) fn check_lists(lists: i32) -> Result<u32> {
    let most = MAX_LISTS as i32;
    if (0..=most).contains(&lists) {
        return Ok(lists as u32);
    }
    Err(PgError::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("lists must be from 0 to {most}, not {lists}"),
    )
    .with_hint("0 chooses by the number of rows."))
}
