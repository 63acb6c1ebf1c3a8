//! Launcher of `prepare_queries` (`kernels/prepare.cu`).

use super::{number_of, query_grid};
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::memory::PITCH_STEP;
use crate::params::PrepareParams;

const KERNEL: usize = number_of("prepare_queries");

/// Prepares the queries and the state of a batch. Grid: one block of 128 threads a query. The addresses in `params` must be those of
/// live arrays of the shapes [`PrepareParams`] gives, `raw` (16-byte aligned if `dim` and `bit_words` are multiples of 4) and `bounds` on the device or page-locked.
pub fn prepare_queries(
    ctx: &Context,
    stream: &Stream,
    mut params: PrepareParams,
) -> Result<(), GpuError> {
    assert_eq!(params.pitch as usize % PITCH_STEP, 0);
    assert!(params.dim <= params.pitch);
    let is_wide = params.dim.is_multiple_of(4) && params.bit_words.is_multiple_of(4);
    assert!(!is_wide || params.raw.is_multiple_of(16));
    assert!(params.bit_words <= params.bit_pitch && (params.bit_pitch == 0) == (params.bits == 0));
    assert!(params.raw != 0 || params.input != 0);
    let grid = (query_grid(params.n_queries as usize)?, 1, 1);
    ctx.launch(stream, KERNEL, grid, 128, 0, &mut params)
}
