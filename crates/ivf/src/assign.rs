//! Assigns stored rows to lists, many at once: the build's side of `coarse::nearest_list`.

use half::f16;
use omen_distance::{Panels, f32_from_f16};
use rayon::ThreadPool;
use rayon::prelude::*;

/// Rows a task takes at a time.
const TASK_ROWS: usize = 256;

/// The centroids, ready to receive rows.
#[derive(Debug, Clone)]
pub struct Assigner {
    dim: usize,
    panels: Panels,
}

impl Assigner {
    /// From centroids as stored: `[lists, dim]`, at least one.
    pub fn new(centroids: &[f16], dim: usize) -> Self {
        let mut wide = vec![0.0; centroids.len()];
        f32_from_f16(centroids, &mut wide);
        Self {
            dim,
            panels: Panels::new(&wide, dim),
        }
    }

    /// Dimension of the rows.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The list of each row: the one whose centroid is nearest by l2sq, the lower one of equals. `rows`: `[n, dim]`. Gives
    /// `[n]`. Runs on `pool`; the caller sees to interrupts by the size of its batches.
    pub fn assign(&self, rows: &[f16], pool: &ThreadPool) -> Vec<u32> {
        assert!(
            rows.len().is_multiple_of(self.dim),
            "rows of {} dimensions",
            self.dim
        );
        let mut lists = vec![0; rows.len() / self.dim];
        pool.install(|| {
            rows.par_chunks(TASK_ROWS * self.dim)
                .zip(lists.par_chunks_mut(TASK_ROWS))
                .for_each(|(rows, lists)| {
                    let mut wide = vec![0.0; rows.len()];
                    f32_from_f16(rows, &mut wide);
                    self.panels.nearest(&wide, lists);
                });
        });
        lists
    }
}
