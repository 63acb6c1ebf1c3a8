//! What the server's process does for a load.

#![allow(unsafe_code)]

use super::command::{Command, Found, LIST_BYTES, LISTS_AREA, Wanted, decode_list, encode_list};
use super::host::Loaded;
use super::region::LoadRegion;
use crate::message::TierKey;
use omen_gpu::context::Wait;
use omen_gpu::engine::{Engine, LoadShape, StageShape, Unpack, WritePart};
use omen_gpu::free_slots::{FreeSlots, merged, own_words};
use omen_gpu::launch::unpack::Items;
use omen_gpu::memory::TierPlan;
use omen_gpu::{Gpu, GpuError, Refresh, Tier, TierList, TierSpec, Written};
use omen_ivf::layout::group::{Filter, GroupShape};
use omen_ivf::rotation::Rotation;
use std::ops::Range;

/// A load under way. Dropping it frees what it holds.
pub(super) struct Load {
    region: LoadRegion,
    key: TierKey,
    spec: TierSpec,
    plan: TierPlan,
    byte_limit: u64,
    shape: StageShape,
    engine: Box<dyn Engine>,
    /// Slots it may write to.
    free: FreeSlots,
    /// Per list of a tier that is refreshed, the words of live bits that are its alone.
    own_words: Vec<Option<Range<usize>>>,
    /// All of these, ascending, neighbours as one.
    own_ranges: Vec<Range<usize>>,
    /// Slots behind the entries of lists in these words, ascending.
    slack: Vec<Range<usize>>,
    /// Number of the tier that is refreshed, and its lists as they were; `None`: it is a new tier.
    refreshed: Option<(u64, Vec<Option<TierList>>)>,
    /// Whether all writes were waited for.
    is_written: bool,
}

impl Load {
    /// Allocates the tier's memory, within `byte_limit`.
    pub(super) fn begin(
        gpu: &Gpu,
        region: LoadRegion,
        wanted: Wanted,
        byte_limit: u64,
    ) -> Result<Self, GpuError> {
        let (spec, parts) = (wanted.spec, wanted.parts);
        let (plan, mut engine) = gpu.tier_engine(&spec, parts, wanted.n_slots, byte_limit)?;
        engine.set_load_shape(shape_of(&region));
        Ok(Self {
            region,
            key: wanted.key,
            spec,
            shape: StageShape::new(&spec, parts),
            free: FreeSlots::all(plan.n_slots),
            plan,
            byte_limit,
            engine,
            slack: Vec::new(),
            own_words: Vec::new(),
            own_ranges: Vec::new(),
            refreshed: None,
            is_written: false,
        })
    }

    /// Begins to refresh a tier, whose lists it puts into [`LISTS_AREA`].
    pub(super) fn begin_refresh(
        region: LoadRegion,
        key: TierKey,
        number: u64,
        refresh: Refresh,
    ) -> Result<(Self, Found), GpuError> {
        let Refresh {
            writer: mut engine,
            spec,
            plan,
            byte_limit,
            lists,
        } = refresh;
        engine.set_load_shape(shape_of(&region));
        tell_lists(&region, &lists)?;
        let found = Found {
            parts: plan.parts,
            n_slots: plan.n_slots as u64,
            byte_limit,
        };
        let own_words = own_words(&lists);
        let load = Self {
            region,
            key,
            spec,
            shape: StageShape::new(&spec, plan.parts),
            free: FreeSlots::beside(&lists, plan.n_slots)?,
            slack: slack(&lists, &own_words, plan.n_slots),
            own_ranges: merged(own_words.iter().flatten().cloned().collect()),
            own_words,
            plan,
            byte_limit,
            engine,
            refreshed: Some((number, lists)),
            is_written: false,
        };
        Ok((load, found))
    }

