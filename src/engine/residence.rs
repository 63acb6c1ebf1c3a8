//! Hot tiers come and go: because a search wants it, or because the user says so.

use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_ivf::index::{Index, read_entries};
use omen_service::message::TierKey;
use pgrx::PgSqlErrorCode;

use super::choice;
use super::service_tiers::{self, Serving, who_serves};
use super::tiers::{self, Device, Stop};
use crate::compat::FileId;
use crate::error::{PgError, Result};
use crate::gpu_service::loading::Fit;
use crate::gpu_service::{Service, session};
use crate::guc::{self, EngineSetting};
use crate::options::{self, Hot};
use crate::storage::IndexPages;

/// Longest wait for the shared service to evict.
const EVICTION_TIME: Duration = Duration::from_secs(10);

/// A user's wish to load waits so long for other loads.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Loads the tier of an index, in place of the one that is there, or brings that up to date; or maps the shared service's.
pub(super) fn load_tier(
    device: &mut Device,
    pages: &IndexPages,
    index: &Index,
) -> std::result::Result<(), Stop> {
    let file = pages.file();
    // A refresh that fails for want of memory or room is made up for by a load.
    if !device.map(pages, index, file)? && !matches!(device.refresh(pages, index, file), Ok(true)) {
        device.load(pages, index, file)?;
    }
    device.note_loaded(file);
    choice::note_loaded(file);
    if let Some(loaded) = device.tier(file, index) {
        loaded.goes_last = options::hot_of(pages) == Hot::On;
    }
    Ok(())
}

/// Loads the tier of the index `name` now, unless all of it is there, rows included, as the index is. Returns its bytes of device memory.
/// Of the shared service, which has it for others too, an owner has it loaded anew, and in place of tiers that go last, others only if it is not
/// there, and beside these.
/// Errors: searches may not use the GPU, or it cannot hold the tier.
pub(crate) fn load(pages: &IndexPages, index: &Index, name: &str, is_owner: bool) -> Result<u64> {
    let unwanted = |why: String, hint: String| {
        let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
        Err(PgError::new(code, why).with_hint(hint))
    };
    if guc::engine() == EngineSetting::Cpu {
        return unwanted(
            "omen.engine = cpu keeps this session from the GPU".into(),
            "SET omen.engine = auto.".into(),
        );
    }
    if options::hot_of(pages) == Hot::Off {
        return unwanted(
            format!("option hot = off keeps index \"{name}\" from the GPU"),
            format!("ALTER INDEX \"{name}\" SET (hot = auto)."),
        );
    }
    if let Some(why) = index.cpu_only() {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("index \"{name}\" cannot be loaded into GPU memory: {why}"),
        )
        .with_hint("Searches of it use the CPU."));
    }
    if let (Serving::Service(service), false) = (who_serves(), pages.is_temporary()) {
        let key = service_tiers::key_of(pages, index);
        let fit = if is_owner { Fit::Asked } else { Fit::Best };
        return match service_tiers::load_in_turn(
            service,
            pages,
            index,
            &key,
            fit,
            is_owner,
            LONGEST_WAIT,
        ) {
            Ok(()) => Ok(service.control.tier_bytes(&key).unwrap_or(0)),
            Err(Stop::Query(error)) => Err(error),
            Err(Stop::Gpu(error) | Stop::Paused(error)) => Err(not_loaded(name, &error)),
        };
    }
    let lists: Vec<u32> = (0..index.n_lists()).collect();
    let entries = read_entries(pages, index, &lists)?;
    let (file, bytes) = (pages.file(), |device: &mut Device| {
        device
            .tier(pages.file(), index)
            .map_or(0, |loaded| loaded.tier.bytes())
    });
    let outcome = tiers::with(|device| {
        device.follow_settings();
        let is_current = device.tier(file, index).is_some_and(|loaded| {
            let mut current = lists.iter().zip(&entries);
            loaded.tier.parts().rows()
                && current.all(|(&list, entry)| {
                    let here = loaded.tier.current(list, entry);
                    here.is_some_and(|here| here.appended.n_lacking(index, entry) == 0)
                })
        });
        if !is_current {
            device.renew_mapped(pages, index, LONGEST_WAIT)?;
            load_tier(device, pages, index)?;
        }
        Ok(bytes(device))
    });
    match outcome {
        Ok(bytes) => Ok(bytes),
        Err(Stop::Query(error)) => Err(error),
        Err(Stop::Gpu(error) | Stop::Paused(error)) => {
            tiers::with(|device| device.note_failure(file, &error));
            Err(not_loaded(name, &error))
        }
    }
}

/// Frees the tier of one index, or of all. Returns the bytes of device memory that gives.
pub(crate) fn evict(file: Option<FileId>) -> u64 {
    tiers::with(|device| {
        let before = device.tier_bytes();
        match file {
            Some(file) => drop(device.tiers.remove(&file)),
            None => device.tiers.clear(),
        }
        before - device.tier_bytes()
    })
}

/// As [`evict`], of the shared service, which serves other sessions too; `key` of the index, or all. Errors: the service does not do so in time.
pub(crate) fn evict_shared(service: &Service, key: Option<&TierKey>) -> Result<u64> {
    let control = service.control;
    let before = control.all_tier_bytes();
    let until = Instant::now() + EVICTION_TIME;
    let mut is_asked = false;
    while !is_asked || control.wants_eviction() {
        is_asked = is_asked || control.ask_to_evict(key);
        service.wake_worker();
        if !session::is_up(service) {
            return Ok(before);
        }
        if Instant::now() > until {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
                "the GPU service does not answer",
            )
            .with_hint("See omen_stat_gpu."));
        }
        session::doze();
    }
    Ok(before.saturating_sub(control.all_tier_bytes()))
}

fn not_loaded(name: &str, error: &GpuError) -> PgError {
    let (code, hint) = match error {
        GpuError::OutOfMemory { .. } => (
            PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            "Free memory with omen_evict(), or raise omen.gpu_memory_limit.",
        ),
        GpuError::NoDriver | GpuError::NoDevice => (
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "Searches use the CPU. See omen_gpu_status().",
        ),
        GpuError::Unsupported(_) => (
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "See omen_gpu_status().",
        ),
        _ => (
            PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
            "See omen_gpu_status().",
        ),
    };
    PgError::new(
        code,
        format!("could not load index \"{name}\" into GPU memory: {error}"),
    )
    .with_hint(hint)
}
