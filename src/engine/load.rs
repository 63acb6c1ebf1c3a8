//! Opening the GPU and loading a hot tier.

use std::time::Instant;

use omen_gpu::memory::{LadderShape, Parts, Rung, TierPlan, rung, with_room, with_spare};
use omen_gpu::{Copiers, Gpu, GpuError, LoadError, TierBuilder, TierSpec};
use omen_ivf::index::{Index, read_entries};
use omen_ivf::list_reader::AppendedTo;

use super::fallback::unsupported;
use super::refresh::{MAX_ROUNDS, write_stale};
use super::tiers::{Device, LoadedTier, Stop};
use super::{devices, heat};
use crate::compat::FileId;
use crate::storage::IndexPages;
use crate::{guc, threads};

/// Share of the free device memory that tiers take when `omen.gpu_memory_limit` is 0.
const DEFAULT_SHARE: f64 = 0.8;
/// A tier that takes no more than one in so many parts of what others leave has room for lists to be refreshed.
const ROOMY_SHARE: u64 = 2;
/// Smaller tiers are loaded before threads to copy them would have started.
const THREADS_FROM_BYTES: usize = 16 << 20;

/// What is to be loaded of an index.
pub(crate) struct Choice {
    pub(crate) spec: TierSpec,
    pub(crate) parts: Parts,
    /// The lists, in the order of loading.
    pub(crate) lists: Vec<u32>,
    /// What that takes.
    pub(crate) plan: TierPlan,
    /// Whether that is with room for lists to be refreshed.
    pub(crate) has_room: bool,
}

impl Choice {
    /// Whether these are all entries of the index, be it by their codes alone.
    pub(crate) fn is_whole(&self) -> bool {
        self.lists.len() == self.spec.n_lists
    }

    /// All of the index if it fits `limit` bytes, of which other tiers have `taken`, else what fits best; all of it too if nothing does.
    pub(crate) fn new(
        pages: &IndexPages,
        index: &Index,
        limit: u64,
        taken: u64,
    ) -> std::result::Result<Self, Stop> {
        if let Some(why) = unsupported(index) {
            return Err(why.into());
        }
        let spec = spec_of(index);
        let lists = heat::hottest_first(pages.file(), index.n_lists());
        let sizes: Vec<u32> = read_entries(pages, index, &lists)?
            .iter()
            .map(|entry| {
                let appended = AppendedTo::NOTHING.n_lacking(index, entry);
                entry.frozen_count.saturating_add(appended)
            })
            .collect();
        let shape = LadderShape {
            spec,
            filter: index.meta.shape().filter,
            list_sizes: &sizes,
        };
        let chosen = rung(&shape, limit);
        let all: u64 = sizes.iter().map(|&n| u64::from(n)).sum();
        let is_whole = matches!(chosen, Rung::CodesAndRows | Rung::CodesOnly);
        let (parts, lists, n_slots) = match chosen {
            Rung::CodesAndRows | Rung::Nothing => (Parts::of(shape.filter), lists, all),
            Rung::CodesOnly => (Parts::Codes, lists, all),
            Rung::HottestLists { chosen, n_slots } => {
                let chosen = chosen.into_iter().map(|i| lists[i]).collect();
                (Parts::of(shape.filter), chosen, n_slots)
            }
        };
        let left = limit.saturating_sub(taken);
        let roomy = with_room(n_slots, spec.n_lists);
        let (plan, has_room) = match TierPlan::new(&spec, parts, roomy) {
            Ok(plan) if is_whole && is_ample(plan.bytes_needed(), left) => (plan, true),
            _ => (TierPlan::new(&spec, parts, with_spare(n_slots))?, false),
        };
        Ok(Self {
            has_room,
            plan,
            spec,
            parts,
            lists,
        })
    }
}

/// Whether a tier that needs so many bytes takes no more than its share of `room`: then it may have room for lists to be refreshed.
pub(super) fn is_ample(needed: u64, room: u64) -> bool {
    needed <= room / ROOMY_SHARE
}

/// What a tier of an index is for.
pub(crate) fn spec_of(index: &Index) -> TierSpec {
    TierSpec::of(index)
}

/// Threads to load such a tier.
pub(crate) fn copiers_for(plan: &TierPlan) -> Copiers {
    if plan.bytes < THREADS_FROM_BYTES {
        Copiers::none()
    } else {
        threads::with_signals_blocked(Copiers::start)
    }
}

/// What all tiers of this process together may take, `used` bytes of it being theirs already.
pub(crate) fn limit(gpu: &Gpu, used: u64) -> std::result::Result<u64, GpuError> {
    let (free, _) = gpu.memory()?;
    // Others may have taken what the setting allows.
    let most = free + used;
    let share = (most as f64 * DEFAULT_SHARE) as u64;
    Ok(guc::gpu_memory_limit().map_or(share, |limit| limit.min(most)))
}

impl Device {
    pub(super) fn open(&mut self) -> std::result::Result<Gpu, GpuError> {
        if let Some(gpu) = &self.gpu {
            return Ok(gpu.clone());
        }
        let gpu;
        (gpu, self.ordinal) = devices::open(&self.allowed, self.simulated)?;
        self.gpu = Some(gpu.clone());
        Ok(gpu)
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
        let limit = self.limit(&gpu)?;
        let Choice {
            spec,
            parts,
            lists,
            plan,
            has_room,
        } = Choice::new(pages, index, limit, self.tier_bytes())?;
        // Of an index of which nothing fits this says how much would be needed.
        let limit = self.make_room(&gpu, plan.bytes_needed())?;
        let copiers = copiers_for(&plan);
        let n_slots = plan.n_slots as u64;
        let mut builder = TierBuilder::with_parts(&gpu, spec, parts, n_slots, limit, copiers)?;
        if has_room {
            builder.align_lists();
        }
        // Should the user cancel within, the builder ends its threads and gives the memory back.
        builder.load_centroids(pages, index)?;
        builder.load_lists(pages, index, &lists)?;
        let tier = builder.finish()?;
        let mut loaded = LoadedTier::new(tier, began.elapsed(), pages.relation(), index);
        loaded.is_whole = lists.len() == spec.n_lists;
        self.tiers.insert(file, loaded);
        Ok(())
    }

    /// Brings the tier of an index up to date, if it is there, has all of the index, and room for that. Returns whether it is; else it is to be
    /// loaded, which may give it more of the index.
    pub(super) fn refresh(
        &mut self,
        pages: &IndexPages,
        index: &Index,
        file: FileId,
    ) -> std::result::Result<bool, Stop> {
        let mut n_lacking = 0;
        for _ in 0..MAX_ROUNDS {
            let has_all = |loaded: &&mut LoadedTier| {
                loaded.is_whole && loaded.tier.parts().rows() && loaded.mapping.is_none()
            };
            let Some(loaded) = self.tier(file, index).filter(has_all) else {
                return Ok(false);
            };
            let refresh = loaded.tier.begin_refresh()?;
            let mut builder = TierBuilder::refresh(refresh, Copiers::none())?;
            let round = write_stale(&mut builder, pages, index, None)?;
            loaded.tier.end_refresh(builder.end()?.lists)?;
            loaded.note_refreshed();
            n_lacking = round.n_lacking();
            if round.is_over() || !round.has_moved() {
                break;
            }
        }
        // What was appended meanwhile is searched on pages.
        Ok(n_lacking == 0)
    }

    /// What all tiers together may take.
    pub(super) fn limit(&self, gpu: &Gpu) -> std::result::Result<u64, GpuError> {
        limit(gpu, self.tier_bytes())
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
