//! Launchers of `scan_mma_4`, `_8`, `_16`, `_32` (`kernels/scan_mma.cu`), `scan_fma` (`kernels/scan_fma.cu`), `scan_wgmma` and
//! `scan_wgmma_dense` (`kernels/scan_wgmma.cu`), `scan_l1` (`kernels/scan_l1.cu`), `scan_bits`
//! (`kernels/scan_bits.cu`).

use super::number_of;
use crate::context::{Context, Stream};
use crate::error::GpuError;
use crate::memory::PITCH_STEP;
use crate::params::{ScanItem, ScanMode, ScanParams};
use crate::tensor_map::matrix;
use omen_ivf::Metric;

/// Dynamic shared memory of `scan_wgmma` and `scan_wgmma_dense`: their `Shared`, and what aligns it.
pub const WGMMA_SHARED_BYTES: usize = 229_584 + 1024;

/// The kernel of [`Width::Wgmma`] for every row against every query.
const DENSE: usize = number_of("scan_wgmma_dense");
/// Blocks of it that make a cluster and share their queries: `WG_CLUSTER`.
const CLUSTER: u32 = 2;

/// Scan kernels by the queries an item can have. The discriminant is the index in [`super::KERNELS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Tensor cores, 4 queries.
    Mma4 = 0,
    /// Tensor cores, 8 queries.
    Mma8 = 1,
    /// Tensor cores, 16 queries.
    Mma16 = 2,
    /// Tensor cores, 32 queries.
    Mma32 = 3,
    /// No tensor cores, 4 queries.
    Fma = 4,
    /// Warpgroup products (compute capability 9.0), 256 queries.
    Wgmma = 5,
    /// Of L1, on all devices, 4 queries.
    L1 = 7,
    /// Of strings of bits, on all devices, 8 queries.
    Bits = 8,
}

const _: () = assert!(Width::L1 as usize == number_of("scan_l1"));
const _: () = assert!(Width::Bits as usize == number_of("scan_bits"));

impl Width {
    /// The kernels for items that the host plans, narrowest first: those that take both halves of the queries.
    pub fn all(metric: Metric, tensor_cores: bool) -> &'static [Width] {
        match (Self::of_metric(metric), tensor_cores) {
            (Some(Self::L1), _) => &[Self::L1],
            (Some(_), _) => &[Self::Bits],
            (_, true) => &[Self::Mma4, Self::Mma8, Self::Mma16, Self::Mma32],
            (_, false) => &[Self::Fma],
        }
    }

    /// The one kernel of a metric that is not computed from inner products.
    pub fn of_metric(metric: Metric) -> Option<Width> {
        match metric {
            Metric::L1 => Some(Self::L1),
            Metric::Hamming | Metric::Jaccard => Some(Self::Bits),
            Metric::L2 | Metric::NegIp | Metric::Cosine => None,
        }
    }

    /// Most queries of an item.
    pub fn queries(self) -> usize {
        match self {
            Self::Mma4 | Self::Fma | Self::L1 => 4,
            Self::Mma8 | Self::Bits => 8,
            Self::Mma16 => 16,
            Self::Mma32 => 32,
            Self::Wgmma => 256,
        }
    }

    /// Blocks a multiprocessor runs at a time.
    fn blocks(self) -> usize {
        match self {
            Self::Mma8 => 3,
            Self::Bits => 4,
            Self::Wgmma => 1,
            Self::Mma4 | Self::Mma16 | Self::Mma32 | Self::Fma | Self::L1 => 2,
        }
    }

    /// Most rows of an item: 8 warps of 16 or 32 rows, 2 warpgroups of 64, or one row a thread.
    pub fn rows(self) -> usize {
        match self {
            Self::Mma4 | Self::Mma8 | Self::Fma | Self::Wgmma | Self::L1 => 128,
            Self::Mma16 | Self::Mma32 | Self::Bits => 256,
        }
    }
}

/// Most tiles of a scan of every row against every query: blocks count them in 32 bits, with steps of the grid.
pub const MAX_DENSE_ITEMS: u64 = 1 << 31;

