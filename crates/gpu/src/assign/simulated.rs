//! Assigning in host memory, by the twins.

use super::{Assign, MIN_PIECE, Poll};
use crate::error::GpuError;
use crate::memory::pitch_of;
use crate::twin::assign::assign_rows;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::ThreadPool;

use super::centred::Centred;

/// Assigns as the kernels do.
pub(super) struct SimulatedAssigner {
    dim: usize,
    centroids: Centred,
    /// `[n, pitch]`
    held: Vec<f16>,
}

impl SimulatedAssigner {
    pub(super) fn new(dim: usize) -> Self {
        Self {
            dim,
            centroids: Centred {
                centroids: Vec::new(),
                offsets: Vec::new(),
            },
            held: Vec::new(),
        }
    }

    /// Assigns rows, `pitch` numbers from each to the next.
    fn assign_at(
        &self,
        rows: &[f16],
        pitch: usize,
        lists: &mut [u32],
        poll: Poll<'_>,
    ) -> Result<(), GpuError> {
        let mut row_of = vec![0f32; pitch];
        let pieces = rows
            .chunks(MIN_PIECE * pitch)
            .zip(lists.chunks_mut(MIN_PIECE));
        for (rows, lists) in pieces {
            poll()?;
            let mut ranks = vec![0f32; self.centroids.offsets.len() * lists.len()];
            for (i, row) in rows.chunks_exact(pitch).enumerate() {
                row.convert_to_f32_slice(&mut row_of);
                let centroids = self.centroids.centroids.chunks_exact(self.dim);
                for (c, centroid) in centroids.enumerate() {
                    ranks[c * lists.len() + i] = -omen_distance::dot(centroid, &row_of[..self.dim]);
                }
            }
            lists.copy_from_slice(&assign_rows(&ranks, &self.centroids.offsets, lists.len()));
        }
        Ok(())
    }
}

impl Assign for SimulatedAssigner {
    fn set_centroids(&mut self, centroids: &Centred, _: Poll<'_>) -> Result<(), GpuError> {
        self.centroids = centroids.clone();
        Ok(())
    }

    fn hold(
        &mut self,
        n: usize,
        fill: &mut dyn FnMut(usize, &mut [f16]),
        _: Poll<'_>,
    ) -> Result<(), GpuError> {
        self.held = vec![f16::ZERO; n * pitch_of(self.dim)];
        fill(0, &mut self.held);
        Ok(())
    }

    fn assign_held(&mut self, lists: &mut [u32], poll: Poll<'_>) -> Result<(), GpuError> {
        self.assign_at(&self.held, pitch_of(self.dim), lists, poll)
    }

    fn assign(
        &mut self,
        rows: &[f16],
        lists: &mut [u32],
        _: &ThreadPool,
        poll: Poll<'_>,
    ) -> Result<(), GpuError> {
        self.assign_at(rows, self.dim, lists, poll)
    }
}
