//! The struct of `assign_rows`.

use bytemuck::{Pod, Zeroable};

/// Argument of `assign_rows`.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AssignParams {
    /// f32 `[n_centroids, n_rows]`: minus the inner products.
    pub ranks: u64,
    /// f32 `[n_centroids]`: what is added to them.
    pub offsets: u64,
    /// u32 `[n_rows]`: the centroid with the least sum, the lower one of equals.
    pub lists: u64,
    /// Centroids.
    pub n_centroids: u32,
    /// Rows.
    pub n_rows: u32,
}

const _: () = assert!(size_of::<AssignParams>() == 32);