    /// What was loaded; its lists are in area `which`.
    pub(super) fn finish(self, which: usize, has_centroids: bool) -> Result<Loaded, GpuError> {
        if !self.is_written {
            return Err(GpuError::Other(
                "the end of a load that is not written".into(),
            ));
        }
        let bytes = self.spec.n_lists * LIST_BYTES;
        let mut lists = vec![0u8; bytes];
        copy_out(&self.region, which, 0..bytes, &mut lists)?;
        let (lists, _) = lists.as_chunks::<LIST_BYTES>();
        let lists: Vec<_> = lists.iter().map(decode_list).collect();
        if let Some((number, before)) = self.refreshed {
            let is_kept = |at: usize| {
                let (new, old) = (lists[at], before[at]);
                let is_in_place = || {
                    let words = self.own_words[at].as_ref();
                    new.zip(old)
                        .zip(words)
                        .is_some_and(|((new, old), words)| is_renewed(&new, &old, words))
                };
                new == old || new.is_some_and(|new| self.free.has(&new.room())) || is_in_place()
            };
            if !(0..before.len()).all(is_kept) {
                return Err(GpuError::Other("lists in slots that were not free".into()));
            }
            return Ok(Loaded::Lists(self.key, number, lists));
        }
        let tier = Tier::new(Written {
            writer: self.engine,
            spec: self.spec,
            plan: self.plan,
            byte_limit: self.byte_limit,
            lists,
            has_centroids,
        })?;
        Ok(Loaded::Tier(self.key, Box::new(tier)))
    }

    /// Whether `len` bytes at `at` of the tier may be written to: all of a new tier, else live bits of slots that are free, or of lists that have them to themselves.
    fn may_write(&self, at: usize, len: usize) -> bool {
        let Some(end) = at.checked_add(len).filter(|&end| end <= self.plan.bytes) else {
            return false;
        };
        if self.refreshed.is_none() {
            return true;
        }
        let (from, words) = (self.plan.live, self.plan.n_slots.div_ceil(32));
        let is_live = from <= at && end <= from + words * 4 && (at - from).is_multiple_of(4);
        let slots = |at: usize| (at - from) * 8;
        is_live && len.is_multiple_of(4) && {
            let to = slots(end).min(self.plan.n_slots);
            self.free.has(&(slots(at)..to)) || self.are_of_lists((at - from) / 4..(end - from) / 4)
        }
    }

    /// Whether each of these words of live bits is some list's own.
    fn are_of_lists(&self, words: Range<usize>) -> bool {
        let next = self
            .own_ranges
            .partition_point(|own| own.end <= words.start);
        let own = self.own_ranges.get(next);
        own.is_some_and(|own| own.start <= words.start && words.end <= own.end)
    }

    /// Executes a command other than the first and the last. Errors: of the device; `Other` for what is out of bounds or order; what
    /// `wait` says.
    pub(super) fn write(&mut self, command: Command, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        match command {
            Command::Write {
                which,
                parts_at,
                n_parts,
            } => {
                let used = n_parts
                    .checked_mul(size_of::<WritePart>())
                    .and_then(|bytes| bytes.checked_add(parts_at))
                    .unwrap_or(usize::MAX);
                self.region.area(which)?;
                let area = self.engine.stage(which, wait)?;
                copy_out(&self.region, which, 0..used, area)?;
                let parts: Vec<WritePart> = area[parts_at..used]
                    .chunks_exact(size_of::<WritePart>())
                    .map(bytemuck::pod_read_unaligned)
                    .collect();
                let is_fine = |part: &WritePart| {
                    let end = part.start.checked_add(part.len);
                    end.is_some_and(|end| end <= parts_at as u64)
                        && self.may_write(part.at as usize, part.len as usize)
                };
                if self.is_written || !parts.iter().all(is_fine) {
                    return Err(GpuError::Other("a write to what is not free".into()));
                }
                self.engine.write_parts(which, parts_at, &parts)
            }
            Command::Unpack {
                which,
                used,
                items_at,
                n_groups,
                n_rows,
            } => {
                if self.is_written {
                    return Err(GpuError::Other("entries after the end".into()));
                }
                let work = Unpack {
                    used,
                    items_at,
                    groups: Items {
                        first: 0,
                        n: n_groups,
                    },
                    rows: Items {
                        first: n_groups,
                        n: n_rows,
                    },
                    shape: self.shape,
                };
                self.region.area(which)?;
                let area = self.engine.stage(which, wait)?;
                copy_out(&self.region, which, 0..used, area)?;
                let (free, slack) = (&self.free, &self.slack);
                let may_fill = |slots: &Range<usize>| free.has(slots) || is_slack(slack, slots);
                work.check(area, self.plan.parts, may_fill)?;
                self.engine.unpack(which, &work)
            }
            Command::EndWrites => {
                self.engine.end_writes(wait)?;
                self.is_written = true;
                Ok(())
            }
            Command::Rotation { seed } => {
                if self.refreshed.is_some() {
                    return Err(GpuError::Other("a tier has its rotation".into()));
                }
                let dim = self.spec.dim;
                let code_dim = GroupShape::new(Filter::OneBit, dim as u32).code_dim as usize;
                let rotation = Rotation::new(seed, dim, code_dim);
                self.engine.set_rotation(&rotation, wait)
            }
            Command::Begin(_)
            | Command::Refresh(_)
            | Command::Export(_)
            | Command::Finish { .. } => Err(GpuError::Other("not a command that writes".into())),
        }
    }
}

