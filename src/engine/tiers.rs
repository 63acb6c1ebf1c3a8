//! This session's GPU: its context, created at the first search that wants it (never in the postmaster), and the hot
//! tiers loaded into it, the least recently used of which goes first when memory runs short.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use omen_gpu::{Gpu, GpuError, Tier};
use omen_ivf::index::Index;
use pgrx::pg_sys;

use crate::compat::{self, FileId};
use crate::gpu_service::mappings::Mapping;
use crate::guc::{self, GpuDevices};
use crate::storage;

/// After a failure the GPU is left alone this long; longer after each further one, up to an hour.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LAST_PAUSE: Duration = Duration::from_secs(3600);

/// Why a round cannot use the GPU.
pub(crate) enum Stop {
    /// Because of the GPU: the CPU takes over.
    Gpu(GpuError),
    /// Because of an earlier failure, after which the GPU is left alone for a while: the CPU takes over.
    Paused(GpuError),
    /// Because of the query or the index: it fails.
    Query(crate::error::PgError),
}

impl From<GpuError> for Stop {
    fn from(error: GpuError) -> Self {
        Self::Gpu(error)
    }
}

impl From<omen_ivf::IvfError> for Stop {
    fn from(error: omen_ivf::IvfError) -> Self {
        Self::Query(error.into())
    }
}

impl From<crate::error::PgError> for Stop {
    fn from(error: crate::error::PgError) -> Self {
        Self::Query(error)
    }
}

/// A tier and what it was loaded from.
pub(super) struct LoadedTier {
    /// The entries on the device.
    pub tier: Tier,
    /// Set if it is the shared service's. After `tier`: its memory is let go of first.
    pub mapping: Option<Mapping>,
    /// How long loading took, and when it ended.
    pub load_time: Duration,
    pub loaded_at: Instant,
    /// Whether it was to hold all lists.
    pub is_whole: bool,
    /// Lists searched since it was loaded, and how many of them it has no room for.
    pub n_probes: u64,
    pub n_absent: u64,
    /// Lists here that a search of one query found rewritten, or entries of which were deleted, since the tier was loaded. Not all of them.
    pub known_stale: Vec<u32>,
    /// Set when the last search found so many lists out of date that the tier should be loaded again.
    pub stale: bool,
    /// Whether it is evicted only when there is no other: `hot = on`.
    pub goes_last: bool,
    relation: pg_sys::Oid,
    identity: (u64, i64),
    used_at: Instant,
}

impl LoadedTier {
    /// A tier just loaded, in `load_time`.
    pub(super) fn new(
        tier: Tier,
        load_time: Duration,
        relation: pg_sys::Oid,
        index: &Index,
    ) -> Self {
        let now = Instant::now();
        Self {
            tier,
            mapping: None,
            load_time,
            loaded_at: now,
            is_whole: true,
            n_probes: 0,
            n_absent: 0,
            known_stale: Vec::new(),
            stale: false,
            goes_last: false,
            relation,
            identity: identity_of(index),
            used_at: now,
        }
    }

    /// Lists that were out of date have been written again.
    pub(super) fn note_refreshed(&mut self) {
        self.known_stale.clear();
        self.stale = false;
        self.loaded_at = Instant::now();
    }

    /// What of the index it holds, for the status functions; empty: all.
    pub(super) fn kind(&self) -> &'static str {
        let is_mapped = self.mapping.is_some();
        match (self.is_whole, self.tier.parts().rows()) {
            (_, false) if is_mapped => "mapped from the service, codes alone",
            (_, true) if is_mapped => "mapped from the service",
            (_, false) => "codes alone",
            (false, true) => "hottest lists",
            (true, true) => "",
        }
    }

    /// When it was used last.
    pub(super) fn used_at(&self) -> Instant {
        self.used_at
    }
}

