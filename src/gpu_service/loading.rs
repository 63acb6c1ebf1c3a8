//! A session has the service load a tier: the session reads the index's pages, the worker writes what it reads to the device.

use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_ivf::index::Index;
use omen_service::load::{Wanted, begin, finish};
use omen_service::message::TierKey;

use super::memory::Service;
use super::{session, wake};
use crate::engine::load::{Choice, copiers_for};
use crate::engine::service_tiers;
use crate::engine::tiers::Stop;
use crate::storage::IndexPages;

/// The worker takes over a tier that has been loaded within this time.
const TAKEOVER: Duration = Duration::from_secs(5);

/// Loads the tier of an index into the service's memory, with `again` in place of one that is there. Errors: `Busy` while another session loads,
/// `OutOfMemory`, `Interrupted`, `Lost`, and those of reading the index. Should the user cancel, the service keeps nothing of it.
pub(crate) fn load(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    again: bool,
) -> Result<(), Stop> {
    let outcome = load_now(service, pages, index, key, again);
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
    Ok(choice.lists.len() == choice.spec.n_lists && choice.plan.bytes_needed() <= limit)
}

fn load_now(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    again: bool,
) -> Result<(), Stop> {
    session::release_at_exit();
    let room = service.load.room()?;
    // Answers name entries by their tids, which codes alone do not have.
    let Choice {
        spec,
        parts,
        lists,
        plan,
    } = Choice::new(pages, index, room.limit, false)?;
    if plan.bytes_needed() > room.limit {
        return Err(GpuError::OutOfMemory {
            needed: plan.bytes_needed(),
            available: room.limit,
        }
        .into());
    }
    let wanted = Wanted {
        key: *key,
        spec,
        parts,
        n_slots: plan.n_slots as u64,
        byte_limit: room.limit,
    };
    // Should the user cancel within, what unwinds drops the load. The worker may sleep while a thread of it wants something.
    let check = || {
        pgrx::check_for_interrupts!();
        if let Some(service) = super::service() {
            service.wake_worker();
        }
        Ok(())
    };
    // Another may have loaded it while this session looked at the index.
    if service.load.owner().is_some() {
        return Err(GpuError::Busy.into());
    }
    if !again && service.control.has_tier(key) {
        return Ok(());
    }
    let (copiers, me) = (copiers_for(&plan), wake::my_number());
    service
        .control
        .note_relation(key, pages.relation().to_u32());
    let mut builder = begin(&service.load, me, wanted, copiers, Box::new(check))?;
    // Should reading end in an error of Postgres, the builder is dropped as the stack unwinds, which cancels the load.
    builder.load_centroids(pages, index)?;
    builder.load_lists(pages, index, &lists)?;
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
