//! A tier that one process has is searched by another: its memory is mapped, the rest is told.
//!
//! Who exports must not write to the memory, nor free it, as long as another process has it mapped (CUDA driver API, section 6.14,
//! `cuIpcGetMemHandle`): who has is for the processes to settle between them.

use crate::device::Gpu;
use crate::error::GpuError;
use crate::memory::{Parts, TierPlan};
use crate::staging::bounded;
use crate::tier::{Tier, TierList, TierSpec};
use crate::tier_builder::Written;
use omen_ivf::rotation::Rotation;

/// What device memory is mapped by: a name that the driver knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryHandle(pub [u64; 8]);

/// What another process has to know of a tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// What its memory is mapped by.
    pub handle: MemoryHandle,
    /// What the tier is for.
    pub spec: TierSpec,
    /// What it holds of its entries.
    pub parts: Parts,
    /// Slots it was planned for.
    pub n_slots: u64,
    /// Its lists.
    pub lists: Vec<Option<TierList>>,
    /// Whether it has the centroids.
    pub has_centroids: bool,
}

impl Tier {
    /// For another process to map. Errors: `Busy`, `Unsupported` for a tier that is another process's itself, and those of the device.
    pub fn export(&self) -> Result<Export, GpuError> {
        if self.is_mapped {
            return Err(GpuError::Unsupported("another process's tier".into()));
        }
        Ok(Export {
            handle: self.lock_engine()?.export()?,
            spec: self.spec(),
            parts: self.parts(),
            n_slots: self.n_slots() as u64,
            lists: self.lists().to_vec(),
            has_centroids: self.has_centroids(),
        })
    }

    /// Maps a tier that another process has on the same device. `rotation`: that of its codes, which the export does not have. `byte_limit`: what
    /// scratch may take. Errors: those of the device, which need not allow it; `Other` for what is no tier.
    pub fn map(
        gpu: &Gpu,
        export: Export,
        rotation: Option<&Rotation>,
        byte_limit: u64,
    ) -> Result<Self, GpuError> {
        let Export {
            handle,
            spec,
            parts,
            n_slots,
            lists,
            has_centroids,
        } = export;
        let plan = TierPlan::new(&spec, parts, n_slots)?;
        let mut writer = gpu.engine(&plan, spec.metric, Some(&handle))?;
        if let Some(rotation) = rotation.filter(|_| parts.codes()) {
            bounded(|wait| writer.set_rotation(rotation, wait))?;
        }
        let byte_limit = byte_limit.saturating_add(plan.bytes as u64);
        let mut tier = Self::new(Written {
            writer,
            spec,
            plan,
            byte_limit,
            lists,
            has_centroids,
        })?;
        tier.is_mapped = true;
        Ok(tier)
    }
}