/// The GPU of this session.
#[derive(Default)]
pub(super) struct Device {
    pub(super) gpu: Option<Gpu>,
    /// Its number.
    pub(super) ordinal: i32,
    /// Whether the shared service's tiers cannot be mapped here.
    pub(super) cannot_map: bool,
    pub(super) simulated: bool,
    /// Devices it may be.
    pub(super) allowed: GpuDevices,
    pub(super) tiers: HashMap<FileId, LoadedTier>,
    /// State of `storage::relation_changes` when the tiers were last compared to the catalog.
    changes_seen: u64,
    /// No new attempt before, and why. `None` as time: never again in this session.
    paused: Option<(Option<Instant>, GpuError)>,
    failures: u32,
    /// Tiers that did not fit, and under which limit: no new attempt before this time unless the limit changes.
    refused: HashMap<FileId, Refusal>,
}

struct Refusal {
    until: Instant,
    limit: Option<u64>,
    why: GpuError,
}

/// What tells two builds of an index in the same file apart.
fn identity_of(index: &Index) -> (u64, i64) {
    (index.meta.rotation_seed, index.meta.built_at)
}

thread_local! {
    // Never dropped: at exit the driver may be gone already, and the context goes with the process.
    static DEVICE: ManuallyDrop<RefCell<Device>> = ManuallyDrop::new(RefCell::default());
}

/// Calls `f` with the session's GPU.
pub(super) fn with<R>(f: impl FnOnce(&mut Device) -> R) -> R {
    DEVICE.with(|device| f(&mut device.borrow_mut()))
}

/// As [`with`], unless somebody up the stack is at it.
pub(super) fn try_with(f: impl FnOnce(&mut Device)) {
    DEVICE.with(|device| {
        if let Ok(mut device) = device.try_borrow_mut() {
            f(&mut device);
        }
    });
}

/// The process ends: what others own is let go of.
#[allow(unsafe_code)]
pub(crate) fn let_go() {
    DEVICE.with(|device| {
        // SAFETY: on the main thread, from an exit callback. Should it run in the middle of a search, which holds the cell, that search does not go
        // on; it was looking for interrupts, with nothing of the map in its hands.
        let device = unsafe { &mut *device.as_ptr() };
        device.tiers.retain(|_, loaded| loaded.mapping.is_none());
    });
}

/// Lets go of what the shared service has given up.
pub(crate) fn let_go_of_old() {
    with(Device::drop_given_up);
}

impl Device {
    /// Why the GPU is not to be tried for this index now; `None` if it is.
    pub(super) fn pause(&mut self, file: FileId) -> Option<GpuError> {
        if let Some(why) = self.device_pause() {
            return Some(why);
        }
        let refusal = self.refused.get(&file)?;
        if refusal.limit == guc::gpu_memory_limit() && refusal.until > Instant::now() {
            return Some(refusal.why.clone());
        }
        self.refused.remove(&file);
        None
    }

    /// Why the GPU is not to be tried now for any index; `None` if it is.
    pub(super) fn device_pause(&mut self) -> Option<GpuError> {
        self.follow_settings();
        match &self.paused {
            Some((Some(until), _)) if *until <= Instant::now() => {
                self.paused = None;
                None
            }
            Some((_, why)) => Some(why.clone()),
            None => None,
        }
    }

    /// `omen.simulate_gpu` or `omen.gpu_devices` may have been changed: another device starts afresh.
    pub(super) fn follow_settings(&mut self) {
        let allowed = guc::gpu_devices();
        if self.simulated != guc::simulate_gpu() || self.allowed != allowed {
            *self = Self {
                simulated: guc::simulate_gpu(),
                allowed,
                ..Self::default()
            };
        }
    }

    /// Whether the context exists.
    pub(super) fn is_open(&self) -> bool {
        self.gpu.is_some()
    }

    /// Lets go of a context without tiers, as the build of an index leaves it.
    pub(super) fn close_unused(&mut self) {
        if self.tiers.is_empty() {
            self.gpu = None;
        }
    }

