//! In place of a tier of its own a session has the shared service's, mapped into its context (`omen.gpu_context = backend` while the service runs
//! on the same device): no second copy on the device, and nothing to load.

use std::time::{Duration, Instant};

use omen_gpu::{Export, GpuError, Tier};
use omen_ivf::index::Index;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::service_tiers::{self, key_of};
use super::tiers::{Device, LoadedTier, Stop};
use crate::compat::FileId;
use crate::error::PgError;
use crate::gpu_service::loading::{self, Fit};
use crate::gpu_service::mappings::{MAX_MAPPINGS, Mapping};
use crate::gpu_service::{self, Service, loader, session};
use crate::guc::{self, ContextSetting};
use crate::storage::IndexPages;

/// A session waits so long for others that have something mapped or refreshed, which takes milliseconds; a load it does not wait for.
const BUSY_TIME: Duration = Duration::from_millis(50);

impl Device {
    /// The service, if this session maps tiers of it.
    fn lender(&self, pages: &IndexPages) -> Option<&'static Service> {
        let service = gpu_service::service()?;
        let is_wanted = guc::gpu_context() == ContextSetting::Backend && !self.cannot_map;
        let is_there = is_wanted && !pages.is_temporary() && session::is_up(service);
        let is_same = service.control.is_simulated() == self.simulated
            && (!self.is_open() || service.control.device() == self.ordinal);
        (is_there && is_same).then_some(service)
    }

    /// Whether the tier of an index can, it seems, be mapped in place of being loaded.
    pub(super) fn may_map(&self, pages: &IndexPages, index: &Index) -> bool {
        self.lender(pages).is_some_and(|service| {
            let control = service.control;
            control.has_tier(&key_of(pages, index)) && control.mappings.n() < MAX_MAPPINGS
        })
    }

    /// Maps the service's tier of an index, if it has one and this session none of its own. One that is mapped already, and out of date, is brought
    /// up to date in the background. `false`: the session is to load one of its own. Errors: of the device; `Busy` while the service loads another,
    /// or has ended.
    pub(super) fn map(
        &mut self,
        pages: &IndexPages,
        index: &Index,
        file: FileId,
    ) -> std::result::Result<bool, Stop> {
        let Some(service) = self.lender(pages) else {
            return Ok(false);
        };
        match self.tiers.get_mut(&file) {
            Some(loaded) if loaded.mapping.is_none() => return Ok(false),
            Some(loaded) => {
                loaded.note_refreshed();
                if loader::may_start(service, pages) {
                    loader::start_again(service, pages, true);
                }
                return Ok(true);
            }
            None => {}
        }
        if !self.may_map(pages, index) {
            return Ok(false);
        }
        let began = Instant::now();
        let gpu = self.open()?;
        if service.control.device() != self.ordinal {
            return Ok(false);
        }
        let Some((mapping, export)) = ask(service, pages, index)? else {
            return Ok(false);
        };
        let scratch = self.limit(&gpu)?.saturating_sub(self.tier_bytes());
        let is_whole = export.lists.iter().all(Option::is_some);
        let tier = match Tier::map(&gpu, export, Some(&index.rotation), scratch) {
            Err(GpuError::Unsupported(_) | GpuError::Other(_)) if !mapping.is_alive() => {
                return Err(GpuError::Busy.into());
            }
            Err(error @ (GpuError::Unsupported(_) | GpuError::Other(_))) => {
                self.cannot_map = true;
                let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
                let what = format!("hot tiers of the GPU service cannot be mapped: {error}");
                PgError::new(code, what).report(PgLogLevel::LOG);
                return Ok(false);
            }
            tier => tier?,
        };
        let mut loaded = LoadedTier::new(tier, began.elapsed(), pages.relation(), index);
        loaded.is_whole = is_whole;
        loaded.mapping = Some(mapping);
        self.tiers.insert(file, loaded);
        Ok(true)
    }

    /// If the tier of an index is mapped, has the service load it anew, for the user who asks for it; it is to be mapped again then. Waits so long while another process loads.
    pub(super) fn renew_mapped(
        &mut self,
        pages: &IndexPages,
        index: &Index,
        wait: Duration,
    ) -> std::result::Result<(), Stop> {
        let (file, key) = (pages.file(), key_of(pages, index));
        let is_mapped = |loaded: &LoadedTier| loaded.mapping.is_some();
        let Some(service) = self.lender(pages).filter(|_| {
            let loaded = self.tiers.get(&file);
            loaded.is_some_and(is_mapped)
        }) else {
            return Ok(());
        };
        // Two copies may be more than there is room for.
        self.tiers.remove(&file);
        service_tiers::load_in_turn(service, pages, index, &key, Fit::Best, true, wait)
    }
}

/// Asks the service what a tier is mapped by. `None`: it is not there any more, or cannot be mapped. Errors: `Busy`, `Interrupted`.
fn ask(
    service: &'static Service,
    pages: &IndexPages,
    index: &Index,
) -> std::result::Result<Option<(Mapping, Export)>, Stop> {
    let (key, until) = (key_of(pages, index), Instant::now() + BUSY_TIME);
    loop {
        match loading::map(service, index, &key) {
            Ok(mapped) => return Ok(Some(mapped)),
            Err(GpuError::Unsupported(_) | GpuError::Other(_)) => return Ok(None),
            Err(GpuError::Busy) if Instant::now() < until => session::doze(),
            Err(GpuError::Interrupted) => return Err(GpuError::Interrupted.into()),
            // The service's trouble is not this session's device's.
            Err(_) => return Err(GpuError::Busy.into()),
        }
    }
}
