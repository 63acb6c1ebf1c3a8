//! Tiers of the shared service, as a session sees them: their names, and whether it should have one loaded.

use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_ivf::index::Index;
use omen_service::message::TierKey;

use super::choice;
use super::gpu::{REFRESH_FACTOR, STALE_SHARE};
use super::refresh::Behind;
use super::stats::ScanRecord;
use super::tiers::Stop;
use crate::gpu_service::loading::{self, Fit};
use crate::gpu_service::{self, Service, loader, session};
use crate::guc::{self, ContextSetting, EngineSetting};
use crate::options::{self, Hot};
use crate::storage::IndexPages;

/// Whose GPU context answers this session's searches.
pub(crate) enum Serving {
    /// Its own.
    Session,
    /// The shared service's.
    Service(&'static Service),
}

/// By `omen.gpu_context`, and whether there is a service. With one running for all, sessions make no contexts of their own: a
/// hundred of them would fill a device.
pub(crate) fn who_serves() -> Serving {
    match (guc::gpu_context(), gpu_service::service()) {
        (ContextSetting::Auto | ContextSetting::Shared, Some(service)) => Serving::Service(service),
        _ => Serving::Session,
    }
}

/// The name of an index's tier: its file, its OID and its build.
pub(crate) fn key_of(pages: &IndexPages, index: &Index) -> TierKey {
    let file = pages.file();
    TierKey {
        tablespace: file.tablespace,
        database: file.database,
        number: file.number,
        index: pages.relation().to_u32(),
        seed: index.meta.rotation_seed,
        built_at: index.meta.built_at,
    }
}

/// Whether a search wants the tier of an index loaded, which the service does not have. `to_come`: seconds that the CPU would take for what is
/// still to be searched, beyond what it has taken.
pub(super) fn wants_loading(
    service: &Service,
    setting: EngineSetting,
    pages: &IndexPages,
    index: &Index,
    to_come: f64,
) -> bool {
    if loader::failed_lately(service, pages) {
        return false;
    }
    let at_once = setting == EngineSetting::Gpu || options::hot_of(pages) == Hot::On;
    let n_bytes = choice::bytes_to_load(index);
    at_once || choice::loading_pays(pages.file(), n_bytes, true, None, to_come)
}

/// Leaves it to a process of its own to load the tier of an index. `false`: the session is to do it, as not all of the index fits, and its
/// searches know which lists deserve the room.
pub(super) fn leaves_loading(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
) -> std::result::Result<bool, Stop> {
    if !loader::may_start(service, pages) {
        return Ok(true);
    }
    if !loading::fits_whole(service, pages, index)? {
        return Ok(false);
    }
    if loader::start(service, pages) {
        choice::note_asked(pages.file());
    }
    Ok(true)
}

/// This session loads the tier of an index, with `again` in place of one that is there. Errors: as [`loading::load`].
pub(super) fn load(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    fit: Fit,
    again: bool,
) -> std::result::Result<(), Stop> {
    let outcome = loading::load(service, pages, index, key, fit, again);
    match &outcome {
        Ok(()) => {
            loader::note_load(service, pages, None);
            choice::note_loaded(pages.file());
        }
        Err(Stop::Gpu(error)) => loader::note_load(service, pages, Some(error)),
        Err(_) => {}
    }
    outcome
}

/// As [`load`], where that is wanted: waits so long while another process loads.
pub(super) fn load_in_turn(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    fit: Fit,
    again: bool,
    wait: Duration,
) -> std::result::Result<(), Stop> {
    let until = Instant::now() + wait;
    loop {
        while service.load.is_loading() && Instant::now() < until {
            session::doze();
        }
        match load(service, pages, index, key, fit, again) {
            Err(Stop::Gpu(GpuError::Busy)) if Instant::now() < until => session::doze(),
            outcome => return outcome,
        }
    }
}

/// What of a search's lists the service's tier does not have as the index does.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lacks {
    /// Lists that are out of date there.
    pub(super) n_stale: usize,
    /// Lists that are not there.
    pub(super) n_absent: usize,
    /// Lists in which entries have died since.
    pub(super) n_thinned: usize,
    /// What was looked at on pages because it was appended since.
    pub(super) behind: Behind,
}

/// Has the tier of an index brought up to date, of which a search of `n_lists` lists lacked some: in the background, where not all of it fits by
/// this session if much is lacking, and not over and over. The search has its answer: what fails here does not concern it.
pub(super) fn load_again(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    (lacks, n_lists): (Lacks, usize),
    record: &mut ScanRecord,
) {
    let is_much = (lacks.n_stale + lacks.n_absent) * STALE_SHARE > n_lists;
    let is_much = is_much && loader::may_reload(service, pages);
    if lacks.n_stale + lacks.n_thinned == 0 && !is_much && !lacks.behind.is_much_for_all() {
        return;
    }
    let behind = lacks.behind;
    let outcome = load_again_now(service, pages, index, key, (is_much, behind), record);
    if let Err(Stop::Query(error)) = outcome {
        // Of a page that the search need not have visited.
        let error = GpuError::Other(error.to_string());
        loader::note_load(service, pages, Some(&error));
    }
}

fn load_again_now(
    service: &Service,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
    (is_much, behind): (bool, Behind),
    record: &mut ScanRecord,
) -> std::result::Result<(), Stop> {
    if !loader::may_start_again(service, pages, behind.time) {
        return Ok(());
    }
    if !is_much || loading::fits_whole(service, pages, index)? {
        loader::start_again(service, pages, is_much);
        return Ok(());
    }
    // Others that find the same leave it to this session.
    loader::rest(service, pages, Duration::ZERO);
    let began = Instant::now();
    let outcome = load(service, pages, index, key, Fit::Best, true);
    record.load += began.elapsed();
    outcome?;
    loader::rest(service, pages, began.elapsed() * REFRESH_FACTOR);
    Ok(())
}
