//! The one place where a failure of the GPU turns into work of the CPU.

use omen_gpu::GpuError;
use omen_ivf::index::Index;
use pgrx::PgLogLevel;

use super::devices;
use super::stats::{self, ScanRecord};
use super::tiers::{self, Device, Stop};
use crate::error::{PgError, Result};
use crate::gpu_service::Service;
use crate::gpu_service::control::{MAX_REASONS, add};
use crate::guc::{self, EngineSetting};
use crate::options::{self, Hot};
use crate::storage::IndexPages;

/// What an attempt on the GPU gives: an answer, or `None` where the CPU is to answer alone.
pub(super) type Attempt<T> = std::result::Result<Option<T>, Stop>;

/// Tries `attempt` on the session's GPU, if it may be used for this index now. `None`: the CPU is to answer alone. Fails only for
/// what ends the query.
pub(super) fn try_gpu<T>(
    pages: &IndexPages,
    index: &Index,
    record: &mut ScanRecord,
    attempt: impl FnOnce(&mut Device, EngineSetting, &mut ScanRecord) -> Attempt<T>,
) -> Result<Option<T>> {
    let setting = guc::engine();
    tiers::let_go_of_old();
    if setting == EngineSetting::Cpu || in_parallel_worker() {
        return Ok(None);
    }
    let (file, hot) = (pages.file(), options::hot_of(pages));
    let outcome = tiers::with(|device| {
        if hot == Hot::Off {
            device.tiers.remove(&file);
            return Ok(None);
        }
        match device
            .pause(file)
            .or_else(|| refusal(device, setting, index))
        {
            Some(why) => Err(Stop::Paused(why)),
            None => {
                let found = attempt(device, setting, record)?;
                device.check_mapping(file)?;
                Ok(found)
            }
        }
    });
    match outcome {
        Ok(found) => Ok(found),
        Err(Stop::Query(error)) => Err(error),
        Err(Stop::Gpu(error)) => {
            tiers::with(|device| device.note_failure(file, &error));
            fall_back(setting, &error, record);
            Ok(None)
        }
        Err(Stop::Paused(error)) => {
            fall_back(setting, &error, record);
            Ok(None)
        }
    }
}

/// As [`try_gpu`], by the shared service.
pub(super) fn try_service<T>(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    record: &mut ScanRecord,
    attempt: impl FnOnce(EngineSetting, &mut ScanRecord) -> Attempt<T>,
) -> Result<Option<T>> {
    let setting = guc::engine();
    service.note_option(pages);
    // Of a session that had a context of its own.
    tiers::let_go_of_old();
    if setting == EngineSetting::Cpu || options::hot_of(pages) == Hot::Off || pages.is_temporary() {
        return Ok(None);
    }
    let outcome = match service.pause().or_else(|| unsupported(index)) {
        Some(why) => Err(Stop::Paused(why)),
        None => attempt(setting, record),
    };
    match outcome {
        Ok(found) => Ok(found),
        Err(Stop::Query(error)) => Err(error),
        Err(Stop::Gpu(error) | Stop::Paused(error)) => {
            if fall_back(setting, &error, record) {
                add(&service.control.fallbacks[reason_of(&error)], 1);
            }
            Ok(None)
        }
    }
}

/// Why no device takes this index.
pub(super) fn unsupported(index: &Index) -> Option<GpuError> {
    let why = index.cpu_only()?;
    Some(GpuError::Unsupported(why.into()))
}

/// Why the session's device does not take this index: that there is none comes first. Who did not ask for a device is told of one that is there
/// already: to look for others would start a driver that a session of such indexes alone never needs.
fn refusal(device: &Device, setting: EngineSetting, index: &Index) -> Option<GpuError> {
    let why = unsupported(index)?;
    if device.is_open() {
        return Some(why);
    }
    if setting != EngineSetting::Gpu {
        return Some(GpuError::NoDevice);
    }
    Some(devices::find(&device.allowed, device.simulated).map_or_else(|absent| absent, |_| why))
}

/// Parallel workers live for one query: too short for a context of their own.
#[allow(unsafe_code)]
fn in_parallel_worker() -> bool {
    // SAFETY: reads a variable that is set when the process starts.
    unsafe { pgrx::pg_sys::ParallelWorkerNumber >= 0 }
}

/// Counts a failure by its reason, and tells of it the first time; false if it counts for nothing.
fn fall_back(setting: EngineSetting, error: &GpuError, record: &mut ScanRecord) -> bool {
    let counts = note(setting, error, "searches");
    if counts {
        record.fallback = Some(error.to_string());
    }
    counts
}

/// As [`fall_back`], of the build of an index.
pub(super) fn note_build(error: &GpuError) {
    note(guc::engine(), error, "builds an index");
}

fn note(setting: EngineSetting, error: &GpuError, does: &str) -> bool {
    let absent = matches!(error, GpuError::NoDriver | GpuError::NoDevice);
    if absent && setting == EngineSetting::Auto {
        // A machine without a GPU, and nobody asked for one.
        return false;
    }
    let reason = REASONS[reason_of(error)];
    if stats::count_fallback(reason) > 0 {
        return true;
    }
    let level = match setting {
        EngineSetting::Gpu => PgLogLevel::WARNING,
        _ => PgLogLevel::LOG,
    };
    PgError::new(
        pgrx::PgSqlErrorCode::ERRCODE_WARNING,
        format!("pg_omen {does} on the CPU: {error}"),
    )
    .with_hint(
        "Further occurrences in this session are counted, not reported; see omen_gpu_status().",
    )
    .report(level);
    true
}

/// Kinds of failures, as counted.
pub(crate) const REASONS: [&str; 10] = [
    "no driver",
    "no device",
    "out of memory",
    "not resident",
    "busy",
    "timed out",
    "interrupted",
    "lost",
    "unsupported",
    "other",
];

const _: () = assert!(REASONS.len() <= MAX_REASONS);

/// The kind of a failure: its place among `REASONS`.
fn reason_of(error: &GpuError) -> usize {
    match error {
        GpuError::NoDriver => 0,
        GpuError::NoDevice => 1,
        GpuError::OutOfMemory { .. } => 2,
        GpuError::NotResident(_) => 3,
        GpuError::Busy => 4,
        GpuError::TimedOut => 5,
        GpuError::Interrupted => 6,
        GpuError::Lost(_) => 7,
        GpuError::Unsupported(_) => 8,
        GpuError::Other(_) => 9,
    }
}
