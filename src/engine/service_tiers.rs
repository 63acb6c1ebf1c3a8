//! Tiers of the shared service, as a session sees them: their names, and whether it should have one loaded.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_ivf::index::Index;
use omen_service::message::TierKey;

use super::choice;
use crate::compat::FileId;
use crate::gpu_service::{self, Service};
use crate::guc::{self, ContextSetting, EngineSetting};
use crate::options::{self, Hot};
use crate::storage::IndexPages;

/// After a load that failed this session leaves it so long.
const PAUSE: Duration = Duration::from_secs(30);

/// Whose GPU context answers this session's scans.
pub(crate) enum Serving {
    /// Its own.
    Session,
    /// The shared service's.
    Service(&'static Service),
}

/// By `omen.gpu_context`, and whether there is a service. With one running for all, sessions make no contexts of their own for scans: a
/// hundred of them would fill a device.
pub(crate) fn who_serves() -> Serving {
    match (guc::gpu_context(), gpu_service::service()) {
        (ContextSetting::Auto | ContextSetting::Shared, Some(service)) => Serving::Service(service),
        _ => Serving::Session,
    }
}

thread_local! {
    static FAILED: RefCell<HashMap<FileId, Instant>> = RefCell::default();
}

/// The name of an index's tier: its file and build.
pub(crate) fn key_of(file: FileId, index: &Index) -> TierKey {
    TierKey {
        tablespace: file.tablespace,
        database: file.database,
        number: file.number,
        reserved: 0,
        seed: index.meta.rotation_seed,
        built_at: index.meta.built_at,
    }
}

/// Whether this session is to load the tier of an index, which the service does not have.
pub(super) fn wants_loading(setting: EngineSetting, pages: &IndexPages, index: &Index) -> bool {
    let file = pages.file();
    let failed = FAILED.with_borrow(|failed| failed.get(&file).copied());
    if failed.is_some_and(|at| at.elapsed() < PAUSE) {
        return false;
    }
    let at_once = setting == EngineSetting::Gpu || options::hot_of(pages) == Hot::On;
    let n_bytes = choice::bytes_to_load(index);
    at_once || choice::loading_pays(file, n_bytes, true, None, 0.0)
}

/// A load ended so.
pub(crate) fn note_load(file: FileId, error: Option<&GpuError>) {
    FAILED.with_borrow_mut(|failed| {
        match error {
            // Another session is loading: soon it is there.
            Some(GpuError::Busy | GpuError::Interrupted) => None,
            Some(_) => failed.insert(file, Instant::now()),
            None => failed.remove(&file),
        };
    });
    if error.is_none() {
        choice::note_loaded(file);
    }
}
