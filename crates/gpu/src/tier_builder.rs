//! Builds a tier: from an index's pages (`load.rs`), or entry by entry.

use crate::copiers::Copiers;
use crate::device::Gpu;
use crate::engine::{Engine, N_STAGES, STAGE_BYTES, StageShape};
use crate::error::GpuError;
use crate::memory::{Parts, TierPlan};
use crate::staging::{Part, Staging, bounded};
use crate::tier::{Catalog, Tier, TierList, TierSpec};
use half::f16;
use omen_ivf::Tid;
use omen_ivf::layout::group::{Filter, GROUP, GroupHeader, GroupShape, HEADER_LINES};
use omen_ivf::layout::page::LINE_BYTES;
use omen_ivf::rabitq::Encoder;

const HEADER_BYTES: usize = HEADER_LINES * LINE_BYTES;

/// Builds a [`Tier`]. From pages: [`TierBuilder::load_lists`]. Entry by entry: for each list `begin_list`, `push` for
/// slots 0, 1, 2 ..., `end_list`.
pub struct TierBuilder {
    // First: until it is dropped, its threads write to the engine's areas.
    pub(crate) staging: Staging,
    pub(crate) engine: Box<dyn Engine>,
    spec: TierSpec,
    plan: TierPlan,
    byte_limit: u64,
    pub(crate) lists: Vec<Option<TierList>>,
    /// f16 `[n_lists, pitch]` and f32 `[n_lists]`; empty if they were not given.
    centroids: (Vec<f16>, Vec<f32>),
    open: Option<OpenList>,
    /// Next slot to fill.
    next: usize,
}

/// A list that is given entry by entry.
struct OpenList {
    list: u32,
    /// `[n, dim]`
    rows: Vec<f16>,
    errs: Vec<f32>,
    tids: Vec<Tid>,
    live: Vec<bool>,
    failed: Option<GpuError>,
}

