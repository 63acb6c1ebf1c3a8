//! Launcher of `select_smallest` and `select_smallest_wide` (`kernels/select.cu`).

use super::{number_of, query_grid};
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::params::SelectParams;

const NARROW: usize = number_of("select_smallest");
const WIDE: usize = number_of("select_smallest_wide");
/// With more rooms than this for a query, blocks are wide.
const LONG: u32 = 32_768;

/// Keeps the `params.keep` smallest survivors of each query and updates the thresholds. Grid: one block a query, of 1,024 threads where
/// there are fewer queries than multiprocessors or many survivors, else of 256. The addresses in `params` must be those of live device
/// arrays of the shapes [`SelectParams`] gives.
pub fn select(
    ctx: &Context,
    stream: &Stream,
    mut params: SelectParams,
    n_queries: usize,
) -> Result<(), GpuError> {
    assert!(params.keep >= 1 && params.keep <= params.cap);
    let grid = (query_grid(n_queries)?, 1, 1);
    let (kernel, block) = if n_queries <= ctx.multiprocessors() || params.cap > LONG {
        (WIDE, 1024)
    } else {
        (NARROW, 256)
    };
    ctx.launch(stream, kernel, grid, block, 0, &mut params)
}
