//! Launcher of `finish_selected` (`kernels/finish.cu`).

use super::{number_of, query_grid};
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::memory::PITCH_STEP;
use crate::params::{Found, RerankParams};

const KERNEL: usize = number_of("finish_selected");
/// Most survivors of a query that the kernel sorts.
pub const MAX_KEEP: usize = 2048;
/// Dynamic shared memory for as many.
pub const MAX_SHARED_BYTES: usize = MAX_KEEP * BYTES_PER_SURVIVOR;
/// A candidate, and its place in the order.
const BYTES_PER_SURVIVOR: usize = size_of::<Found>() + 8;

/// Turns each query's selected survivors into its answer. Grid: one block a query, of 512 threads where there are fewer queries than
/// multiprocessors, else of 128.
/// `params.keep` is at most [`MAX_KEEP`]; the addresses in `params` must be those of live arrays of the shapes [`RerankParams`]
/// gives, `out` and `heads` on the device or page-locked in the host's memory.
pub fn finish(
    ctx: &Context,
    stream: &Stream,
    mut params: RerankParams,
    n_queries: usize,
) -> Result<(), GpuError> {
    assert_eq!(params.tier.pitch as usize % PITCH_STEP, 0);
    assert!(params.keep <= params.cap && params.keep as usize <= MAX_KEEP);
    assert!(params.k >= 1);
    let shared = (params.keep as usize).next_power_of_two().max(2) * BYTES_PER_SURVIVOR;
    let grid = (query_grid(n_queries)?, 1, 1);
    let block = if n_queries <= ctx.multiprocessors() {
        512
    } else {
        128
    };
    ctx.launch(stream, KERNEL, grid, block, shared, &mut params)
}
