//! A process has the service load a tier: it reads the index's pages, the worker writes what it reads to the device.

use std::time::{Duration, Instant};

use omen_gpu::{Copiers, Export, GpuError, LoadError};
use omen_ivf::index::Index;
use omen_service::load::{Check, Room, Wanted, begin, begin_refresh, export, finish};
use omen_service::message::TierKey;
use rayon::ThreadPool;

use super::control::get;
use super::mappings::Mapping;
use super::memory::Service;
use super::{loader, session};
use crate::engine::load::{Choice, copiers_for, spec_of};
use crate::engine::refresh::{MAX_ROUNDS, write_stale};
use crate::engine::tiers::Stop;
use crate::guc::{self, Fault};
use crate::storage::IndexPages;
use crate::wake;

/// The worker takes over a tier that has been loaded within this time.
const TAKEOVER: Duration = Duration::from_secs(5);

/// How much of an index is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// What fits best, other tiers going where they must, those of `hot = on` too: the owner asks for it.
    Asked,
    /// What fits best, other tiers going where they must, but for those of `hot = on`.
    Best,
    /// All of its entries, likewise, by their codes alone where their rows do not fit.
    Whole,
    /// The same, beside all other tiers.
    WholeBesideOthers,
}

/// Whether all entries of an index fit what the service may take, by their codes alone if need be, beside the tiers that do not make way for it:
/// then no search needs to say which of its lists deserve the room. Errors: `Lost` without a service.
pub(crate) fn fits_whole(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
) -> Result<bool, Stop> {
    let limit = service.load.room()?.limit;
    let limit = limit.saturating_sub(service.last_bytes_beside(pages));
    // Without room for refreshes.
    let taken = limit;
    let choice = Choice::new(pages, index, limit, taken)?;
    Ok(choice.is_whole() && choice.plan.bytes_needed() <= limit)
}

/// Whether an index of which the service has codes alone gets its rows too if it is loaded anew, and no other tier has to go for them. Errors: as
/// for [`fits_whole`].
pub(super) fn may_get_rows(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
) -> Result<bool, Stop> {
    if !service.control.has_codes_alone(key) {
        return Ok(false);
    }
    let room = service.load.room()?;
    let limit = room.limit.saturating_sub(service.last_bytes_beside(pages));
    let free = room
        .limit
        .saturating_sub(bytes_of_others(service, &room, key));
    let choice = Choice::new(pages, index, limit, limit)?;
    Ok(choice.parts.rows() && choice.is_whole() && choice.plan.bytes_needed() <= free)
}

/// Bytes that tiers other than this one take.
fn bytes_of_others(service: &Service, room: &Room, key: &TierKey) -> u64 {
    let own = service.control.tier_bytes(key).unwrap_or(0);
    room.used.saturating_sub(own)
}

/// Loads the tier of an index into the service's memory, with `again` in place of one that is there. What becomes of it is for the caller to
/// note. Errors: `Busy` while another process loads, `OutOfMemory`, `Unsupported` if `fit` wants more than there is room for, `Interrupted`,
/// `Lost`, `TimedOut`, and those of reading the index. Should the user cancel, the service keeps nothing of it.
pub(crate) fn load(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    fit: Fit,
    again: bool,
) -> Result<(), Stop> {
    let room = service.load.room()?;
    match load_once(service, pages, index, key, fit, again) {
        // The worker has told what there is by now.
        Err(Stop::Gpu(GpuError::OutOfMemory { .. })) if service.load.room()? != room => {
            load_once(service, pages, index, key, fit, again)
        }
        outcome => outcome,
    }
}

