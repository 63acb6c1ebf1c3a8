//! Launcher of `rerank_selected` (`kernels/rerank.cu`).

use super::{number_of, query_grid};
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::memory::PITCH_STEP;
use crate::params::RerankParams;

const KERNEL: usize = number_of("rerank_selected");
/// Warps of a block, one survivor each.
const PER_BLOCK: usize = 8;

/// Computes the tight keys of each query's selected survivors. Grid: (query, 8 survivors), blocks of 256 threads.
/// The addresses in `params` must be those of live device arrays of the shapes [`RerankParams`] gives.
pub fn rerank(
    ctx: &Context,
    stream: &Stream,
    mut params: RerankParams,
    n_queries: usize,
) -> Result<(), GpuError> {
    assert_eq!(params.tier.pitch as usize % PITCH_STEP, 0);
    assert!(params.keep <= params.cap);
    let grid = query_grid(n_queries)?;
    let blocks = (params.keep as usize).div_ceil(PER_BLOCK);
    if blocks > 65_535 {
        return Err(GpuError::Unsupported(format!("{} candidates", params.keep)));
    }
    ctx.launch(
        stream,
        KERNEL,
        (grid, blocks as u32, 1),
        256,
        0,
        &mut params,
    )
}
