//! Loads a tier: entries come list by list, are staged in page-locked memory and copied while the next ones come.

use crate::context::Wait;
use crate::device::Gpu;
use crate::engine::{Engine, N_STAGES, STAGE_BYTES};
use crate::error::GpuError;
use crate::memory::{ALIGN, Parts, TierPlan};
use crate::tier::{Catalog, Tier, TierList, TierSpec};
use half::f16;
use half::slice::HalfFloatSliceExt;
use omen_ivf::Tid;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Longest wait for a copy of one staging area.
const COPY_DEADLINE: Duration = Duration::from_secs(10);

/// Builds a [`Tier`]. For each list: `begin_list`, `push` for slots 0, 1, 2 ..., `end_list`.
pub struct TierBuilder {
    spec: TierSpec,
    plan: TierPlan,
    byte_limit: u64,
    engine: Box<dyn Engine>,
    lists: Vec<Option<TierList>>,
    live: Vec<u32>,
    /// List being loaded, and its first slot.
    open: Option<(u32, usize)>,
    /// Next slot to fill.
    next: usize,
    /// Slots in the staging area.
    staged: Range<usize>,
    stage: usize,
    stage_slots: usize,
    row: Vec<f32>,
    failed: Option<GpuError>,
}

impl TierBuilder {
    /// Bytes of device memory a tier of `n_slots` entries takes at least, scratch for searches included.
    pub fn bytes_needed(spec: &TierSpec, n_slots: u64) -> Result<u64, GpuError> {
        Ok(TierPlan::new(spec, Parts::Rows, n_slots)?.bytes_needed())
    }

    /// Allocates device memory for `n_slots` entries. The tier and its scratch never take more than `byte_limit`.
    /// Errors: `OutOfMemory` with what is needed and there, `Unsupported` for more than 2^31 entries.
    pub fn begin(
        gpu: &Gpu,
        spec: TierSpec,
        n_slots: u64,
        byte_limit: u64,
    ) -> Result<Self, GpuError> {
        let plan = TierPlan::new(&spec, Parts::Rows, n_slots)?;
        let needed = plan.bytes_needed();
        let available = byte_limit.min(gpu.memory()?.0);
        if needed > available {
            return Err(GpuError::OutOfMemory { needed, available });
        }
        let engine = gpu.engine(&plan, spec.metric)?;
        // A slot takes its row and 16 bytes; each of the four arrays is aligned within the area.
        let stage_slots = (STAGE_BYTES - 4 * ALIGN) / (plan.pitch * 2 + 16);
        Ok(Self {
            spec,
            byte_limit,
            engine,
            lists: vec![None; spec.n_lists],
            live: vec![0; plan.n_slots.div_ceil(32)],
            open: None,
            next: 0,
            staged: 0..0,
            stage: 0,
            stage_slots,
            row: vec![0.0; spec.dim],
            failed: None,
            plan,
        })
    }

    /// Starts a list (number below `n_lists`, not loaded before).
    pub fn begin_list(&mut self, list: u32) {
        self.open = Some((list, self.next));
    }

    /// Adds the list's entry number `slot`. As from `omen_ivf::export::export_list`: a slot that is not the successor of
    /// the last one means that all slots from it on are void. Failures are kept and come out of `end_list`.
    /// `row`: the stored vector, `[dim]`; `err`: its radius.
    pub fn push(&mut self, slot: u32, tid: Tid, live: bool, err: f32, row: &[f16]) {
        if self.failed.is_none() {
            self.failed = self.try_push(slot, tid, live, err, row).err();
        }
    }

    fn try_push(
        &mut self,
        slot: u32,
        tid: Tid,
        live: bool,
        err: f32,
        row: &[f16],
    ) -> Result<(), GpuError> {
        let Some((_, first)) = self.open else {
            return Err(GpuError::Other("entry outside a list".into()));
        };
        let at = first + slot as usize;
        if at > self.next || row.len() != self.spec.dim {
            return Err(GpuError::Other(format!(
                "slot {slot} of {} dimensions out of place",
                row.len()
            )));
        }
        if at < self.next {
            self.rewind(at)?;
        }
        if at >= self.plan.n_slots {
            let needed = TierPlan::new(&self.spec, self.plan.parts, at as u64 + 1)?.bytes as u64;
            return Err(GpuError::OutOfMemory {
                needed,
                available: self.plan.bytes as u64,
            });
        }
        if self.staged.len() == self.stage_slots {
            self.flush()?;
        }
        let i = self.staged.len();
        let area = StageLayout::new(self.stage_slots, self.plan.pitch);
        let mut wait = Wait {
            until: Instant::now() + COPY_DEADLINE,
            poll: &mut || Ok(()),
        };
        let stage = if i == 0 {
            self.engine.stage(self.stage, &mut wait)?
        } else {
            self.engine.stage_open(self.stage)?
        };

        row.convert_to_f32_slice(&mut self.row);
        let norm_sq: f64 = self.row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let row_bytes = self.plan.pitch * 2;
        let target = &mut stage[area.rows + i * row_bytes..area.rows + (i + 1) * row_bytes];
        target[..row.len() * 2].copy_from_slice(bytemuck::cast_slice(row));
        target[row.len() * 2..].fill(0);
        let mut put = |at: usize, bytes: &[u8]| stage[at..at + bytes.len()].copy_from_slice(bytes);
        put(area.norm_sq + i * 4, &(norm_sq as f32).to_ne_bytes());
        put(area.err + i * 4, &err.to_ne_bytes());
        put(
            area.tids + i * 8,
            &(u64::from(tid.block) | u64::from(tid.offset) << 32).to_ne_bytes(),
        );
        let bit = 1 << (at % 32);
        if live {
            self.live[at / 32] |= bit;
        } else {
            self.live[at / 32] &= !bit;
        }
        self.staged.end += 1;
        self.next = at + 1;
        Ok(())
    }

