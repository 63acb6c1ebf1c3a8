//! The hot tier of an index: its entries in device memory, searched in batches.

use crate::batch::{Batch, BatchFound, BatchSearch};
use crate::catalog::Catalog;
use crate::context::Wait;
use crate::engine::Engine;
use crate::error::GpuError;
use crate::free_slots::FreeSlots;
use crate::memory::{Parts, TierPlan};
use crate::query::TierQuery;
use crate::search::{FoundList, Search, SearchTimes, candidates_from};
use crate::staging::bounded;
use crate::tier_builder::Written;
use crate::tier_image::TierImage;
use bytemuck::{Pod, Zeroable};
use omen_ivf::form::RowForm;
use omen_ivf::index::Index;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::AppendedTo;
use omen_ivf::topk::Candidates;
use omen_ivf::write_index::IndexSpec;
use omen_ivf::{Metric, Tid};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// What a tier is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierSpec {
    /// Metric of the index.
    pub metric: Metric,
    /// Dimension of the vectors that lists are chosen by: of rows that are vectors the rows', else of their coarse vectors.
    pub dim: usize,
    /// Words of 16 bits of a row: of vectors `dim`.
    pub row_words: usize,
    /// Lists of the index.
    pub n_lists: usize,
}

impl TierSpec {
    /// For an index.
    pub fn of(index: &Index) -> Self {
        Self::of_form(index.metric(), &index.form, index.n_lists())
    }

    /// For an index that is to be written.
    pub fn of_new(index: &IndexSpec) -> Self {
        Self::of_form(index.metric, &index.form(), index.lists)
    }

    fn of_form(metric: Metric, form: &RowForm, lists: u32) -> Self {
        Self {
            metric,
            dim: form.coarse_dim() as usize,
            row_words: form.row_words() as usize,
            n_lists: lists as usize,
        }
    }

    /// For an index whose rows are vectors.
    pub fn of_vectors(metric: Metric, dim: usize, n_lists: usize) -> Self {
        Self {
            metric,
            dim,
            row_words: dim,
            n_lists,
        }
    }

    /// Words of 32 bits that a query brings besides its vector: of strings of bits its own string.
    pub fn bit_words(&self) -> usize {
        match self.metric.is_of_bits() {
            true => self.row_words.div_ceil(2),
            false => 0,
        }
    }

    /// Words of 32 bits of a query: `omen_ivf`'s `Query::words`.
    pub fn query_words(&self) -> usize {
        self.dim + self.bit_words()
    }
}

/// A list in the tier, and the state of the index it was loaded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TierList {
    /// First slot.
    pub first_slot: u32,
    /// Slots, dead entries included.
    pub n_slots: u32,
    /// Live entries of the frozen part when the list was read.
    pub n_live: u32,
    /// Slots that are its own from the first one on, at least as many: what is appended to it goes there.
    pub n_room: u32,
    /// `ListEntry::layout_gen` when the list was read.
    pub layout_gen: u32,
    /// `ListEntry::delete_gen` when the list was read.
    pub delete_gen: u32,
    /// Live bits of its last word, where it ends within one and that is known; else 0.
    pub last_live: u32,
    /// The entries appended to the list that are here too, behind the frozen ones.
    pub appended: AppendedTo,
}

impl TierList {
    /// A list as its directory entry was, in the first `n_slots` of the slots `taken` for it, with what was appended as far as that.
    pub(crate) fn of(
        entry: &ListEntry,
        taken: Range<usize>,
        n_slots: usize,
        appended: AppendedTo,
    ) -> Self {
        Self {
            first_slot: taken.start as u32,
            n_slots: n_slots as u32,
            n_live: entry.n_live(),
            n_room: taken.len() as u32,
            layout_gen: entry.layout_gen,
            delete_gen: entry.delete_gen,
            last_live: 0,
            appended,
        }
    }

