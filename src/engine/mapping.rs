//! In place of a tier of its own a session has the shared service's, mapped into its context (`omen.gpu_context = backend` while the service runs
//! on the same device): no second copy on the device, and nothing to load.

use std::time::Instant;

use omen_gpu::{GpuError, Tier};
use omen_ivf::index::Index;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::service_tiers::{self, key_of};
use super::tiers::{Device, LoadedTier, Stop};
use crate::compat::FileId;
use crate::error::PgError;
use crate::gpu_service::loading::{self, Fit, Refreshed};
use crate::gpu_service::{self, Service, session};
use crate::guc::{self, ContextSetting};
use crate::storage::IndexPages;

impl Device {
    /// The service, if this session maps tiers of it.
    fn lender(&self, pages: &IndexPages) -> Option<&'static Service> {
        let service = gpu_service::service()?;
        let is_wanted = guc::gpu_context() == ContextSetting::Backend && !self.cannot_map;
        let is_simulated = service.control.is_simulated() == self.simulated;
        let is_there = is_wanted && !pages.is_temporary() && session::is_up(service);
        (is_there && is_simulated).then_some(service)
    }

    /// Whether the tier of an index can, it seems, be mapped in place of being loaded.
    pub(super) fn may_map(&self, pages: &IndexPages, index: &Index) -> bool {
        let lender = self.lender(pages);
        lender.is_some_and(|service| service.control.has_tier(&key_of(pages, index)))
    }

    /// Maps the service's tier of an index, if it has one and this session none of its own; the one that is mapped is brought up to date in the
    /// service first. `false`: the session is to load one of its own. Errors: of the device, and of reading the index; `Busy` while the service
    /// loads another.
    pub(super) fn map(
        &mut self,
        pages: &IndexPages,
        index: &Index,
        file: FileId,
    ) -> std::result::Result<bool, Stop> {
        let Some(service) = self.lender(pages) else {
            return Ok(false);
        };
        let (began, key) = (Instant::now(), key_of(pages, index));
        match self.tiers.get(&file).map(|loaded| loaded.mapping.is_some()) {
            Some(false) => return Ok(false),
            Some(true) => {
                // As long as it is mapped its lists cannot be written.
                self.tiers.remove(&file);
                bring_up_to_date(service, pages, index)?;
            }
            None => {}
        }
        if !service.control.has_tier(&key) {
            return Ok(false);
        }
        let gpu = self.open()?;
        if service.control.device() != self.ordinal {
            return Ok(false);
        }
        let (mapping, export) = match loading::map(service, index, &key) {
            // It has just gone, or cannot be exported.
            Err(GpuError::Unsupported(_) | GpuError::Other(_)) => return Ok(false),
            mapped => mapped?,
        };
        let scratch = self.limit(&gpu)?.saturating_sub(self.tier_bytes());
        let is_whole = export.lists.iter().all(Option::is_some);
        let tier = match Tier::map(&gpu, export, Some(&index.rotation), scratch) {
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
}

/// Brings the service's tier of an index up to date. What fails there leaves it as it is.
fn bring_up_to_date(
    service: &'static Service,
    pages: &IndexPages,
    index: &Index,
) -> std::result::Result<(), Stop> {
    let key = key_of(pages, index);
    let outcome = match loading::refresh(service, pages, index, &key) {
        Ok(Refreshed::Whole) => Ok(()),
        Ok(Refreshed::Lacking | Refreshed::Mapped) => {
            service_tiers::load(service, pages, index, &key, Fit::Best, true)
        }
        Ok(Refreshed::Not) => Ok(()),
        Err(stop) => Err(stop),
    };
    match outcome {
        Err(Stop::Query(error)) => Err(Stop::Query(error)),
        _ => Ok(()),
    }
}
