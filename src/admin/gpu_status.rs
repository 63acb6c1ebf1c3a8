//! `omen_gpu_status()`: the devices of this machine, and what this session has on them.

use omen_gpu::DeviceInfo;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::engine::{devices, stats, status};
use crate::threads;

/// What a row says of the device itself.
#[derive(Default)]
struct Device {
    number: Option<i32>,
    name: Option<String>,
    capability: Option<String>,
    arch: Option<String>,
    driver: Option<String>,
    memory_total: Option<i64>,
}

/// What a row says of this session's use of it.
#[derive(Default)]
struct Use {
    memory_used: Option<i64>,
    tier_bytes: i64,
    n_tiers: i64,
    searches: i64,
    fallbacks: i64,
    state: &'static str,
    reason: Option<String>,
}

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
        name!(arch, Option<String>),
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
    TableIterator::new(rows().into_iter().map(|(device, used)| {
        (
            device.number,
            device.name,
            device.capability,
            device.arch,
            device.driver,
            device.memory_total,
            used.memory_used,
            used.tier_bytes,
            used.n_tiers,
            used.searches,
            used.fallbacks,
            used.state.to_owned(),
            used.reason,
        )
    }))
}

fn rows() -> Vec<(Device, Use)> {
    let session = status::device_status();
    if session.simulated {
        let device = Device {
            number: Some(devices::SIMULATED),
            name: Some("simulated".into()),
            memory_total: session.memory.map(|(_, total)| total as i64),
            ..Device::default()
        };
        let used = match devices::choose(&session.allowed, &[devices::SIMULATED]) {
            Ok(_) => used_by_us(&session),
            Err(why) => unusable(why.to_string()),
        };
        return vec![(device, used)];
    }
    let found = match threads::with_signals_blocked(omen_gpu::devices) {
        Ok(found) => found,
        Err(error) => return vec![(Device::default(), unusable(error.to_string()))],
    };
    let chosen = devices::chosen_device(&session.allowed, &found).ok();
    let row = |info: DeviceInfo| {
        let used = if info.arch.is_none() {
            let (major, minor) = info.capability;
            let why = format!("compute capability {major}.{minor} is below 7.0");
            unusable(why)
        } else if Some(info.ordinal) == chosen {
            used_by_us(&session)
        } else {
            let why = if session.allowed.contains(info.ordinal) {
                "used by other sessions"
            } else {
                "not in omen.gpu_devices"
            };
            Use {
                state: "available",
                reason: Some(why.into()),
                ..Use::default()
            }
        };
        (describe(info), used)
    };
    found.into_iter().map(row).collect()
}

fn describe(info: DeviceInfo) -> Device {
    let (major, minor) = info.capability;
    Device {
        number: Some(info.ordinal),
        name: Some(info.name),
        capability: Some(format!("{major}.{minor}")),
        arch: info.arch,
        driver: Some(format!(
            "CUDA {}.{}",
            info.driver_version / 1000,
            info.driver_version % 1000 / 10
        )),
        memory_total: Some(info.memory_bytes as i64),
    }
}

/// Of the device this session uses.
fn used_by_us(session: &status::DeviceStatus) -> Use {
    let counters = stats::counters();
    let counted: Vec<String> = counters
        .fallbacks
        .iter()
        .map(|(reason, n)| format!("{reason}: {n}"))
        .collect();
    let reasons =
        (!counted.is_empty()).then(|| format!("fallbacks of this session: {}", counted.join(", ")));
    let (state, reason) = match (&session.paused, session.memory) {
        (Some(why), _) => ("unusable", Some(why.clone())),
        (None, Some(_)) => ("in use", reasons),
        (None, None) => ("available", reasons),
    };
    Use {
        memory_used: session
            .memory
            .map(|(free, total)| total.saturating_sub(free) as i64),
        tier_bytes: session.tier_bytes as i64,
        n_tiers: session.n_tiers as i64,
        searches: counters.gpu as i64,
        fallbacks: counters.fallbacks.values().sum::<u64>() as i64,
        state,
        reason,
    }
}

fn unusable(why: String) -> Use {
    Use {
        fallbacks: stats::counters().fallbacks.values().sum::<u64>() as i64,
        state: "unusable",
        reason: Some(why),
        ..Use::default()
    }
}