    /// Its slots.
    pub fn slots(&self) -> Range<usize> {
        let first = self.first_slot as usize;
        first..first + self.n_slots as usize
    }

    /// Its slots, and those that it may come to use.
    pub fn room(&self) -> Range<usize> {
        let first = self.first_slot as usize;
        first..first + self.n_room.max(self.n_slots) as usize
    }

    /// What is here of the list, whatever is known of later changes to it.
    pub fn without_version(self) -> Self {
        Self {
            appended: self.appended.without_version(),
            ..self
        }
    }

    /// Whether what is here of the list is as the index has it now, by the directory entry as just read; more may have been appended to it.
    pub fn is_current(&self, entry: &ListEntry) -> bool {
        (self.layout_gen, self.delete_gen) == (entry.layout_gen, entry.delete_gen)
            && self.appended.is_current(entry)
    }
}

/// A refresh under way: the tier as it was at the beginning, and what writes to its memory, which lives as long as that.
pub struct Refresh<W: ?Sized = dyn Engine> {
    /// Writes.
    pub writer: Box<W>,
    /// What the tier is for.
    pub spec: TierSpec,
    /// Where its arrays are.
    pub plan: TierPlan,
    /// What tier and scratch may take.
    pub byte_limit: u64,
    /// Its lists.
    pub lists: Vec<Option<TierList>>,
}

fn check_lists(
    lists: &[Option<TierList>],
    spec: TierSpec,
    plan: &TierPlan,
) -> Result<(), GpuError> {
    if lists.len() != spec.n_lists {
        return Err(GpuError::Other("the lists are not the index's".into()));
    }
    FreeSlots::beside(lists, plan.n_slots).map(|_| ())
}

/// Entries of some lists of an index, in the memory of one device. Made by [`crate::TierBuilder`].
pub struct Tier {
    catalog: Catalog,
    plan: TierPlan,
    has_centroids: bool,
    byte_limit: u64,
    /// Whether the entries are in another process's memory.
    pub(crate) is_mapped: bool,
    engine: Mutex<Box<dyn Engine>>,
    last_times: Mutex<SearchTimes>,
}

impl Tier {
    /// The tier that a load has written. Errors: `Other` if its lists are not as many as the index's, or reach beyond its slots.
    pub fn new(written: Written<dyn Engine>) -> Result<Self, GpuError> {
        let Written {
            writer,
            spec,
            plan,
            byte_limit,
            lists,
            has_centroids,
        } = written;
        check_lists(&lists, spec, &plan)?;
        Ok(Self {
            catalog: Catalog::new(spec, plan.pitch, lists),
            plan,
            has_centroids,
            byte_limit,
            is_mapped: false,
            engine: Mutex::new(writer),
            last_times: Mutex::default(),
        })
    }

    /// What the tier is for.
    pub fn spec(&self) -> TierSpec {
        self.catalog.spec()
    }

    /// What the tier holds of its entries.
    pub fn parts(&self) -> Parts {
        self.plan.parts
    }

    /// Whether the centroids are here, so that the device can choose lists.
    pub fn has_centroids(&self) -> bool {
        self.has_centroids
    }

    /// The list that `slot` belongs to, and its number in the list; None for slots that no list uses.
    pub fn place_of(&self, slot: u32) -> Option<(u32, u32)> {
        self.catalog.place_of(slot)
    }

    /// Slots it was planned for.
    pub(crate) fn n_slots(&self) -> usize {
        self.plan.n_slots
    }

    /// Bytes of device memory held: entries, unless they are another process's, and, once searched, scratch.
    pub fn bytes(&self) -> u64 {
        let scratch = self
            .engine
            .lock()
            .map_or(0, |engine| engine.scratch_bytes());
        let entries = if self.is_mapped { 0 } else { self.plan.bytes };
        entries as u64 + scratch
    }

    /// Per list of the index: what is here, or None if the list is not.
    pub fn lists(&self) -> &[Option<TierList>] {
        self.catalog.lists()
    }