    /// The tier of an index, if it is loaded.
    pub(super) fn tier(&mut self, file: FileId, index: &Index) -> Option<&mut LoadedTier> {
        self.drop_orphans();
        self.drop_given_up();
        if self.tiers.get(&file)?.identity != identity_of(index) {
            self.tiers.remove(&file);
        }
        let loaded = self.tiers.get_mut(&file)?;
        loaded.used_at = Instant::now();
        Some(loaded)
    }

    /// Checks, after a search, that the memory it read was there: the process that has it may have ended. Errors: `Busy`.
    pub(super) fn check_mapping(&mut self, file: FileId) -> Result<(), GpuError> {
        let mapping = self.tiers.get(&file).and_then(|l| l.mapping.as_ref());
        if mapping.is_none_or(Mapping::is_alive) {
            return Ok(());
        }
        self.tiers.remove(&file);
        Err(GpuError::Busy)
    }

    /// Lets go of mapped tiers that the shared service has given up: their memory is kept for this session.
    pub(super) fn drop_given_up(&mut self) {
        let is_kept = |loaded: &LoadedTier| loaded.mapping.iter().all(Mapping::is_current);
        self.tiers.retain(|_, loaded| is_kept(loaded));
    }

    /// Frees tiers whose index was dropped or has a new file.
    pub(super) fn drop_orphans(&mut self) {
        let changes = storage::relation_changes();
        if std::mem::replace(&mut self.changes_seen, changes) == changes {
            return;
        }
        self.tiers.retain(|file, loaded| {
            compat::catalog_file_number(loaded.relation) == Some(file.number)
        });
    }

    /// Bytes of device memory held by all tiers.
    pub(super) fn tier_bytes(&self) -> u64 {
        self.tiers.values().map(|loaded| loaded.tier.bytes()).sum()
    }

    /// Draws the consequences of a failure for later searches of an index.
    pub(super) fn note_failure(&mut self, file: FileId, error: &GpuError) {
        if !matches!(error, GpuError::OutOfMemory { .. }) {
            return self.note_device_failure(error);
        }
        self.tiers.remove(&file);
        let refusal = Refusal {
            until: Instant::now() + FIRST_PAUSE,
            limit: guc::gpu_memory_limit(),
            why: error.clone(),
        };
        self.refused.insert(file, refusal);
    }

    /// Draws the consequences of a failure that is not an index's own.
    pub(super) fn note_device_failure(&mut self, error: &GpuError) {
        match error {
            GpuError::NoDriver | GpuError::NoDevice => {
                self.paused = Some((None, error.clone()));
            }
            GpuError::Unsupported(_) if self.gpu.is_none() => {
                self.paused = Some((None, error.clone()));
            }
            GpuError::TimedOut | GpuError::Lost(_) => {
                for (_, mut loaded) in self.tiers.drain() {
                    let mapping = loaded.mapping.take();
                    mapping.into_iter().for_each(Mapping::keep);
                }
                self.gpu = None;
                self.pause_for(error);
            }
            GpuError::Other(_) => self.pause_for(error),
            GpuError::Busy
            | GpuError::OutOfMemory { .. }
            | GpuError::NotResident(_)
            | GpuError::Interrupted
            | GpuError::Unsupported(_) => {}
        }
    }

    fn pause_for(&mut self, error: &GpuError) {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(10))
            .min(LAST_PAUSE);
        self.failures += 1;
        self.paused = Some((Some(Instant::now() + pause), error.clone()));
    }

    /// The tier of an index was loaded: earlier failures no longer count.
    pub(super) fn note_loaded(&mut self, file: FileId) {
        self.refused.remove(&file);
        self.paused = None;
    }

    /// A round was answered by the GPU.
    pub(super) fn note_success(&mut self) {
        self.failures = 0;
    }
}
