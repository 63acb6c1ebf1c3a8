//! Launcher of `rerank_selected` (`kernels/rerank.cu`).

use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::memory::PITCH_STEP;
use crate::params::RerankParams;

/// Index in [`super::KERNELS`].
const KERNEL: usize = 6;
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
    let grid = i32::try_from(n_queries)
        .map_err(|_| GpuError::Unsupported(format!("{n_queries} queries")))?;
    let blocks = (params.keep as usize).div_ceil(PER_BLOCK);
    if blocks > 65_535 {
        return Err(GpuError::Unsupported(format!("{} candidates", params.keep)));
    }
    ctx.launch(
        stream,
        KERNEL,
        (grid as u32, blocks as u32, 1),
        256,
        &mut params,
    )
}