/// Tiles of a scan of every row against every query.
pub fn dense_items(width: Width, n_rows: usize, n_queries: usize) -> u64 {
    n_rows.div_ceil(width.rows()) as u64 * n_queries.div_ceil(width.queries()) as u64
}

/// Scans `n_items` items from `first_item` of `params.items` on. Grid: one block an item.
/// The addresses in `params` must be those of live device arrays of the shapes [`ScanParams`] gives, the items within the
/// kernel's width and the tier's slots.
pub fn scan(
    ctx: &Context,
    stream: &Stream,
    width: Width,
    mut params: ScanParams,
    first_item: usize,
    n_items: usize,
) -> Result<(), GpuError> {
    let n = i32::try_from(n_items)
        .map_err(|_| GpuError::Unsupported(format!("{n_items} scan items")))?;
    if n == 0 {
        return Ok(());
    }
    params.items += (first_item * size_of::<ScanItem>()) as u64;
    params.n_items = 0;
    params.items_given = n as u32;
    launch(ctx, stream, width, params, n as u32)
}

/// Scans as many items as the device finds at `params.n_items`, or, where `params.items` is 0, every row against every query. Grid: as many
/// blocks as run at a time; no launch if there are no rows or no queries. Errors: `Unsupported` for more than [`MAX_DENSE_ITEMS`] of these.
pub fn scan_planned(
    ctx: &Context,
    stream: &Stream,
    width: Width,
    params: ScanParams,
) -> Result<(), GpuError> {
    assert!(params.items == 0 || params.n_items != 0);
    assert!(params.mode != ScanMode::Rank as u32 || params.items == 0);
    if params.items == 0 && (params.n_rows == 0 || params.n_queries == 0) {
        return Ok(());
    }
    let n_items = dense_items(width, params.n_rows as usize, params.n_queries as usize);
    if params.items == 0 && n_items > MAX_DENSE_ITEMS {
        let what = format!(
            "{} rows against {} queries",
            params.n_rows, params.n_queries
        );
        return Err(GpuError::Unsupported(what));
    }
    let grid = (ctx.multiprocessors() * width.blocks()) as u32;
    launch(ctx, stream, width, params, grid)
}

/// Describes rows and queries to the bulk copy engine.
fn set_maps(params: &mut ScanParams) -> Result<(), GpuError> {
    // An empty tier has no items.
    let step = u64::from(params.row_step.max(1));
    let n_rows = u64::from(params.tier.n_slots.max(1)).div_ceil(step);
    let pitch = u64::from(params.tier.pitch);
    let (row, step) = (2 * pitch, 2 * pitch * step);
    params.row_map = matrix(params.tier.rows, &[pitch, n_rows], &[step], &[64, 128])?;
    if params.group == 0 {
        let n_queries = u64::from(params.n_queries);
        params.query_map = matrix(
            params.halves,
            &[pitch, 2, n_queries],
            &[row, 2 * row],
            &[64, 1, 64],
        )?;
    }
    Ok(())
}

fn launch(
    ctx: &Context,
    stream: &Stream,
    width: Width,
    mut params: ScanParams,
    grid: u32,
) -> Result<(), GpuError> {
    assert_eq!(params.tier.pitch as usize % PITCH_STEP, 0);
    let (mut kernel, mut grid) = (width as usize, grid);
    // Centroids are ranked by inner products whatever the metric.
    let is_rank = params.mode == ScanMode::Rank as u32;
    let own = Metric::from_u32(params.tier.metric).and_then(Width::of_metric);
    assert!(
        own.is_none_or(|own| (own == width) != is_rank),
        "metric of a scan"
    );
    let (block, shared) = match width {
        Width::Wgmma => {
            set_maps(&mut params)?;
            if params.items == 0 && params.group == 0 {
                // Whole clusters.
                (kernel, grid) = (DENSE, (grid / CLUSTER).max(1) * CLUSTER);
            }
            (384, WGMMA_SHARED_BYTES)
        }
        _ => {
            assert_eq!(params.n_halves, 2, "halves of the queries");
            (256, 0)
        }
    };
    ctx.launch(stream, kernel, (grid, 1, 1), block, shared, &mut params)
}
