//! `omen_stat_gpu`: the shared GPU service, since the server was started or `omen_stat_reset()`.

use std::sync::atomic::Ordering;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::engine::fallback::REASONS;
use crate::gpu_service::control::{State, get};
use crate::gpu_service::service;

/// Has the figures of `omen_stat_gpu`, `omen_stat_gpu_fallbacks` and `omen_stat_index` count from zero again.
#[pg_extern(sql = false)]
fn omen_stat_reset() {
    if let Some(service) = service() {
        service.control.reset_figures();
        service.indexes.reset();
    }
}

/// Rounds that the CPU answered in the service's place, by reason; no rows if the library was not preloaded.
#[pg_extern(sql = false)]
fn omen_stat_get_gpu_fallbacks()
-> TableIterator<'static, (name!(reason, String), name!(fallbacks, i64))> {
    let rows = service().into_iter().flat_map(|service| {
        let counted = REASONS.iter().zip(&service.control.fallbacks);
        counted.map(|(reason, n)| (reason.to_string(), get(n) as i64))
    });
    TableIterator::new(rows)
}

/// One row, none if the library was not preloaded. Times are microseconds.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn omen_stat_get_gpu() -> TableIterator<
    'static,
    (
        name!(pid, Option<i32>),
        name!(state, String),
        name!(device, Option<i32>),
        name!(up_since, Option<TimestampWithTimeZone>),
        name!(starts, i64),
        name!(batches, i64),
        name!(searches, i64),
        name!(max_batch, i64),
        name!(queued, i64),
        name!(queue_slots, i64),
        name!(queue_slots_used, i64),
        name!(busy_us, i64),
        name!(device_us, i64),
        name!(refused, i64),
        name!(abandoned, i64),
        name!(timeouts, i64),
        name!(failed_batches, i64),
        name!(loads, i64),
        name!(refreshes, i64),
        name!(loaders, i64),
        name!(loaders_refused, i64),
        name!(failed_loads, i64),
        name!(hot_tiers, i64),
        name!(hot_bytes, i64),
        name!(mappings, i64),
        name!(retired_bytes, i64),
        name!(breaker, String),
    ),
> {
    let row = service().map(|service| {
        let (control, queue) = (service.control, &service.queue);
        let state = control.state();
        let is_up = state == State::Up;
        let figure = |figure| get(figure) as i64;
        let up_since = control.up_since.load(Ordering::Relaxed);
        let pid = control.pid.load(Ordering::Relaxed) as i32;
        (
            (state == State::Opening || is_up || control.is_stuck()).then_some(pid),
            state.name().to_owned(),
            is_up.then_some(control.device()),
            is_up
                .then(|| TimestampWithTimeZone::try_from(up_since).ok())
                .flatten(),
            i64::from(control.starts.load(Ordering::Relaxed)),
            figure(&control.batches),
            figure(&control.searches),
            figure(&control.max_batch),
            queue.n_ready() as i64,
            queue.n_slots() as i64,
            queue.n_used() as i64,
            figure(&control.busy_us),
            figure(&control.device_us),
            figure(&control.refused),
            figure(&control.abandoned),
            figure(&control.timeouts),
            figure(&control.failures),
            figure(&control.loads),
            figure(&control.refreshes),
            figure(&control.loaders.n_started),
            figure(&control.loaders.n_refused),
            figure(&control.loaders.n_failed),
            figure(&control.n_tiers),
            control.all_tier_bytes() as i64,
            control.mappings.n() as i64,
            figure(&control.retired_bytes),
            control.breaker.state().to_owned(),
        )
    });
    TableIterator::new(row)
}
