//! Launchers of `scan_codes_mma_4`, `_16` and `scan_codes_popc` (`kernels/scan_codes.cu`).

use super::number_of;
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::params::ScanCodesParams;

/// Rows an item should have: more are allowed, and make fewer, larger pieces of work.
pub const ITEM_ROWS: usize = 256;

/// The code scan kernels. All do the same, with any item on any device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeScan {
    /// Tensor cores, 4 queries at a time.
    Mma4,
    /// Tensor cores, 16 queries at a time.
    Mma16,
    /// Population counts, 4 queries at a time.
    Popc,
}

impl CodeScan {
    /// The kernel for a device, where most items have at most `n_queries` queries. `tensor_cores`: compute capability 8.0 up.
    pub fn best(tensor_cores: bool, n_queries: usize) -> Self {
        match (tensor_cores, n_queries) {
            (false, _) => Self::Popc,
            (true, ..=4) => Self::Mma4,
            (true, _) => Self::Mma16,
        }
    }

    /// Queries that share one reading of an item's rows.
    pub fn queries(self) -> usize {
        match self {
            Self::Mma4 | Self::Popc => 4,
            Self::Mma16 => 16,
        }
    }

    /// Blocks of which a multiprocessor holds at once.
    pub fn blocks_per_multiprocessor(self) -> u32 {
        match self {
            Self::Mma4 => 5,
            Self::Mma16 => 4,
            Self::Popc => 7,
        }
    }

    fn kernel(self) -> usize {
        match self {
            Self::Mma4 => const { number_of("scan_codes_mma_4") },
            Self::Mma16 => const { number_of("scan_codes_mma_16") },
            Self::Popc => const { number_of("scan_codes_popc") },
        }
    }
}

/// Scans the `*params.n_items` items, whose number the device alone knows. Grid: `n_blocks` blocks of 128 threads that stride over the
/// items; a good number is [`CodeScan::blocks_per_multiprocessor`] times the multiprocessors, or the most items there can be if
/// that is less. The addresses in `params` must be those of live device arrays of the shapes [`ScanCodesParams`] gives, the items
/// within the tier's slots.
pub fn scan_codes(
    ctx: &Context,
    stream: &Stream,
    scan: CodeScan,
    mut params: ScanCodesParams,
    n_blocks: u32,
) -> Result<(), GpuError> {
    assert!(
        params.tier.code_pitch >= 8 && params.tier.code_pitch.is_multiple_of(8),
        "codes of {} words",
        params.tier.code_pitch
    );
    if n_blocks == 0 {
        return Ok(());
    }
    ctx.launch(stream, scan.kernel(), (n_blocks, 1, 1), 128, 0, &mut params)
}
