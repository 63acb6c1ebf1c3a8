//! Builds a tier: from an index's pages (`load.rs`), while they are written (`load/written.rs`), or entry by entry (`entries.rs`).

pub(crate) mod entries;
mod pieces;

use crate::copiers::Copiers;
use crate::device::Gpu;
use crate::engine::{Engine, LoadShape, StageShape, TierWriter};
use crate::error::GpuError;
use crate::free_slots::{FreeSlots, merged, own_words};
use crate::load::LoadTimes;
use crate::memory::{Parts, TierPlan, room_of_list};
use crate::staging::{Staging, bounded};
use crate::tier::{Refresh, Tier, TierList, TierSpec};
use half::f16;
use omen_ivf::rotation::Rotation;
use std::ops::Range;

use entries::OpenList;
use pieces::Pieces;

/// What a load leaves, ended: a tier, if `writer` is an engine ([`Tier::new`]); else what the owner of the engine must be told.
pub struct Written<W: ?Sized> {
    /// What wrote.
    pub writer: Box<W>,
    /// What the tier is for.
    pub spec: TierSpec,
    /// Where its arrays are.
    pub plan: TierPlan,
    /// What tier and scratch may take.
    pub byte_limit: u64,
    /// Per list of the index: what was loaded, None if it was not.
    pub lists: Vec<Option<TierList>>,
    /// Whether the centroids were written.
    pub has_centroids: bool,
}

/// Builds a [`Tier`]. From pages: [`TierBuilder::load_lists`]. Entry by entry: for each list `begin_list`, `push` for
/// slots 0, 1, 2 ..., `end_list`. With a writer that is not an engine, what comes out is [`Written`].
pub struct TierBuilder<W: TierWriter + ?Sized = dyn Engine> {
    // First: until it is dropped, its threads write to the writer's areas.
    pub(crate) staging: Staging,
    pub(crate) writer: Box<W>,
    spec: TierSpec,
    plan: TierPlan,
    byte_limit: u64,
    pub(crate) lists: Vec<Option<TierList>>,
    /// f16 `[n_lists, centroid_pitch]` and f32 `[n_lists]`; empty if they were not given.
    centroids: (Vec<f16>, Vec<f32>),
    rotation: Option<Rotation>,
    open: Option<OpenList>,
    /// Slots to be filled, and those that were at the beginning.
    free: FreeSlots,
    free_at_first: FreeSlots,
    /// Per list that was there at the beginning, the words of live bits that are its alone; and those of lists that were renewed.
    pub(crate) own_words: Vec<Option<Range<usize>>>,
    pub(crate) renewed: Vec<Range<usize>>,
}

impl TierBuilder<dyn Engine> {
    /// Bytes of device memory a tier of `n_slots` entries without codes takes at least, scratch for searches included.
    pub fn bytes_needed(spec: &TierSpec, n_slots: u64) -> Result<u64, GpuError> {
        Ok(TierPlan::new(spec, Parts::Rows, n_slots)?.bytes_needed())
    }

    /// As [`TierBuilder::with_parts`], without codes and threads.
    pub fn begin(
        gpu: &Gpu,
        spec: TierSpec,
        n_slots: u64,
        byte_limit: u64,
    ) -> Result<Self, GpuError> {
        Self::with_parts(gpu, spec, Parts::Rows, n_slots, byte_limit, Copiers::none())
    }

    /// Allocates device memory for `n_slots` entries. The tier and its scratch never take more than `byte_limit`.
    /// Errors: `OutOfMemory` with what is needed and there, `Unsupported` for more than 2^31 entries.
    pub fn with_parts(
        gpu: &Gpu,
        spec: TierSpec,
        parts: Parts,
        n_slots: u64,
        byte_limit: u64,
        copiers: Copiers,
    ) -> Result<Self, GpuError> {
        let (plan, engine) = gpu.tier_engine(&spec, parts, n_slots, byte_limit)?;
        Ok(Self::over(engine, spec, plan, byte_limit, copiers))
    }

    /// Copies what is left and makes the tier.
    pub fn finish(self) -> Result<Tier, GpuError> {
        Tier::new(self.end()?)
    }
}

impl<W: TierWriter + ?Sized> TierBuilder<W> {
    /// Builds the tier that `writer` writes, of this plan (made for `spec`).
    pub fn over(
        writer: Box<W>,
        spec: TierSpec,
        plan: TierPlan,
        byte_limit: u64,
        copiers: Copiers,
    ) -> Self {
        let free = FreeSlots::all(plan.n_slots);
        let shape = StageShape::new(&spec, plan.parts);
        let mut builder = Self {
            staging: Staging::new(copiers, shape, plan.n_slots),
            writer,
            byte_limit,
            lists: vec![None; spec.n_lists],
            centroids: Default::default(),
            rotation: None,
            open: None,
            own_words: vec![None; spec.n_lists],
            renewed: Vec::new(),
            free_at_first: free.clone(),
            free,
            spec,
            plan,
        };
        builder.set_load_shape(LoadShape::DEFAULT);
        builder
    }

