//! The GPU's part in the build of an index: finding the nearest centroids of rows, which is what training and building spend their time on; the tier that
//! then calibrates it is in `build_tier.rs`.
//!
//! A build uses a context of this session's, also where the shared service serves searches: it is long, and rare. Beside the service, sessions let go of
//! it, and of the tier that calibrated the index, when the build ends, be it by an error.

use std::sync::mpsc::{Receiver, channel};

use omen_gpu::assign::Failure;
use omen_gpu::{Gpu, GpuAssigner, GpuError};

use super::load::is_ample;
use super::service_tiers::{Serving, who_serves};
use super::tiers::{self, Device};
use super::{choice, devices, fallback};
use crate::compat::FileId;
use crate::gpu_service;
use crate::guc::{self, EngineSetting};
use crate::options::{self, Hot};
use crate::storage::IndexPages;
use crate::threads::{self, InDriver};

/// Products a thread adds up in a second, about.
const CPU_RATE: f64 = 20e9;
/// Times that training looks at its sample, at most.
const TRAININGS: f64 = 10.0;
/// The GPU is to save so many times what opening it takes.
const WORTH: f64 = 2.0;

/// What a build has to assign.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// Dimension of the rows.
    pub(crate) dim: usize,
    /// Centroids.
    pub(crate) lists: usize,
    /// Rows of the sample.
    pub(crate) n_sampled: usize,
    /// Rows of the table, about.
    pub(crate) n_rows: u64,
}

impl Work {
    /// Seconds that so many threads take, about.
    pub(crate) fn cpu_seconds(&self, n_threads: usize) -> f64 {
        let rows = TRAININGS * self.n_sampled as f64 + self.n_rows as f64;
        rows * self.lists as f64 * self.dim as f64 / (CPU_RATE * n_threads as f64)
    }
}

/// Whether `omen.engine` has a build use the GPU, if there is one: with `auto`, for work that takes `n_threads` threads much longer than opening it.
pub(crate) fn wants_gpu(work: &Work, n_threads: usize) -> bool {
    match guc::engine() {
        EngineSetting::Cpu => false,
        EngineSetting::Gpu => true,
        EngineSetting::Auto => {
            let open = tiers::with(|device| choice::open_time(device.is_open()));
            work.cpu_seconds(n_threads) > WORTH * open.as_secs_f64()
        }
    }
}

/// Whether a build with this work would use the GPU, as it looks now, and also to calibrate an index of `index_bytes`; `None`: it would not. Opens none.
pub(crate) fn would_use_gpu(work: &Work, n_threads: usize, index_bytes: u64) -> Option<bool> {
    if !wants_gpu(work, n_threads) || why_not().is_some() {
        return None;
    }
    let needed = GpuAssigner::bytes_needed(work.dim, work.lists, work.n_sampled);
    tiers::with(|device| {
        if !device.is_open() {
            devices::find(&device.allowed, device.simulated).ok()?;
        }
        // Without a limit, what the device has is known once it is open.
        let limit = match &device.gpu {
            Some(gpu) => device.limit(gpu).ok()?,
            None => guc::gpu_memory_limit().unwrap_or(u64::MAX),
        };
        let room = limit.saturating_sub(device.tier_bytes());
        // With room for lists to grow.
        let tier = index_bytes + index_bytes / 4;
        (needed <= room).then_some(is_ample(tier, room))
    })
}

type Opened = std::result::Result<(Gpu, i32), GpuError>;

/// A GPU that a thread opens, if there is one to be opened.
pub(crate) struct Opening(Option<Receiver<Opened>>);

