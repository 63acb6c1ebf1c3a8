//! Opening the GPU and loading a hot tier.
#![allow(unsafe_code)]

use std::time::Instant;

use omen_gpu::{Gpu, GpuError, TierBuilder, TierSpec};
use omen_ivf::index::{Index, read_entries};

use super::devices;
use super::tiers::{Device, LoadedTier, Stop};
use crate::compat::FileId;
use crate::error::Result;
use crate::storage::IndexPages;
use crate::{guc, threads};

/// Share of the free device memory that tiers take when `omen.gpu_memory_limit` is 0.
const DEFAULT_SHARE: f64 = 0.8;

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

    /// Loads the tier of an index, in place of the one that is there.
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
        let n_slots = slots_wanted(pages, index)?;
        let needed = TierBuilder::bytes_needed(&spec, n_slots)?;
        let limit = self.make_room(&gpu, needed)?;
        let mut builder = TierBuilder::begin(&gpu, spec, n_slots, limit)?;
        for list in 0..index.n_lists() {
            // Device memory goes with the builder if the user cancels here.
            pgrx::check_for_interrupts!();
            builder.begin_list(list);
            let entry = omen_ivf::export::export_list(
                pages,
                index,
                list,
                &mut |slot, tid, live, err, row| builder.push(slot, tid, live, err, row),
            )?;
            let loaded = builder.end_list(entry.frozen_count, entry.layout_gen, entry.delete_gen);
            // A list that grew beyond the room left meanwhile stays out: the CPU searches it.
            if let Err(error @ (GpuError::Lost(_) | GpuError::TimedOut)) = loaded {
                return Err(error.into());
            }
        }
        let tier = builder.finish()?;
        // SAFETY: `IndexPages` holds an open relation.
        let relation = unsafe { (*pages.rel()).rd_id };
        self.tiers.insert(
            file,
            LoadedTier::new(tier, began.elapsed(), relation, index),
        );
        Ok(())
    }

    /// Drops tiers until `needed` bytes fit the limit. Returns what one more tier may take.
    fn make_room(&mut self, gpu: &Gpu, needed: u64) -> std::result::Result<u64, GpuError> {
        loop {
            let used = self.tier_bytes();
            let (free, _) = gpu.memory()?;
            let limit =
                guc::gpu_memory_limit().unwrap_or(((free + used) as f64 * DEFAULT_SHARE) as u64);
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

/// Entries to make room for: those there are, and some for lists that are rewritten while the tier is loaded.
fn slots_wanted(pages: &IndexPages, index: &Index) -> Result<u64> {
    let lists: Vec<u32> = (0..index.n_lists()).collect();
    let entries = read_entries(pages, index, &lists)?;
    let frozen: u64 = entries
        .iter()
        .map(|entry| u64::from(entry.frozen_count))
        .sum();
    Ok(frozen + frozen / 64 + 4096)
}
