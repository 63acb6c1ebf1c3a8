//! What the server's process does for a load.

#![allow(unsafe_code)]

use super::command::{Command, LIST_BYTES, Wanted, decode_list};
use super::region::LoadRegion;
use omen_gpu::context::Wait;
use omen_gpu::engine::{Engine, LoadShape, StageShape, Unpack};
use omen_gpu::launch::unpack::Items;
use omen_gpu::memory::TierPlan;
use omen_gpu::{Gpu, GpuError, Tier, Written};
use omen_ivf::layout::group::{Filter, GroupShape};
use omen_ivf::rotation::Rotation;
use std::ops::Range;

/// A load under way. Dropping it frees what it holds.
pub(super) struct Load {
    region: LoadRegion,
    pub(super) wanted: Wanted,
    plan: TierPlan,
    byte_limit: u64,
    shape: StageShape,
    engine: Box<dyn Engine>,
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
        engine.set_load_shape(LoadShape {
            n_areas: region.n_areas(),
            area_bytes: region.area_bytes(),
            ..LoadShape::DEFAULT
        });
        Ok(Self {
            region,
            shape: StageShape::new(&spec, parts),
            wanted,
            plan,
            byte_limit,
            engine,
            is_written: false,
        })
    }

    /// The tier, whose lists are in area `which`.
    pub(super) fn finish(self, which: usize, has_centroids: bool) -> Result<Tier, GpuError> {
        if !self.is_written {
            return Err(GpuError::Other(
                "the end of a load that is not written".into(),
            ));
        }
        let bytes = self.wanted.spec.n_lists * LIST_BYTES;
        let mut lists = vec![0u8; bytes];
        copy_out(&self.region, which, 0..bytes, &mut lists)?;
        let (lists, _) = lists.as_chunks::<LIST_BYTES>();
        Tier::new(Written {
            writer: self.engine,
            spec: self.wanted.spec,
            plan: self.plan,
            byte_limit: self.byte_limit,
            lists: lists.iter().map(decode_list).collect(),
            has_centroids,
        })
    }

    /// Executes a command other than the first and the last. Errors: of the device; `Other` for what is out of bounds or order; what
    /// `wait` says.
    pub(super) fn write(&mut self, command: Command, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        match command {
            Command::Write {
                which,
                start,
                len,
                at,
            } => {
                let end = at.checked_add(len);
                if self.is_written || end.is_none_or(|end| end > self.plan.bytes) {
                    return Err(GpuError::Other("a write beyond the tier".into()));
                }
                let range = start..start.saturating_add(len);
                self.region.area(which)?;
                let area = self.engine.stage(which, wait)?;
                copy_out(&self.region, which, range, area)?;
                self.engine.write_tier(which, 0..len, at)
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
                work.check(area, &self.plan)?;
                self.engine.unpack(which, &work)
            }
            Command::EndWrites => {
                self.engine.end_writes(wait)?;
                self.is_written = true;
                Ok(())
            }
            Command::Rotation { seed } => {
                let dim = self.wanted.spec.dim;
                let code_dim = GroupShape::new(Filter::OneBit, dim as u32).code_dim as usize;
                let rotation = Rotation::new(seed, dim, code_dim);
                self.engine.set_rotation(&rotation, wait)
            }
            Command::Begin(_) | Command::Finish { .. } => {
                Err(GpuError::Other("not a command that writes".into()))
            }
        }
    }
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