impl Opening {
    /// Has a thread open the session's GPU, which takes some tenths of a second, if work of about this size wants it.
    pub(crate) fn begin(work: &Work, n_threads: usize) -> Self {
        if !wants_gpu(work, n_threads) || why_not().is_some() {
            return Self(None);
        }
        let (is_open, allowed, simulated) =
            tiers::with(|device| (device.is_open(), device.allowed.clone(), device.simulated));
        if is_open {
            return Self(None);
        }
        threads::mind_driver_at_exit();
        let (sender, opened) = channel();
        let open = move || {
            // If nobody waits any more, what was opened is closed here, still within the driver.
            if let Some(in_driver) = InDriver::enter() {
                let _ = sender.send(devices::open(&allowed, simulated));
                drop(in_driver);
            }
        };
        // Without a thread it is opened when it is wanted.
        let started = threads::start("omen open", open);
        Self(started.is_ok().then_some(opened))
    }

    /// Waits for it, looking for interrupts.
    fn end(self) -> Option<Opened> {
        let ended = || Err(GpuError::Other("opening it has ended early".into()));
        Some(threads::receive(&self.0?).unwrap_or_else(ended))
    }
}

/// Why the GPU is not to be tried now, if it is not.
fn why_not() -> Option<GpuError> {
    if let Serving::Service(service) = who_serves()
        && let Some(why) = service.pause()
    {
        return Some(why);
    }
    tiers::with(Device::device_pause)
}

/// The session's GPU, ready for the work; `None`: the CPU is to do it, for the reason that `failure` has then, unless it is chosen.
pub(crate) fn assigner_for(
    work: &Work,
    n_threads: usize,
    opening: Opening,
    failure: &Failure,
) -> Option<GpuAssigner> {
    let opened = opening.end();
    if !wants_gpu(work, n_threads) {
        return None;
    }
    if let Some(why) = why_not() {
        // Of an earlier failure, which this is not.
        fallback::note_build(&why);
        return None;
    }
    let made = match opened {
        Some(Err(why)) => Err(why),
        opened => tiers::with(|device| {
            // Of an index that is built again, say.
            device.drop_orphans();
            if let (None, Some(Ok((gpu, ordinal)))) = (&device.gpu, opened) {
                (device.gpu, device.ordinal) = (Some(gpu), ordinal);
            }
            open(device, work)
        }),
    };
    made.map_err(|error| failure.note(error)).ok()
}

fn open(device: &mut Device, work: &Work) -> std::result::Result<GpuAssigner, GpuError> {
    let gpu = device.open()?;
    let limit = device.limit(&gpu)?.saturating_sub(device.tier_bytes());
    let assigner = gpu.assigner(work.dim, work.lists, work.n_sampled, limit)?;
    #[cfg(feature = "simulated-gpu")]
    let assigner = inject(assigner);
    Ok(assigner)
}

/// A device that fails when `omen.inject_fault` says so.
#[cfg(feature = "simulated-gpu")]
fn inject(mut assigner: GpuAssigner) -> GpuAssigner {
    match guc::inject_fault() {
        guc::Fault::LostInTraining => assigner.fail_after(2, usize::MAX),
        guc::Fault::LostInAssigning => assigner.fail_after(usize::MAX, 0),
        _ => {}
    }
    assigner
}

/// What a build leaves on the device, until it is dropped, however the build ends.
pub(crate) struct Leftovers {
    file: FileId,
    is_done: bool,
}

impl Leftovers {
    /// Of the build of the index at `pages`.
    pub(crate) fn of(pages: &IndexPages) -> Self {
        Self {
            file: pages.file(),
            is_done: false,
        }
    }

    /// The build is done: draws the consequences of a failure, tells of it, and lets go of what searches will not use.
    pub(crate) fn end(mut self, pages: &IndexPages, failure: &Failure) {
        let is_hot = options::hot_of(pages) != Hot::Off;
        // Beside the service, sessions have no tiers but those that are mapped.
        self.is_done = is_hot && gpu_service::service().is_none();
        let error = failure.get();
        if let Some(error) = &error {
            tiers::with(|device| device.note_device_failure(error));
        }
        drop(self);
        if let Some(error) = &error {
            fallback::note_build(error);
        }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        tiers::try_with(|device| {
            if !self.is_done {
                device.tiers.remove(&self.file);
            }
            device.close_unused();
        });
    }
}
