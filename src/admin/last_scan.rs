//! `omen_last_scan()`: what the last index scan, or batch, of this session did.

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::engine::stats;

/// One row, or none before the first scan. Times are microseconds.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn omen_last_scan() -> TableIterator<
    'static,
    (
        name!(index, Option<pg_sys::Oid>),
        name!(queries, i64),
        name!(engine, String),
        name!(lists, i32),
        name!(probes, i32),
        name!(k, i64),
        name!(rounds, i64),
        name!(rows_returned, i64),
        name!(candidates, i64),
        name!(reranked, i64),
        name!(late, i64),
        name!(restarts, i64),
        name!(select_us, i64),
        name!(cpu_us, i64),
        name!(gpu_us, i64),
        name!(load_us, i64),
        name!(total_us, i64),
        name!(fallback_reason, Option<String>),
    ),
> {
    let row = stats::last().map(|scan| {
        let micros = |d: std::time::Duration| d.as_micros() as i64;
        (
            Some(pg_sys::Oid::from(scan.relation)),
            scan.queries.max(1) as i64,
            scan.engine.name().to_owned(),
            scan.lists as i32,
            scan.probes as i32,
            scan.k as i64,
            scan.rounds as i64,
            scan.rows as i64,
            scan.candidates as i64,
            scan.reranked as i64,
            scan.late as i64,
            scan.restarts as i64,
            micros(scan.select),
            micros(scan.cpu),
            micros(scan.gpu),
            micros(scan.load),
            micros(scan.select + scan.cpu + scan.gpu + scan.load),
            scan.fallback,
        )
    });
    TableIterator::new(row)
}
