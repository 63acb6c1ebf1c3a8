//! Launcher of `prepare_codes` (`kernels/prepare_codes.cu`).

use super::{number_of, query_grid};
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::params::PrepareCodesParams;

const KERNEL: usize = number_of("prepare_codes");
/// Longest code for which the kernel needs no `rotated`.
pub const SHARED_DIM: usize = 8192;

/// Rotates, quantises and splits `n_queries` queries for the code scan. Grid: one block of 256 threads a query.
/// The addresses in `params` must be those of live device arrays of the shapes [`PrepareCodesParams`] gives.
pub fn prepare_codes(
    ctx: &Context,
    stream: &Stream,
    mut params: PrepareCodesParams,
    n_queries: usize,
) -> Result<(), GpuError> {
    assert!(
        params.code_dim >= 64 && params.code_dim.is_multiple_of(64),
        "codes of {} dimensions",
        params.code_dim
    );
    assert!(params.pitch <= params.code_dim);
    assert!(params.code_pitch.is_multiple_of(8) && params.code_pitch * 32 >= params.code_dim);
    assert!(
        params.rotated != 0 || params.code_dim as usize <= SHARED_DIM,
        "codes of {} dimensions need room for rotated queries",
        params.code_dim
    );
    let grid = query_grid(n_queries)?;
    if grid == 0 {
        return Ok(());
    }
    ctx.launch(stream, KERNEL, (grid, 1, 1), 256, 0, &mut params)
}
