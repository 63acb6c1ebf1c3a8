//! Launcher of `finish_bounded` (`kernels/finish_bounded.cu`).

use super::{number_of, query_grid};
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::memory::PITCH_STEP;
use crate::params::{FinishBoundedParams, Found};

const KERNEL: usize = number_of("finish_bounded");
/// Rows reranked at a time.
pub const CHUNK: usize = 64;
/// Largest k.
pub const MAX_K: usize = 1024 - CHUNK - 1;
/// Survivors of the code scan that are looked at, at most.
pub const MAX_BOUNDS: usize = 4096;
/// Dynamic shared memory for as many.
pub const MAX_SHARED_BYTES: usize = MAX_BOUNDS * 8 + 1024 * size_of::<Found>();

/// Turns each query's survivors of a code scan into its answer. Grid: one block of 512 threads a query. Sets the widths itself.
/// `params.k` is at most [`MAX_K`]; the addresses in `params` must be those of live arrays of the shapes [`FinishBoundedParams`] gives,
/// `out` and `heads` on the device or page-locked in the host's memory.
pub fn finish_bounded(
    ctx: &Context,
    stream: &Stream,
    mut params: FinishBoundedParams,
    n_queries: usize,
) -> Result<(), GpuError> {
    assert_eq!(params.tier.pitch as usize % PITCH_STEP, 0);
    assert!((1..=MAX_K as u32).contains(&params.k));
    let best = (params.k as usize + CHUNK + 1).next_power_of_two();
    let bounds = MAX_BOUNDS.min((params.cap as usize).next_power_of_two());
    params.bounds_width = bounds as u32;
    params.best_width = best as u32;
    let grid = (query_grid(n_queries)?, 1, 1);
    let shared = bounds * 8 + best * size_of::<Found>();
    ctx.launch(stream, KERNEL, grid, 512, shared, &mut params)
}
