//! Launcher of `rerank_survivors` (`kernels/rerank_survivors.cu`).

use super::{number_of, query_grid};
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::memory::PITCH_STEP;
use crate::params::RerankSurvivorsParams;

const KERNEL: usize = number_of("rerank_survivors");
/// Warps of a block, one survivor each at a time.
const PER_BLOCK: usize = 8;

/// Replaces the keys of each query's survivors from `base` on by tight keys. Grid: (query, blocks of 256 threads), as many blocks a query as
/// `n_survivors`, the number expected, asks for; more survivors are met by striding. The addresses in `params` must be those of live
/// device arrays of the shapes [`RerankSurvivorsParams`] gives.
pub fn rerank_survivors(
    ctx: &Context,
    stream: &Stream,
    mut params: RerankSurvivorsParams,
    n_queries: usize,
    n_survivors: usize,
) -> Result<(), GpuError> {
    assert_eq!(params.pitch as usize % PITCH_STEP, 0);
    let grid = query_grid(n_queries)?;
    if grid == 0 {
        return Ok(());
    }
    let blocks = n_survivors.div_ceil(PER_BLOCK).clamp(1, 65_535);
    ctx.launch(
        stream,
        KERNEL,
        (grid, blocks as u32, 1),
        256,
        0,
        &mut params,
    )
}
