//! A process has the service load a tier: it reads the index's pages, the worker writes what it reads to the device.

use std::time::{Duration, Instant};

use omen_gpu::memory::{TierPlan, with_spare};
use omen_gpu::{GpuError, LoadError};
use omen_ivf::index::Index;
use omen_service::load::{Wanted, begin, finish};
use omen_service::message::TierKey;
use pgrx::PgSqlErrorCode;

use super::memory::Service;
use super::{session, wake};
use crate::engine::load::{Choice, copiers_for};
use crate::engine::service_tiers;
use crate::engine::tiers::Stop;
use crate::error::PgError;
use crate::guc::{self, Fault};
use crate::storage::IndexPages;

/// The worker takes over a tier that has been loaded within this time.
const TAKEOVER: Duration = Duration::from_secs(5);

/// How much of an index is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// What fits best, other tiers going where they must.
    Best,
    /// All of it.
    Whole,
    /// All of it, beside all other tiers.
    WholeBesideOthers,
}

/// Loads the tier of an index into the service's memory, in place of the one that is there. Errors: `Busy` while another session loads,
/// `OutOfMemory`, `Interrupted`, `Lost`, and those of reading the index. Should the user cancel, the service keeps nothing of it.
pub(crate) fn load(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    fit: Fit,
) -> Result<(), Stop> {
    let outcome = load_now(service, pages, index, key, fit);
    match &outcome {
        Ok(()) => service_tiers::note_load(pages.file(), None),
        Err(Stop::Gpu(error)) => service_tiers::note_load(pages.file(), Some(error)),
        Err(_) => {}
    }
    outcome
}

/// Whether all of an index fits what the service may take. Errors: `Lost` without a service.
pub(crate) fn fits_whole(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
) -> Result<bool, Stop> {
    let limit = service.load.room()?.limit;
    let choice = Choice::new(pages, index, limit, false)?;
    let plan = TierPlan::new(&choice.spec, choice.parts, with_spare(choice.n_slots))?;
    Ok(choice.lists.len() == choice.spec.n_lists && plan.bytes_needed() <= limit)
}

fn load_now(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    fit: Fit,
) -> Result<(), Stop> {
    session::release_at_exit();
    let room = service.load.room()?;
    // Answers name entries by their tids, which codes alone do not have.
    let Choice {
        spec,
        parts,
        lists,
        n_slots,
    } = Choice::new(pages, index, room.limit, false)?;
    let plan = TierPlan::new(&spec, parts, with_spare(n_slots))?;
    let available = match fit {
        Fit::Best | Fit::Whole => room.limit,
        Fit::WholeBesideOthers => room.limit.saturating_sub(room.used),
    };
    let needed = plan.bytes_needed();
    if needed > available {
        return Err(GpuError::OutOfMemory { needed, available }.into());
    }
    if fit != Fit::Best && lists.len() < spec.n_lists {
        return Err(GpuError::Unsupported("not all of the index fits".into()).into());
    }
    let wanted = Wanted {
        key: *key,
        spec,
        parts,
        n_slots: plan.n_slots as u64,
        byte_limit: room.limit,
    };
    let check = || match pgrx::pg_sys::elog::interrupt_pending() {
        true => Err(GpuError::Interrupted),
        false => Ok(()),
    };
    let (copiers, me) = (copiers_for(&plan), wake::my_number());
    let mut builder = begin(&service.load, me, wanted, copiers, Box::new(check))?;
    inject_faults()?;
    // Should reading end in an error of Postgres, the builder is dropped as the stack unwinds, which cancels the load.
    builder.load_centroids(pages, index).map_err(stop)?;
    builder.load_lists(pages, index, &lists).map_err(stop)?;
    finish(builder)?;
    let until = Instant::now() + TAKEOVER;
    service.wake_worker();
    while !service.control.has_tier(key) {
        if !session::is_up(service) {
            return Err(GpuError::Lost("the GPU service has ended".into()).into());
        }
        if Instant::now() > until {
            return Err(GpuError::TimedOut.into());
        }
        session::doze();
    }
    Ok(())
}

/// In test builds, loads may be told to fail, or to take until they are told otherwise.
fn inject_faults() -> Result<(), Stop> {
    if guc::inject_fault() == Fault::FailLoad {
        let code = PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
        return Err(Stop::Query(PgError::new(code, "injected fault")));
    }
    while guc::inject_fault() == Fault::SlowLoad {
        session::doze();
        // SAFETY: on the main thread; sessions read settings between statements, background workers whenever they like.
        unsafe {
            if !pgrx::pg_sys::MyBgworkerEntry.is_null() {
                pgrx::pg_sys::ProcessConfigFile(pgrx::pg_sys::GucContext::PGC_SIGHUP);
            }
        }
    }
    Ok(())
}

fn stop(error: LoadError) -> Stop {
    error.into()
}
