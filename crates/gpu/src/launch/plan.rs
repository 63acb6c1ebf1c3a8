//! Launchers of `plan_count`, `plan_items`, `plan_scatter` (`kernels/plan.cu`).

use super::number_of;
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::params::PlanParams;

const COUNT: usize = number_of("plan_count");
const ITEMS: usize = number_of("plan_items");
const SCATTER: usize = number_of("plan_scatter");
/// Blocks of 256 threads a multiprocessor.
const BLOCKS_PER_PROCESSOR: usize = 8;

/// Plans both rounds of a batch; `list_pairs` must be zero. Three launches: a thread a pair, one block of 1,024 threads a round, a
/// thread a pair. The addresses in `params` must be those of live device arrays of the shapes [`PlanParams`] gives.
pub fn plan(ctx: &Context, stream: &Stream, mut params: PlanParams) -> Result<(), GpuError> {
    let n_pairs = params.n_queries as usize * params.probes as usize;
    if n_pairs > u32::MAX as usize / 2 {
        return Err(GpuError::Unsupported(format!("{n_pairs} lists to search")));
    }
    let blocks = n_pairs
        .div_ceil(256)
        .clamp(1, BLOCKS_PER_PROCESSOR * ctx.multiprocessors());
    let by_pair = (blocks as u32, 1, 1);
    ctx.launch(stream, COUNT, by_pair, 256, 0, &mut params)?;
    ctx.launch(stream, ITEMS, (2, 1, 1), 1024, 0, &mut params)?;
    ctx.launch(stream, SCATTER, by_pair, 256, 0, &mut params)
}
