//! Launchers of `scan_mma_4`, `_8`, `_16`, `_32` (`kernels/scan_mma.cu`) and `scan_fma` (`kernels/scan_fma.cu`).

use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::memory::PITCH_STEP;
use crate::params::{ScanItem, ScanParams};

/// Scan kernels by the queries an item can have. The discriminant is the index in [`super::KERNELS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Tensor cores, 4 queries.
    Mma4 = 0,
    /// Tensor cores, 8 queries.
    Mma8 = 1,
    /// Tensor cores, 16 queries.
    Mma16 = 2,
    /// Tensor cores, 32 queries.
    Mma32 = 3,
    /// No tensor cores, 4 queries.
    Fma = 4,
}

impl Width {
    /// The kernels a device can run, narrowest first.
    pub fn all(tensor_cores: bool) -> &'static [Width] {
        if tensor_cores {
            &[Self::Mma4, Self::Mma8, Self::Mma16, Self::Mma32]
        } else {
            &[Self::Fma]
        }
    }

    /// Most queries of an item.
    pub fn queries(self) -> usize {
        match self {
            Self::Mma4 | Self::Fma => 4,
            Self::Mma8 => 8,
            Self::Mma16 => 16,
            Self::Mma32 => 32,
        }
    }

    /// Most rows of an item: 8 warps of 16 or 32 rows.
    pub fn rows(self) -> usize {
        match self {
            Self::Mma4 | Self::Mma8 | Self::Fma => 128,
            Self::Mma16 | Self::Mma32 => 256,
        }
    }
}

/// Scans `n_items` items from `first_item` of `params.items` on. Grid: one block of 256 threads an item.
/// The addresses in `params` must be those of live device arrays of the shapes [`ScanParams`] gives, the items within the
/// kernel's width and the tier's slots.
pub fn scan(
    ctx: &Context,
    stream: &Stream,
    width: Width,
    mut params: ScanParams,
    first_item: usize,
    n_items: usize,
) -> Result<(), GpuError> {
    assert_eq!(params.tier.pitch as usize % PITCH_STEP, 0);
    let grid = i32::try_from(n_items)
        .map_err(|_| GpuError::Unsupported(format!("{n_items} scan items")))?;
    if grid == 0 {
        return Ok(());
    }
    params.items += (first_item * size_of::<ScanItem>()) as u64;
    ctx.launch(
        stream,
        width as usize,
        (grid as u32, 1, 1),
        256,
        &mut params,
    )
}