/// Slots behind the entries of lists, in the words of live bits that are their own, of a tier of so many, ascending.
fn slack(
    lists: &[Option<TierList>],
    own_words: &[Option<Range<usize>>],
    n_slots: usize,
) -> Vec<Range<usize>> {
    let behind = lists.iter().zip(own_words).filter_map(|(list, words)| {
        let (end, words) = ((*list)?.slots().end, words.as_ref()?);
        Some(end..(words.end * 32).min(n_slots))
    });
    let mut slack: Vec<Range<usize>> = behind.filter(|slots| !slots.is_empty()).collect();
    slack.sort_unstable_by_key(|slots| slots.start);
    slack
}

/// Whether these slots are behind the entries of one list.
fn is_slack(slack: &[Range<usize>], slots: &Range<usize>) -> bool {
    let after = slack.partition_point(|behind| behind.start <= slots.start);
    let behind = slack[..after].last();
    behind.is_some_and(|behind| slots.end <= behind.end)
}

/// Whether a list is where it was, with other live bits, and perhaps more entries.
fn is_renewed(new: &TierList, old: &TierList, words: &Range<usize>) -> bool {
    let place = |list: &TierList| (list.first_slot, list.layout_gen);
    let is_within = old.n_slots <= new.n_slots && new.room().end <= words.end * 32;
    place(new) == place(old) && is_within
}

/// As areas are cut in the region.
fn shape_of(region: &LoadRegion) -> LoadShape {
    LoadShape {
        n_areas: region.n_areas(),
        area_bytes: region.area_bytes(),
        ..LoadShape::DEFAULT
    }
}

/// Puts a tier's lists into their area.
pub(super) fn tell_lists(region: &LoadRegion, lists: &[Option<TierList>]) -> Result<(), GpuError> {
    let told: Vec<u8> = lists.iter().flat_map(encode_list).collect();
    copy_in(region, LISTS_AREA, &told)
}

/// Copies `from` to the start of an area. Errors: `Other` if it is larger.
fn copy_in(region: &LoadRegion, which: usize, from: &[u8]) -> Result<(), GpuError> {
    let to = region.area(which)?;
    if from.len() > region.area_bytes() {
        return Err(GpuError::Other("beyond the staging area".into()));
    }
    // SAFETY: the bytes are within the region. The loader waits for the command that this answers, and neither reads nor writes the area
    // until then; should it, then what it reads is of no worth.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    Ok(())
}

/// Copies part of an area to the start of `to`. Errors: `Other` for what is not within both.
fn copy_out(
    region: &LoadRegion,
    which: usize,
    range: Range<usize>,
    to: &mut [u8],
) -> Result<(), GpuError> {
    let from = region.area(which)?;
    let within = range.start <= range.end && range.end <= region.area_bytes();
    let Some(to) = to.get_mut(..range.len()).filter(|_| within) else {
        return Err(GpuError::Other("beyond the staging area".into()));
    };
    // SAFETY: the bytes are within the region and `to`, which is this process's alone. The loader does not write to an area while a
    // command about it is under way; should it, then what is copied is checked, and of no worth.
    unsafe { std::ptr::copy_nonoverlapping(from.add(range.start), to.as_mut_ptr(), to.len()) };
    Ok(())
}
