//! Opening the GPU and loading a hot tier.
#![allow(unsafe_code)]

use std::time::Instant;

use omen_gpu::memory::{LadderShape, Parts, Rung, TierPlan, rung, with_spare};
use omen_gpu::{Copiers, Gpu, GpuError, LoadError, TierBuilder, TierSpec};
use omen_ivf::index::{Index, read_entries};

use super::tiers::{Device, LoadedTier, Stop};
use super::{devices, heat};
use crate::compat::FileId;
use crate::storage::IndexPages;
use crate::{guc, threads};

/// Share of the free device memory that tiers take when `omen.gpu_memory_limit` is 0.
const DEFAULT_SHARE: f64 = 0.8;
/// Smaller tiers are loaded before threads to copy them would have started.
const THREADS_FROM_BYTES: usize = 16 << 20;

impl Device {
    fn open(&mut self) -> std::result::Result<Gpu, GpuError> {
        if let Some(gpu) = &self.gpu {
            return Ok(gpu.clone());
        }
        let gpu = threads::with_signals_blocked(|| self.open_device())?;
        self.gpu = Some(gpu.clone());
        Ok(gpu)
    }

    #[cfg(feature = "simulated-gpu")]
    fn open_device(&self) -> std::result::Result<Gpu, GpuError> {
        if !self.simulated {
            return self.open_real();
        }
        devices::choose(&self.allowed, &[devices::SIMULATED])?;
        Ok(Gpu::open_simulated())
    }

    #[cfg(not(feature = "simulated-gpu"))]
    fn open_device(&self) -> std::result::Result<Gpu, GpuError> {
        self.open_real()
    }

    fn open_real(&self) -> std::result::Result<Gpu, GpuError> {
        Gpu::open(devices::chosen_device(
            &self.allowed,
            &omen_gpu::devices()?,
        )?)
    }

    /// Loads the tier of an index, in place of the one that is there: all of it if that fits, else what fits best.
    pub(super) fn load(
        &mut self,
        pages: &IndexPages,
        index: &Index,
        file: FileId,
    ) -> std::result::Result<(), Stop> {
        let began = Instant::now();
        self.tiers.remove(&file);
        let gpu = self.open()?;
        let spec = TierSpec {
            metric: index.metric(),
            dim: index.dim(),
            n_lists: index.n_lists() as usize,
        };
        let lists = heat::hottest_first(file, index.n_lists());
        let sizes: Vec<u32> = read_entries(pages, index, &lists)?
            .iter()
            .map(|entry| entry.frozen_count)
            .collect();
        let shape = LadderShape {
            spec,
            filter: index.meta.shape().filter,
            list_sizes: &sizes,
        };
        let all: u64 = sizes.iter().map(|&n| u64::from(n)).sum();
        let rung = rung(&shape, self.limit(&gpu)?);
        let (parts, chosen, n_slots) = match rung {
            Rung::CodesAndRows | Rung::Nothing => (Parts::of(shape.filter), lists.clone(), all),
            Rung::CodesOnly => (Parts::Codes, lists.clone(), all),
            Rung::HottestLists { chosen, n_slots } => {
                let chosen = chosen.into_iter().map(|i| lists[i]).collect();
                (Parts::of(shape.filter), chosen, n_slots)
            }
        };
        let plan = TierPlan::new(&spec, parts, with_spare(n_slots))?;
        // Of an index of which nothing fits this says how much would be needed.
        let limit = self.make_room(&gpu, plan.bytes_needed())?;
        let copiers = if plan.bytes < THREADS_FROM_BYTES {
            Copiers::none()
        } else {
            threads::with_signals_blocked(Copiers::start)
        };
        let n_slots = plan.n_slots as u64;
        let mut builder = TierBuilder::with_parts(&gpu, spec, parts, n_slots, limit, copiers)?;
        // Should the user cancel within, the builder ends its threads and gives the memory back.
        builder.load_centroids(pages, index)?;
        builder.load_lists(pages, index, &chosen)?;
        let tier = builder.finish()?;
        // SAFETY: `IndexPages` holds an open relation.
        let relation = unsafe { (*pages.rel()).rd_id };
        let mut loaded = LoadedTier::new(tier, began.elapsed(), relation, index);
        loaded.is_whole = chosen.len() == lists.len();
        self.tiers.insert(file, loaded);
        Ok(())
    }

    /// What all tiers together may take.
    fn limit(&self, gpu: &Gpu) -> std::result::Result<u64, GpuError> {
        let (free, _) = gpu.memory()?;
        // Others may have taken what the setting allows.
        let most = free + self.tier_bytes();
        let share = (most as f64 * DEFAULT_SHARE) as u64;
        Ok(guc::gpu_memory_limit().map_or(share, |limit| limit.min(most)))
    }

    /// Drops tiers until `needed` bytes fit the limit. Returns what one more tier may take.
    fn make_room(&mut self, gpu: &Gpu, needed: u64) -> std::result::Result<u64, GpuError> {
        loop {
            let used = self.tier_bytes();
            let limit = self.limit(gpu)?;
            let available = limit.saturating_sub(used);
            let oldest = self
                .tiers
                .iter()
                .min_by_key(|(_, loaded)| (loaded.goes_last, loaded.used_at()))
                .map(|(file, _)| *file);
            match oldest {
                Some(file) if needed > available && needed <= limit => {
                    self.tiers.remove(&file);
                }
                _ if needed > available => {
                    return Err(GpuError::OutOfMemory { needed, available });
                }
                _ => return Ok(available),
            }
        }
    }
}

impl From<LoadError> for Stop {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Index(error) => error.into(),
            LoadError::Gpu(error) => error.into(),
        }
    }
}
