//! What the view `omen_stat_index` shows of an index.

use omen_service::indexes::Hot;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::gpu_service::service;

/// One row, also for what is no omen index; none if the library was not preloaded.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn omen_stat_get_index(
    index: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(gpu_scans, i64),
        name!(cpu_scans, i64),
        name!(mixed_scans, i64),
        name!(fallbacks, i64),
        name!(search_calls, i64),
        name!(rows_returned, i64),
        name!(candidates, i64),
        name!(last_scan, Option<TimestampWithTimeZone>),
        name!(hot, bool),
        name!(hot_bytes, i64),
        name!(hot_lists, i64),
        name!(stale_lists, i64),
        name!(loads, i64),
        name!(last_load, Option<TimestampWithTimeZone>),
        name!(refreshes, i64),
    ),
> {
    let row = service().map(|service| {
        let figures = service.figures_of(index.to_u32());
        let Hot {
            bytes,
            lists,
            stale_lists,
        } = figures.hot;
        (
            figures.by_gpu as i64,
            figures.by_cpu as i64,
            figures.by_both as i64,
            figures.fallbacks as i64,
            figures.calls as i64,
            figures.rows as i64,
            figures.candidates as i64,
            time(figures.searched_at),
            bytes > 0,
            bytes as i64,
            lists as i64,
            stale_lists as i64,
            figures.loads as i64,
            time(figures.loaded_at),
            figures.refreshes as i64,
        )
    });
    TableIterator::new(row)
}

/// Microseconds as Postgres counts them; 0: never.
fn time(micros: i64) -> Option<TimestampWithTimeZone> {
    let known = (micros != 0).then_some(micros)?;
    TimestampWithTimeZone::try_from(known).ok()
}