    /// A list, if what is here of it is as the index has it now, by the directory entry as just read; more may have been appended to it.
    pub fn current(&self, list: u32, entry: &ListEntry) -> Option<&TierList> {
        let here = self.catalog.lists().get(list as usize)?.as_ref();
        here.filter(|here| here.is_current(entry))
    }

    /// Searches a batch, exactly: for each query the nearest live entries of its lists.
    ///
    /// The result's items are ascending by (key, tid); their keys are the hard lower bounds of `omen_ivf`'s `bound.rs`; every
    /// live entry of the query's lists that is not among them has a key of at least `frontier`, which is +inf if nothing is
    /// left out. Items are those with keys up to the frontier: usually somewhat more than k; if fewer, ask for a larger k.
    ///
    /// `rounding`: the index's g. `deadline`: for the whole batch; past it the device is given up (`TimedOut`, then `Lost`).
    /// `poll` is called while waiting, and ends the wait by returning an error ([`GpuError::Interrupted`]).
    /// Other errors: `NotResident`, `Unsupported` (k or coordinates too large), `OutOfMemory` (scratch within the byte limit),
    /// `Busy` (another thread is searching).
    pub fn search(
        &self,
        queries: &[TierQuery<'_>],
        rounding: f32,
        deadline: Duration,
        poll: &mut dyn FnMut() -> Result<(), GpuError>,
    ) -> Result<Vec<Candidates>, GpuError> {
        let found = self.search_found(queries, rounding, deadline, poll)?;
        let candidates = |list: &FoundList| candidates_from(&list.items, list.frontier);
        Ok(found.iter().map(candidates).collect())
    }

    /// As [`Self::search`], with the slots of the entries.
    pub fn search_found(
        &self,
        queries: &[TierQuery<'_>],
        rounding: f32,
        deadline: Duration,
        poll: &mut dyn FnMut() -> Result<(), GpuError>,
    ) -> Result<Vec<FoundList>, GpuError> {
        if !self.plan.parts.rows() {
            return Err(GpuError::Unsupported(
                "searching rows in a tier of codes alone".into(),
            ));
        }
        let mut engine = self.lock_engine()?;
        let mut search = Search {
            catalog: &self.catalog,
            engine: engine.as_mut(),
            rounding,
            scratch_limit: self.scratch_limit(),
            wait: Wait {
                until: Instant::now() + deadline,
                poll,
            },
            times: SearchTimes::default(),
        };
        let results = search.run(queries);
        self.note_times(search.times);
        results
    }

    /// A second writer to the tier's memory, for lists that are to replace some: it may write to what is [`FreeSlots`] beside the tier's lists,
    /// while searches go on. Errors: `Busy`, `Unsupported` for a tier that is another process's, and those of the device.
    pub fn begin_refresh(&self) -> Result<Refresh, GpuError> {
        if self.is_mapped {
            return Err(GpuError::Unsupported(
                "writing to another process's tier".into(),
            ));
        }
        Ok(Refresh {
            writer: self.lock_engine()?.second()?,
            spec: self.catalog.spec(),
            plan: self.plan.clone(),
            byte_limit: self.byte_limit,
            lists: self.catalog.lists().to_vec(),
        })
    }

    /// Takes over what a refresh has written: `lists` are the tier's from now on. Errors: as for [`Self::new`]; then it stays as it was.
    pub fn end_refresh(&mut self, lists: Vec<Option<TierList>>) -> Result<(), GpuError> {
        let (spec, pitch) = (self.catalog.spec(), self.catalog.pitch());
        check_lists(&lists, spec, &self.plan)?;
        self.catalog = Catalog::new(spec, pitch, lists);
        Ok(())
    }

    /// A copy of the tier's arrays. Errors: `Busy`, and those of the device.
    pub fn read_back(&self) -> Result<TierImage, GpuError> {
        let mut engine = self.lock_engine()?;
        TierImage::new(self.plan.clone(), self.catalog.metric(), |bytes| {
            bounded(|wait| engine.read_tier(0, bytes, wait))
        })
    }

    /// The list of each of `wanted` that is here, of a tier with rows. Reads the tids of all entries back. Errors: `Busy`, and those of the device.
    pub fn lists_of(&self, wanted: &HashSet<Tid>) -> Result<HashMap<Tid, u32>, GpuError> {
        if !self.plan.parts.rows() {
            return Err(GpuError::Unsupported(
                "tids in a tier of codes alone".into(),
            ));
        }
        let mut tids = vec![0u64; self.plan.n_slots];
        let mut engine = self.lock_engine()?;
        let bytes = bytemuck::cast_slice_mut(&mut tids);
        bounded(|wait| engine.read_tier(self.plan.tids, bytes, wait))?;
        let mut found = HashMap::with_capacity(wanted.len());
        for (list, number) in self.catalog.lists().iter().zip(0..) {
            for &tid in list.iter().flat_map(|list| &tids[list.slots()]) {
                let tid = Tid::new(tid as u32, (tid >> 32) as u16);
                if wanted.contains(&tid) {
                    found.insert(tid, number);
                }
            }
        }
        Ok(found)
    }

    /// Searches a batch that the device answers on its own: it chooses the lists by the index's centroids.
    ///
    /// The result is as [`Tier::search`]'s: of each query at most `k` items, ascending by (key, tid), with hard lower and upper bounds, and a
    /// frontier below which nothing else of the lists searched lies. Lists of `batch.skipped`, and those that are not here, count as empty.
    ///
    /// A tier of codes alone ([`Self::parts`]) names slots in place of items ([`BatchFound::slots_of`]), for the caller to look at; the
    /// frontier holds as statistically as their bounds. Queries whose head has `overflow` were not answered.
    ///
    /// Errors: as for `search`; `Unsupported` also without centroids (see [`Self::has_centroids`]), and for a k or a number of lists beyond
    /// what the kernels take; from codes alone also for `Lists::All`, which is exact.
    pub fn search_batch(
        &self,
        batch: &mut Batch<'_>,
        rounding: f32,
        deadline: Duration,
        poll: &mut dyn FnMut() -> Result<(), GpuError>,
    ) -> Result<BatchFound, GpuError> {
        if !self.has_centroids {
            return Err(GpuError::Unsupported(
                "the tier does not know the index's centroids".into(),
            ));
        }
        let mut engine = self.lock_engine()?;
        let mut search = BatchSearch {
            catalog: &self.catalog,
            has_rows: self.plan.parts.rows(),
            engine: engine.as_mut(),
            rounding,
            scratch_limit: self.scratch_limit(),
            wait: Wait {
                until: Instant::now() + deadline,
                poll,
            },
            times: SearchTimes::default(),
        };
        let found = search.run(batch);
        self.note_times(search.times);
        found
    }

    /// Where the time of the last search went.
    pub fn last_times(&self) -> SearchTimes {
        self.last_times
            .lock()
            .map_or_else(|_| SearchTimes::default(), |times| *times)
    }

    /// The engine, for one search at a time: `Busy` while another thread has it.
    pub(crate) fn lock_engine(&self) -> Result<MutexGuard<'_, Box<dyn Engine>>, GpuError> {
        match self.engine.try_lock() {
            Ok(engine) => Ok(engine),
            Err(TryLockError::WouldBlock) => Err(GpuError::Busy),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        }
    }

    /// Bytes of scratch that a search may hold beside the entries.
    fn scratch_limit(&self) -> u64 {
        self.byte_limit.saturating_sub(self.plan.bytes as u64)
    }

    fn note_times(&self, times: SearchTimes) {
        if let Ok(mut last) = self.last_times.lock() {
            *last = times;
        }
    }
}
