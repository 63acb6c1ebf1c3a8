//! Launcher of `select_probes` and `select_probes_wide` (`kernels/probes.cu`).

use super::{number_of, query_grid};
use crate::context::{Context, STATIC_SHARED_BYTES, Stream};
use crate::error::GpuError;
use crate::params::ProbeParams;

const NARROW: usize = number_of("select_probes");
const WIDE: usize = number_of("select_probes_wide");
/// Most lists of a query, short of all, that the device chooses.
pub const MAX_PROBES: usize = 8192;
/// Ranks of so many lists are kept in shared memory, where there is that much.
const SHARED_LISTS: usize = 16_384;
/// Dynamic shared memory for as many.
pub const MAX_SHARED_BYTES: usize = MAX_PROBES * 8 + SHARED_LISTS * 4;

/// Chooses each query's lists. Grid: one block a query, of 1,024 threads where there are fewer queries than multiprocessors, else of 256. Sets `sort_width` and `ranks_in_shared` itself. The addresses in
/// `params` must be those of live device arrays of the shapes [`ProbeParams`] gives; 1 <= `probes` <= `n_lists`, [`MAX_PROBES`].
pub fn select_probes(
    ctx: &Context,
    stream: &Stream,
    mut params: ProbeParams,
    n_queries: usize,
) -> Result<(), GpuError> {
    assert!((1..=MAX_PROBES as u32).contains(&params.probes) && params.probes <= params.n_lists);
    params.sort_width = params.probes.next_power_of_two().max(2);
    let sort_bytes = params.sort_width as usize * 8;
    let rank_bytes = params.n_lists as usize * 4;
    let room = ctx.shared_limit().saturating_sub(STATIC_SHARED_BYTES);
    if sort_bytes > room {
        return Err(GpuError::Unsupported(format!(
            "{} lists of a query",
            params.probes
        )));
    }
    let fits = params.n_lists as usize <= SHARED_LISTS && sort_bytes + rank_bytes <= room;
    params.ranks_in_shared = u32::from(fits);
    let shared = sort_bytes + if fits { rank_bytes } else { 0 };
    let grid = (query_grid(n_queries)?, 1, 1);
    let (kernel, block) = if n_queries <= ctx.multiprocessors() {
        (WIDE, 1024)
    } else {
        (NARROW, 256)
    };
    ctx.launch(stream, kernel, grid, block, shared, &mut params)
}