fn load_once(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    fit: Fit,
    again: bool,
) -> Result<(), Stop> {
    session::release_at_exit();
    service.note_option(pages);
    let room = service.load.room()?;
    let kept = match fit {
        Fit::Asked => 0,
        _ => service.last_bytes_beside(pages),
    };
    let limit = room.limit.saturating_sub(kept);
    // What it replaces serves until then only where there is room for both anyway.
    let others = bytes_of_others(service, &room, key);
    let taken = others.saturating_sub(kept);
    let choice = Choice::new(pages, index, limit, taken)?;
    let available = match fit {
        Fit::Asked | Fit::Best | Fit::Whole => limit,
        Fit::WholeBesideOthers => room.limit.saturating_sub(others),
    };
    let needed = choice.plan.bytes_needed();
    if needed > available {
        return Err(GpuError::OutOfMemory { needed, available }.into());
    }
    let is_whole = matches!(fit, Fit::Whole | Fit::WholeBesideOthers);
    if is_whole && !choice.is_whole() {
        return Err(GpuError::Unsupported("not all of the index fits".into()).into());
    }
    let Choice {
        spec,
        parts,
        lists,
        plan,
        has_room,
    } = choice;
    let wanted = Wanted {
        key: *key,
        spec,
        parts,
        n_slots: plan.n_slots as u64,
        byte_limit: room.limit,
        displaces_last: fit == Fit::Asked,
    };
    // Another may have loaded it while this process looked at the index; who ends in between has let the tier be known.
    let is_busy = service.load.is_loading();
    if !again && service.control.has_tier(key) {
        return Ok(());
    }
    if is_busy {
        return Err(GpuError::Busy.into());
    }
    let (copiers, me) = (copiers_for(&plan), wake::my_number());
    let mut builder = begin(&service.load, me, wanted, copiers, check())?;
    inject_faults()?;
    if has_room {
        builder.align_lists();
    }
    // Should reading end in an error of Postgres, the builder is dropped as the stack unwinds, which cancels the load.
    builder.load_centroids(pages, index)?;
    builder.load_lists(pages, index, &lists)?;
    let taken_before = get(&service.control.takeovers);
    let _finished = finish(builder)?;
    let until = Instant::now() + TAKEOVER;
    service.wake_worker();
    // Nobody else's load ends meanwhile. The tier itself need not be there any more: it may have been evicted at once.
    while get(&service.control.takeovers) == taken_before {
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

/// What a refresh has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refreshed {
    /// What the tier has is as the index is, but for what was appended meanwhile.
    Whole {
        /// Whether there are lists that it has not.
        lacks_lists: bool,
    },
    /// It was before.
    Idle {
        /// Whether there are lists that it has not.
        lacks_lists: bool,
    },
    /// It has some lists of old still, for which there is no room; others were written.
    Partly,
    /// It has some lists of old still, for which there is no room.
    Lacking,
    /// Sessions have it mapped.
    Mapped,
    /// The service has no such tier, or the device cannot now.
    Not,
}

/// Brings the tier of an index in the service's memory up to date, as far as the lists go that are there, with the threads of `pool` too. Errors: as for [`load`], without
/// `OutOfMemory` and `Unsupported`.
pub(crate) fn refresh(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    pool: Option<&ThreadPool>,
) -> Result<Refreshed, Stop> {
    session::release_at_exit();
    if !session::is_up(service) {
        return Ok(Refreshed::Not);
    }
    if service.may_be_mapped(key) {
        return Ok(Refreshed::Mapped);
    }
    let spec = spec_of(index);
    let (mut n_left, mut lacks_lists, mut has_written) = (0, false, false);
    for _ in 0..MAX_ROUNDS {
        let (copiers, me) = (Copiers::none(), wake::my_number());
        let begun = begin_refresh(&service.load, me, key, spec, copiers, check());
        let mut builder = match begun {
            // Since the look above somebody may have mapped it.
            Err(GpuError::Unsupported(_)) if service.may_be_mapped(key) => {
                return Ok(Refreshed::Mapped);
            }
            Err(GpuError::Unsupported(_)) => return Ok(Refreshed::Not),
            begun => begun?,
        };
        inject_faults()?;
        let round = match write_stale(&mut builder, pages, index, pool) {
            // The device's staging areas are not there beforehand.
            Err(LoadError::Gpu(GpuError::OutOfMemory { .. })) => return Ok(Refreshed::Not),
            round => round?,
        };
        if round.has_written() || round.is_known {
            match finish(builder) {
                Err(GpuError::OutOfMemory { .. }) => return Ok(Refreshed::Not),
                finished => drop(finished?),
            }
            service.wake_worker();
        }
        (n_left, lacks_lists) = (round.n_left(), round.n_absent > 0);
        has_written |= round.has_written();
        if round.is_over() || !round.has_moved() {
            break;
        }
    }
    // What was appended meanwhile is searched on pages.
    Ok(match (n_left, has_written) {
        (0, true) => Refreshed::Whole { lacks_lists },
        (0, false) => Refreshed::Idle { lacks_lists },
        (_, true) => Refreshed::Partly,
        (_, false) => Refreshed::Lacking,
    })
}

/// What the service's tier of an index is mapped by, and that this session maps it, to be kept for as long as it does. Errors: `Busy` while
/// another process loads, `Unsupported` if the service has no such tier or as many are mapped as can be, `Lost`, `TimedOut`.
pub(crate) fn map(
    service: &'static Service,
    index: &Index,
    key: &TierKey,
) -> Result<(Mapping, Export), GpuError> {
    session::release_at_exit();
    let none = || GpuError::Unsupported("as many tiers are mapped as can be".into());
    let mapping = Mapping::new(service, key).ok_or_else(none)?;
    let me = wake::my_number();
    let (number, export) = export(&service.load, me, key, spec_of(index), check())?;
    mapping.is(number);
    Ok((mapping, export))
}

/// Lets the user cancel a load; should that happen, what unwinds drops the load. The worker may sleep while a thread of it wants something. And a
/// loader holds back no VACUUM.
fn check() -> Check {
    Box::new(|| {
        pgrx::check_for_interrupts!();
        loader::forget_snapshot();
        if let Some(service) = super::service() {
            service.wake_worker();
        }
        Ok(())
    })
}

/// In test builds, loads may be told to fail, or to take until they are told otherwise.
fn inject_faults() -> Result<(), GpuError> {
    if guc::inject_fault() == Fault::FailLoad {
        return Err(GpuError::Other("injected fault".into()));
    }
    while guc::inject_fault() == Fault::SlowLoad {
        session::doze();
        let had_snapshot = loader::has_snapshot();
        // SAFETY: on the main thread. A session would else not see that this is over before its statement is.
        unsafe { pgrx::pg_sys::ProcessConfigFile(pgrx::pg_sys::GucContext::PGC_SIGHUP) }
        if !had_snapshot {
            loader::forget_snapshot();
        }
    }
    Ok(())
}
