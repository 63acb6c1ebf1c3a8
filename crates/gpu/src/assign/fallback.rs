//! Assigning for a build: by the device as long as it can, from the first failure on by the CPU.

use super::{GpuAssigner, Poll};
use crate::error::GpuError;
use half::f16;
use omen_ivf::IvfError;
use omen_ivf::assign::{Assign, Assigner};
use omen_ivf::kmeans::{AssignSample, OnThreads};
use rayon::ThreadPool;
use std::sync::{Arc, Mutex, PoisonError};

/// Why a device was given up, if it was. Clones share it.
#[derive(Clone, Default)]
pub struct Failure(Arc<Mutex<Option<GpuError>>>);

impl Failure {
    /// Notes an error, if it is the first.
    pub fn note(&self, error: GpuError) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
    }

    /// The first error.
    pub fn get(&self) -> Option<GpuError> {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.clone()
    }
}

/// Runs `f` on the device, if there is one still; false: the CPU is to do it.
fn try_device(
    device: &mut Option<GpuAssigner>,
    failure: &Failure,
    f: impl FnOnce(&mut GpuAssigner) -> Result<(), GpuError>,
) -> Result<bool, GpuError> {
    let Some(assigner) = device else {
        return Ok(false);
    };
    match f(assigner) {
        Ok(()) => Ok(true),
        Err(GpuError::Interrupted) => Err(GpuError::Interrupted),
        Err(error) => {
            *device = None;
            failure.note(error);
            Ok(false)
        }
    }
}

/// Assigns the sample of a training.
pub struct SampleAssigner<'a> {
    device: Option<GpuAssigner>,
    failure: Failure,
    threads: OnThreads<'a>,
    is_held: bool,
}

impl<'a> SampleAssigner<'a> {
    /// By `device`, which has room for the sample, as long as there is one, else by `threads`.
    pub fn new(device: Option<GpuAssigner>, failure: Failure, threads: OnThreads<'a>) -> Self {
        Self {
            device,
            failure,
            threads,
            is_held: false,
        }
    }

    /// The device, if it has not failed, for what comes after the training.
    pub fn into_device(self) -> Option<GpuAssigner> {
        self.device
    }
}

impl AssignSample for SampleAssigner<'_> {
    fn assign_sample(
        &mut self,
        centroids: &[f32],
        lists: &mut [u32],
        interrupt: &mut dyn FnMut() -> omen_ivf::Result<()>,
    ) -> omen_ivf::Result<()> {
        let OnThreads { sample, pool, .. } = self.threads;
        let is_held = self.is_held;
        let mut ended = None;
        let done = try_device(&mut self.device, &self.failure, |device| {
            let mut poll = || {
                interrupt().map_err(|error| {
                    ended = Some(error);
                    GpuError::Interrupted
                })
            };
            let poll: Poll<'_> = &mut poll;
            if !is_held {
                device.hold(sample, pool, poll)?;
            }
            device.set_centroids_of_held(centroids, poll)?;
            device.assign_held(lists, poll)
        });
        self.is_held = true;
        match (done, ended) {
            (Ok(true), _) => Ok(()),
            (Ok(false), _) => self.threads.assign_sample(centroids, lists, interrupt),
            (Err(error), None) => Err(IvfError::Store(error.to_string())),
            (Err(_), Some(ended)) => Err(ended),
        }
    }
}

/// Assigns the rows of a table.
pub struct RowAssigner {
    dim: usize,
    device: Option<GpuAssigner>,
    failure: Failure,
    pool: Arc<ThreadPool>,
    cpu: Assigner,
}

impl RowAssigner {
    /// To `centroids`, as stored, `[n, dim]`: by `device`, as long as there is one, else by `pool`.
    pub fn new(
        mut device: Option<GpuAssigner>,
        failure: Failure,
        centroids: &[f16],
        dim: usize,
        pool: Arc<ThreadPool>,
    ) -> Self {
        // Interrupts come from `Poll` alone.
        let _ = try_device(&mut device, &failure, |device| {
            let mut wide = vec![0.0; centroids.len()];
            omen_distance::f32_from_f16(centroids, &mut wide);
            device.set_centroids(&wide, &mut || Ok(()))
        });
        Self {
            dim,
            device,
            failure,
            pool: pool.clone(),
            cpu: Assigner::new(centroids, dim, pool),
        }
    }
}

impl Assign for RowAssigner {
    fn assign(&mut self, rows: &[f16]) -> Vec<u32> {
        let mut lists = vec![0; rows.len() / self.dim];
        let done = try_device(&mut self.device, &self.failure, |device| {
            device.assign(rows, &mut lists, &self.pool, &mut || Ok(()))
        });
        if !matches!(done, Ok(true)) {
            lists = self.cpu.assign(rows);
        }
        lists
    }

    fn uses_driver(&self) -> bool {
        self.device.is_some()
    }
}