impl TierBuilder {
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
        let plan = TierPlan::new(&spec, parts, n_slots)?;
        let needed = plan.bytes_needed();
        let available = byte_limit.min(gpu.memory()?.0);
        if needed > available {
            return Err(GpuError::OutOfMemory { needed, available });
        }
        let engine = gpu.engine(&plan, spec.metric)?;
        let codes = GroupShape::new(Filter::OneBit, spec.dim as u32);
        let shape = StageShape {
            dim: spec.dim,
            group_bytes: if parts.codes() {
                codes.bytes()
            } else {
                HEADER_BYTES
            },
            code_words: if parts.codes() {
                codes.code_dim as usize / 32
            } else {
                0
            },
        };
        Ok(Self {
            staging: Staging::new(copiers, shape, plan.n_slots),
            engine,
            byte_limit,
            lists: vec![None; spec.n_lists],
            centroids: Default::default(),
            open: None,
            next: 0,
            spec,
            plan,
        })
    }

    /// What the tier is for.
    pub fn spec(&self) -> TierSpec {
        self.spec
    }

    /// What the tier holds of its entries.
    pub fn parts(&self) -> Parts {
        self.plan.parts
    }

    /// The next `n` slots; None if there are not so many.
    pub(crate) fn take_slots(&mut self, n: usize) -> Option<usize> {
        let first = self.next;
        let end = first
            .checked_add(n)
            .filter(|&end| end <= self.plan.n_slots)?;
        self.next = end;
        Some(first)
    }

    /// Gives the centroids as stored (`[n_lists, dim]`), so that the device can choose lists.
    pub fn set_centroids(&mut self, rows: &[f16]) -> Result<(), GpuError> {
        let (dim, pitch, n_lists) = (self.spec.dim, self.plan.pitch, self.spec.n_lists);
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

    /// Starts a list (number below `n_lists`, not loaded before).
    pub fn begin_list(&mut self, list: u32) {
        self.open = Some(OpenList {
            list,
            rows: Vec::new(),
            errs: Vec::new(),
            tids: Vec::new(),
            live: Vec::new(),
            failed: None,
        });
    }

    /// Adds the list's entry number `slot`. As from `omen_ivf::export::export_list`: a slot that is not the successor of
    /// the last one means that all slots from it on are void. Failures are kept and come out of `end_list`.
    /// `row`: the stored vector, `[dim]`; `err`: its radius.
    pub fn push(&mut self, slot: u32, tid: Tid, live: bool, err: f32, row: &[f16]) {
        let dim = self.spec.dim;
        let open = self.open.get_or_insert_with(|| OpenList {
            list: u32::MAX,
            rows: Vec::new(),
            errs: Vec::new(),
            tids: Vec::new(),
            live: Vec::new(),
            failed: Some(GpuError::Other("entry outside a list".into())),
        });
        let at = slot as usize;
        if at > open.errs.len() || row.len() != dim {
            let error = format!("slot {slot} of {} dimensions out of place", row.len());
            open.failed.get_or_insert(GpuError::Other(error));
            return;
        }
        open.rows.truncate(at * dim);
        open.errs.truncate(at);
        open.tids.truncate(at);
        open.live.truncate(at);
        open.rows.extend_from_slice(row);
        open.errs.push(err);
        open.tids.push(tid);
        open.live.push(live);
    }

    /// Ends the list: its first `n_slots` slots count, read from the index at these generations. On failure the list is not in
    /// the tier, and the builder goes on with the next one, except after `Lost` and `TimedOut`. For tiers without codes.
    pub fn end_list(
        &mut self,
        n_slots: u32,
        layout_gen: u32,
        delete_gen: u32,
    ) -> Result<(), GpuError> {
        self.end(n_slots, layout_gen, delete_gen, None)
    }

    /// As `end_list`, with codes that `encoder` makes of the list's entries (one-bit codes, by the list's centroid).
    pub fn end_list_encoded(
        &mut self,
        n_slots: u32,
        layout_gen: u32,
        delete_gen: u32,
        encoder: &Encoder<'_>,
    ) -> Result<(), GpuError> {
        self.end(n_slots, layout_gen, delete_gen, Some(encoder))
    }

    fn end(
        &mut self,
        n_slots: u32,
        layout_gen: u32,
        delete_gen: u32,
        encoder: Option<&Encoder<'_>>,
    ) -> Result<(), GpuError> {
        let Some(mut open) = self.open.take() else {
            return Err(GpuError::Other("no list is open".into()));
        };
        if let Some(error) = open.failed.take() {
            return Err(error);
        }
        let (n, pushed) = (n_slots as usize, open.errs.len());
        if pushed < n || open.list as usize >= self.lists.len() {
            return Err(GpuError::Other(format!(
                "list {} has {pushed} entries, not {n_slots}",
                open.list
            )));
        }
        if self.plan.parts.codes() && encoder.is_none() {
            return Err(GpuError::Other("entries without codes".into()));
        }
        let Some(first) = self.take_slots(n) else {
            let wanted = (self.next + n) as u64;
            let needed = TierPlan::new(&self.spec, self.plan.parts, wanted)?.bytes as u64;
            return Err(GpuError::OutOfMemory {
                needed,
                available: self.plan.bytes as u64,
            });
        };
        self.stage_groups(&open, first, n, encoder)?;
        if self.plan.parts.rows() {
            self.stage_rows(&open, first, n)?;
        }
        self.lists[open.list as usize] = Some(TierList {
            first_slot: first as u32,
            n_slots,
            layout_gen,
            delete_gen,
        });
        Ok(())
    }

    fn stage_groups(
        &mut self,
        open: &OpenList,
        slot: usize,
        n: usize,
        encoder: Option<&Encoder<'_>>,
    ) -> Result<(), GpuError> {
        let dim = self.spec.dim;
        let group_bytes = self.staging.shape().group_bytes;
        let mut group = vec![0u8; group_bytes];
        let mut first = 0;
        while first < n {
            let Some(part) = self.staging.groups(slot + first, n - first) else {
                self.staging.turn(self.engine.as_mut())?;
                continue;
            };
            let end = first + part.n;
            for (i, at) in (first..end).step_by(GROUP).enumerate() {
                let range = at..end.min(at + GROUP);
                let rows: Vec<&[f16]> = open.rows[range.start * dim..range.end * dim]
                    .chunks_exact(dim)
                    .collect();
                let (errs, tids) = (&open.errs[range.clone()], &open.tids[range.clone()]);
                match encoder.filter(|_| self.plan.parts.codes()) {
                    Some(encoder) => encoder.encode_group(&rows, errs, tids, &mut group),
                    None => group.copy_from_slice(bytemuck::bytes_of(&header(errs, tids))),
                }
                let live = &open.live[range];
                let mask = (0..live.len()).fold(0u32, |mask, j| mask | u32::from(live[j]) << j);
                let at = std::mem::offset_of!(GroupHeader, live);
                group[at..at + 4].copy_from_slice(&mask.to_ne_bytes());
                put(&part, i * group_bytes, &group);
            }
            first = end;
        }
        Ok(())
    }

    fn stage_rows(&mut self, open: &OpenList, slot: usize, n: usize) -> Result<(), GpuError> {
        let dim = self.spec.dim;
        let mut first = 0;
        while first < n {
            let Some(part) = self.staging.rows(slot + first, n - first) else {
                self.staging.turn(self.engine.as_mut())?;
                continue;
            };
            let rows = &open.rows[first * dim..(first + part.n) * dim];
            put(&part, 0, bytemuck::cast_slice(rows));
            first += part.n;
        }
        Ok(())
    }

    /// Copies what is left and makes the tier.
    pub fn finish(self) -> Result<Tier, GpuError> {
        let Self {
            staging,
            mut engine,
            spec,
            plan,
            byte_limit,
            lists,
            centroids: (centroids, norms),
            ..
        } = self;
        let live = staging.finish(engine.as_mut())?;
        let has_centroids = !centroids.is_empty();
        let mut which = 0;
        for (array, at) in [
            (bytemuck::cast_slice::<u32, u8>(&live), plan.live),
            (bytemuck::cast_slice(&centroids), plan.centroids),
            (bytemuck::cast_slice(&norms), plan.centroid_norms),
        ] {
            for (i, part) in array.chunks(STAGE_BYTES).enumerate() {
                bounded(|wait| engine.stage(which, wait))?[..part.len()].copy_from_slice(part);
                engine.write_tier(which, 0..part.len(), at + i * STAGE_BYTES)?;
                which = (which + 1) % N_STAGES;
            }
        }
        bounded(|wait| engine.end_writes(wait))?;
        let catalog = Catalog::new(spec, plan.pitch, lists);
        Ok(Tier::new(catalog, plan, has_centroids, byte_limit, engine))
    }
}

/// Copies `bytes` to byte `at` of the part.
#[allow(unsafe_code)]
fn put(part: &Part, at: usize, bytes: &[u8]) {
    // SAFETY: the callers write no more than the entries that the part was asked for have; it is theirs alone, and ordinary
    // memory of the engine, which they hold.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), part.start.add(at), bytes.len()) };
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

/// The header of a group without codes.
fn header(errs: &[f32], tids: &[Tid]) -> GroupHeader {
    let mut header: GroupHeader = bytemuck::Zeroable::zeroed();
    header.err[..errs.len()].copy_from_slice(errs);
    for (i, tid) in tids.iter().enumerate() {
        header.tid_block[i] = tid.block;
        header.tid_offset[i] = tid.offset as u16;
    }
    header
}
