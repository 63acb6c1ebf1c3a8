//! `omen_gpu_status()`: the devices of this machine, and what this session has on them.

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::engine::{stats, status};
use crate::threads;

type Row = (
    Option<i32>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    i64,
    i64,
    i64,
    i64,
    String,
    Option<String>,
);

/// One row per device, or one that says why there is none. Creates no context: memory in use is known only once this
/// session has searched on the device.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn omen_gpu_status() -> TableIterator<
    'static,
    (
        name!(device, Option<i32>),
        name!(name, Option<String>),
        name!(compute_capability, Option<String>),
        name!(driver_version, Option<String>),
        name!(memory_total, Option<i64>),
        name!(memory_used, Option<i64>),
        name!(hot_tier_bytes, i64),
        name!(hot_tiers, i64),
        name!(searches, i64),
        name!(fallbacks, i64),
        name!(state, String),
        name!(reason, Option<String>),
    ),
> {
    TableIterator::new(rows())
}

fn rows() -> Vec<Row> {
    let session = status::device_status();
    let counters = stats::counters();
    let fallbacks: u64 = counters.fallbacks.values().sum();
    let reasons = || {
        let counted: Vec<String> = counters
            .fallbacks
            .iter()
            .map(|(reason, n)| format!("{reason}: {n}"))
            .collect();
        (!counted.is_empty()).then(|| format!("fallbacks of this session: {}", counted.join(", ")))
    };
    // Of the device this session uses.
    let mine = |total: Option<i64>,
                row: (Option<i32>, Option<String>, Option<String>, Option<String>)| {
        let used = session
            .memory
            .map(|(free, total)| total.saturating_sub(free) as i64);
        let (state, reason) = match (&session.paused, session.memory) {
            (Some(why), _) => ("unusable", Some(why.clone())),
            (None, Some(_)) => ("in use", reasons()),
            (None, None) => ("available", reasons()),
        };
        let (device, name, capability, driver) = row;
        (
            device,
            name,
            capability,
            driver,
            total,
            used,
            session.tier_bytes as i64,
            session.n_tiers as i64,
            counters.gpu as i64,
            fallbacks as i64,
            state.to_owned(),
            reason,
        )
    };
    if session.simulated {
        let total = session.memory.map(|(_, total)| total as i64);
        return vec![mine(total, (Some(0), Some("simulated".into()), None, None))];
    }
    let devices = match threads::with_signals_blocked(omen_gpu::devices) {
        Ok(devices) => devices,
        Err(error) => {
            let why = Some(error.to_string());
            let state = "unusable".to_owned();
            return vec![(
                None,
                None,
                None,
                None,
                None,
                None,
                0,
                0,
                0,
                fallbacks as i64,
                state,
                why,
            )];
        }
    };
    let chosen = status::device_number(devices.len());
    let describe = |(i, info): (usize, omen_gpu::DeviceInfo)| {
        let (major, minor) = info.capability;
        let driver = format!(
            "CUDA {}.{}",
            info.driver_version / 1000,
            info.driver_version % 1000 / 10
        );
        let total = Some(info.memory_bytes as i64);
        let row = (
            Some(info.ordinal),
            Some(info.name),
            Some(format!("{major}.{minor}")),
            Some(driver),
        );
        if info.arch.is_none() {
            let why = format!("compute capability {major}.{minor} is below 7.0");
            let (device, name, capability, driver) = row;
            let state = "unusable".to_owned();
            return (
                device,
                name,
                capability,
                driver,
                total,
                None,
                0,
                0,
                0,
                0,
                state,
                Some(why),
            );
        }
        if i == chosen {
            return mine(total, row);
        }
        let (device, name, capability, driver) = row;
        let why = Some("used by other sessions".to_owned());
        (
            device,
            name,
            capability,
            driver,
            total,
            None,
            0,
            0,
            0,
            0,
            "available".to_owned(),
            why,
        )
    };
    devices.into_iter().enumerate().map(describe).collect()
}
