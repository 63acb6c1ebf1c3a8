//! Launcher of `assign_rows` (`kernels/assign.cu`).

use super::number_of;
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::params::AssignParams;

const KERNEL: usize = number_of("assign_rows");
/// Rows of a block.
const ROWS: u32 = 32;

/// Finds each row's centroid. Grid: one block of 256 threads for 32 rows. The addresses in `params` must be those of live device arrays of the
/// shapes [`AssignParams`] gives.
pub fn assign_rows(
    ctx: &Context,
    stream: &Stream,
    mut params: AssignParams,
) -> Result<(), GpuError> {
    let grid = params.n_rows.div_ceil(ROWS);
    if grid == 0 {
        return Ok(());
    }
    ctx.launch(stream, KERNEL, (grid, 1, 1), 256, 0, &mut params)
}