    /// Makes `at` the next slot again.
    fn rewind(&mut self, at: usize) -> Result<(), GpuError> {
        if at >= self.staged.start {
            self.staged.end = at;
        } else {
            // The areas are copied in no particular order: what was copied before must not land on what comes now.
            for which in 0..N_STAGES {
                let mut wait = Wait {
                    until: Instant::now() + COPY_DEADLINE,
                    poll: &mut || Ok(()),
                };
                self.engine.stage(which, &mut wait)?;
            }
            self.staged = at..at;
        }
        self.next = at;
        Ok(())
    }

    /// Queues the copies of the staging area, and goes on in the other one.
    fn flush(&mut self) -> Result<(), GpuError> {
        let (n, first) = (self.staged.len(), self.staged.start);
        if n > 0 {
            let area = StageLayout::new(self.stage_slots, self.plan.pitch);
            let row_bytes = self.plan.pitch * 2;
            for (from, to, bytes) in [
                (area.rows, self.plan.rows, row_bytes),
                (area.norm_sq, self.plan.norm_sq, 4),
                (area.err, self.plan.err, 4),
                (area.tids, self.plan.tids, 8),
            ] {
                self.engine
                    .write_tier(self.stage, from..from + n * bytes, to + first * bytes)?;
            }
            self.stage = (self.stage + 1) % N_STAGES;
        }
        self.staged = self.next..self.next;
        Ok(())
    }

    /// Ends the list: its first `n_slots` slots count, read from the index at these generations. On failure the list is not in
    /// the tier, and the builder goes on with the next one, except after `Lost` and `TimedOut`.
    pub fn end_list(
        &mut self,
        n_slots: u32,
        layout_gen: u32,
        delete_gen: u32,
    ) -> Result<(), GpuError> {
        let Some((list, first)) = self.open.take() else {
            return Err(GpuError::Other("no list is open".into()));
        };
        let pushed = self.next - first;
        if self.failed.is_none() && (pushed < n_slots as usize || list as usize >= self.lists.len())
        {
            self.failed = Some(GpuError::Other(format!(
                "list {list} has {pushed} entries, not {n_slots}"
            )));
        }
        if let Some(error) = self.failed.take() {
            self.rewind(first)?;
            return Err(error);
        }
        self.rewind(first + n_slots as usize)?;
        self.lists[list as usize] = Some(TierList {
            first_slot: first as u32,
            n_slots,
            layout_gen,
            delete_gen,
        });
        Ok(())
    }

    /// Copies what is left and makes the tier.
    pub fn finish(mut self) -> Result<Tier, GpuError> {
        self.flush()?;
        let bytes: &[u8] = bytemuck::cast_slice(&self.live);
        for (i, part) in bytes.chunks(STAGE_BYTES).enumerate() {
            let mut wait = Wait {
                until: Instant::now() + COPY_DEADLINE,
                poll: &mut || Ok(()),
            };
            self.engine.stage(self.stage, &mut wait)?[..part.len()].copy_from_slice(part);
            self.engine
                .write_tier(self.stage, 0..part.len(), self.plan.live + i * STAGE_BYTES)?;
            self.stage = (self.stage + 1) % N_STAGES;
        }
        let mut wait = Wait {
            until: Instant::now() + COPY_DEADLINE,
            poll: &mut || Ok(()),
        };
        self.engine.end_writes(&mut wait)?;
        let catalog = Catalog::new(self.spec, self.plan.pitch, self.lists);
        Ok(Tier::new(catalog, self.plan, self.byte_limit, self.engine))
    }
}

/// Offsets within a staging area.
struct StageLayout {
    rows: usize,
    norm_sq: usize,
    err: usize,
    tids: usize,
}

impl StageLayout {
    fn new(slots: usize, pitch: usize) -> Self {
        let next = |at: usize, bytes: usize| (at + bytes).next_multiple_of(ALIGN);
        let rows = 0;
        let norm_sq = next(rows, slots * pitch * 2);
        let err = next(norm_sq, slots * 4);
        let tids = next(err, slots * 4);
        Self {
            rows,
            norm_sq,
            err,
            tids,
        }
    }
}