    /// Refreshes a tier: lists that are loaded replace those of the same number, others stay as they are. Centroids and rotation too. What comes
    /// of it is for [`Tier::end_refresh`]. Errors: `Other` if the lists are not those of a tier of this plan.
    pub fn refresh(refresh: Refresh<W>, copiers: Copiers) -> Result<Self, GpuError> {
        let Refresh {
            writer,
            spec,
            plan,
            byte_limit,
            lists,
        } = refresh;
        let free = FreeSlots::beside(&lists, plan.n_slots)?;
        if lists.len() != spec.n_lists {
            return Err(GpuError::Other("the tier is for another index".into()));
        }
        let mut builder = Self::over(writer, spec, plan, byte_limit, copiers);
        builder.own_words = own_words(&lists);
        builder.lists = lists;
        builder.free_at_first = free.clone();
        builder.free = free;
        Ok(builder)
    }

    /// Gives each list whole words of live bits, so that they can be renewed in place; for a plan with room for that, before lists are loaded.
    pub fn align_lists(&mut self) {
        self.free = self.free.clone().in_whole_words();
        self.free_at_first = self.free.clone();
    }

    /// What the tier is for.
    pub fn spec(&self) -> TierSpec {
        self.spec
    }

    /// What the tier holds of its entries.
    pub fn parts(&self) -> Parts {
        self.plan.parts
    }

    /// Loads in another way than the usual one, to compare; before anything is given. Larger areas may take memory of the device
    /// beyond the limit until `finish`. Areas stay as they are where the writer has its own.
    pub fn set_load_shape(&mut self, shape: LoadShape) {
        let shape = self.writer.set_load_shape(shape.within_bounds());
        self.staging.set_load_shape(shape);
    }

    /// What loading has waited for until now.
    pub fn load_times(&self) -> LoadTimes {
        self.staging.times()
    }

    /// The next `n` slots in a row, or a few more; None if there are not so many.
    pub(crate) fn take_slots(&mut self, n: usize) -> Option<Range<usize>> {
        self.free.take(n)
    }

    /// Slots for a list of `n` entries, with those that it may come to use where lists have whole words of live bits. What is appended to lists is
    /// in no tier of codes alone.
    pub(crate) fn with_growth(&self, n: usize) -> usize {
        if n > 0 && self.free.are_whole_words() && self.plan.parts.rows() {
            room_of_list(n)
        } else {
            n
        }
    }

    /// Slots of the tier.
    pub(crate) fn n_slots(&self) -> usize {
        self.plan.n_slots
    }

    /// Slots that are free.
    pub fn n_free(&self) -> usize {
        self.free.n()
    }

    /// Per list: what is in the tier, or will be.
    pub fn lists(&self) -> &[Option<TierList>] {
        &self.lists
    }

    /// Gives the centroids as stored (`[n_lists, dim]`), so that the device can choose lists.
    pub fn set_centroids(&mut self, rows: &[f16]) -> Result<(), GpuError> {
        let (dim, pitch, n_lists) = (self.spec.dim, self.plan.centroid_pitch, self.spec.n_lists);
        if rows.len() != n_lists * dim {
            return Err(GpuError::Other(format!(
                "{} numbers for {n_lists} centroids of {dim} dimensions",
                rows.len()
            )));
        }
        let (mut padded, mut norms) = (vec![f16::ZERO; n_lists * pitch], Vec::new());
        let mut wide = vec![0.0; dim];
        for (to, row) in padded.chunks_exact_mut(pitch).zip(rows.chunks_exact(dim)) {
            to[..dim].copy_from_slice(row);
            omen_distance::f32_from_f16(row, &mut wide);
            norms.push(norm_sq(&wide) as f32);
        }
        self.centroids = (padded, norms);
        Ok(())
    }

    /// Gives the rotation of the codes, without which they are not searched.
    pub fn set_rotation(&mut self, rotation: &Rotation) {
        self.rotation = Some(rotation.clone());
    }

    /// Copies what is left, and ends the threads and the writing.
    pub fn end(self) -> Result<Written<W>, GpuError> {
        let Self {
            staging,
            mut writer,
            spec,
            plan,
            byte_limit,
            lists,
            centroids: (centroids, norms),
            rotation,
            free,
            free_at_first,
            renewed,
            ..
        } = self;
        let LoadShape {
            n_areas,
            area_bytes,
            ..
        } = staging.load_shape();
        let live = staging.finish(writer.as_mut())?;
        let has_centroids = !centroids.is_empty();
        let mut words = free.words_taken_from(&free_at_first);
        words.extend(merged(renewed));
        let live = words.into_iter().map(|words| {
            (
                bytemuck::cast_slice::<u32, u8>(&live[words.clone()]),
                plan.live + 4 * words.start,
            )
        });
        let mut pieces = Pieces::new(writer.as_mut(), n_areas, area_bytes);
        for (array, at) in live.chain([
            (bytemuck::cast_slice(&centroids), plan.centroids),
            (bytemuck::cast_slice(&norms), plan.centroid_norms),
        ]) {
            pieces.write(array, at)?;
        }
        pieces.send()?;
        bounded(|wait| writer.end_writes(wait))?;
        if let Some(rotation) = &rotation {
            bounded(|wait| writer.set_rotation(rotation, wait))?;
        }
        Ok(Written {
            writer,
            spec,
            plan,
            byte_limit,
            lists,
            has_centroids,
        })
    }
}

/// Squared norm, summed in f64 in eight lanes: one after the other the additions would wait for each other.
fn norm_sq(row: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    for part in row.chunks(8) {
        for (lane, &x) in lanes.iter_mut().zip(part) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum()
}
