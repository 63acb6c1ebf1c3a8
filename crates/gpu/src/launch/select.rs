//! Launcher of `select_smallest` (`kernels/select.cu`).

use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::params::SelectParams;

/// Index in [`super::KERNELS`].
const KERNEL: usize = 5;

/// Keeps the `params.keep` smallest survivors of each query and updates the thresholds. Grid: one block of 1,024 threads a
/// query. The addresses in `params` must be those of live device arrays of the shapes [`SelectParams`] gives.
pub fn select(
    ctx: &Context,
    stream: &Stream,
    mut params: SelectParams,
    n_queries: usize,
) -> Result<(), GpuError> {
    assert!(params.keep >= 1 && params.keep <= params.cap);
    let grid = i32::try_from(n_queries)
        .map_err(|_| GpuError::Unsupported(format!("{n_queries} queries")))?;
    ctx.launch(stream, KERNEL, (grid as u32, 1, 1), 1024, &mut params)
}
