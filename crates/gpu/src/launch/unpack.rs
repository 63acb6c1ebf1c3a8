//! Launchers of `unpack_rows` and `unpack_groups` (`kernels/unpack.cu`).

use super::number_of;
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::memory::{CODE_PITCH_STEP, PITCH_STEP};
use crate::params::{UnpackItem, UnpackParams};

const ROWS: usize = number_of("unpack_rows");
const GROUPS: usize = number_of("unpack_groups");

/// Entries of an item of `unpack_groups`: one group a warp.
pub const ENTRIES_PER_ITEM: usize = 256;

/// The items of an area, at `first..` in `params.items`; nothing is launched for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Items {
    /// First item.
    pub first: usize,
    /// Number of items.
    pub n: usize,
}

/// Unpacks rows. Grid: one block of 256 threads an item.
/// The addresses in `params` must be those of live device arrays, the items within area and tier.
pub fn unpack_rows(
    ctx: &Context,
    stream: &Stream,
    params: UnpackParams,
    items: Items,
) -> Result<(), GpuError> {
    assert_eq!(params.tier.pitch as usize % PITCH_STEP, 0);
    assert!(params.dim <= params.tier.pitch);
    launch(ctx, stream, ROWS, params, items)
}

/// Unpacks groups, of at most [`ENTRIES_PER_ITEM`] entries an item. Grid and addresses as for [`unpack_rows`].
pub fn unpack_groups(
    ctx: &Context,
    stream: &Stream,
    params: UnpackParams,
    items: Items,
) -> Result<(), GpuError> {
    assert_eq!(params.tier.code_pitch as usize % CODE_PITCH_STEP, 0);
    assert!(params.code_words <= params.tier.code_pitch && params.group_bytes.is_multiple_of(128));
    launch(ctx, stream, GROUPS, params, items)
}

fn launch(
    ctx: &Context,
    stream: &Stream,
    kernel: usize,
    mut params: UnpackParams,
    items: Items,
) -> Result<(), GpuError> {
    let grid =
        i32::try_from(items.n).map_err(|_| GpuError::Unsupported(format!("{} items", items.n)))?;
    if grid == 0 {
        return Ok(());
    }
    params.items += (items.first * size_of::<UnpackItem>()) as u64;
    ctx.launch(stream, kernel, (grid as u32, 1, 1), 256, 0, &mut params)
}
