//! Launchers of `plan_count`, `plan_items`, `plan_scatter` and `plan_one` (`kernels/plan.cu`).

use super::number_of;
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::params::PlanParams;

const COUNT: usize = number_of("plan_count");
const ITEMS: usize = number_of("plan_items");
const SCATTER: usize = number_of("plan_scatter");
const ONE: usize = number_of("plan_one");
/// Blocks of 256 threads a multiprocessor.
const BLOCKS_PER_PROCESSOR: usize = 8;

/// Plans both rounds of a batch; `list_pairs` must be zero. Three launches: a thread a pair, one block of 1,024 threads a round, a
/// thread a pair and a warp a list; one query takes a single launch, and `group` is then by place, not by list. The addresses in `params`
/// must be those of live device arrays of the shapes [`PlanParams`] gives.
pub fn plan(ctx: &Context, stream: &Stream, mut params: PlanParams) -> Result<(), GpuError> {
    if params.n_queries == 1 {
        return ctx.launch(stream, ONE, (2, 1, 1), 1024, 0, &mut params);
    }
    let n_pairs = params.n_queries as usize * params.probes as usize;
    if n_pairs > u32::MAX as usize / 2 {
        return Err(GpuError::Unsupported(format!("{n_pairs} lists to search")));
    }
    let most = BLOCKS_PER_PROCESSOR * ctx.multiprocessors();
    let by_pair = n_pairs.div_ceil(256).clamp(1, most);
    let by_list = (2 * params.n_lists as usize)
        .div_ceil(256 / 32)
        .clamp(by_pair, most);
    ctx.launch(stream, COUNT, (by_pair as u32, 1, 1), 256, 0, &mut params)?;
    ctx.launch(stream, ITEMS, (2, 1, 1), 1024, 0, &mut params)?;
    ctx.launch(stream, SCATTER, (by_list as u32, 1, 1), 256, 0, &mut params)
}
