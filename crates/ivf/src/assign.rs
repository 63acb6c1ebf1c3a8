//! Assigns stored rows to lists, many at once: the build's side of `coarse::nearest_list`.

use std::sync::Arc;

use half::f16;
use omen_distance::{Panels, f32_from_f16};
use rayon::ThreadPool;
use rayon::prelude::*;

/// Rows a task takes at a time.
const TASK_ROWS: usize = 128;

/// Finds the lists of rows. Belongs to one thread at a time, and may pass from one to another.
pub trait Assign: Send {
    /// The list of each row: the one whose centroid is nearest by l2sq. `rows`: coarse vectors (of vectors the rows), `[n, dim]`, any number of them. Gives `[n]`. Never
    /// fails: who cannot do it by the means it has, does it by others.
    fn assign(&mut self, rows: &[f16]) -> Vec<u32>;

    /// Whether the next call of [`Self::assign`] calls a device's driver, which must not happen while the process exits.
    fn uses_driver(&self) -> bool {
        false
    }
}

/// The centroids, ready to receive rows, and the threads that compare them.
#[derive(Debug, Clone)]
pub struct Assigner {
    dim: usize,
    panels: Panels,
    pool: Arc<ThreadPool>,
}

impl Assigner {
    /// From centroids as stored: `[lists, dim]`, at least one. Runs on `pool`.
    pub fn new(centroids: &[f16], dim: usize, pool: Arc<ThreadPool>) -> Self {
        let mut wide = vec![0.0; centroids.len()];
        f32_from_f16(centroids, &mut wide);
        Self {
            dim,
            panels: Panels::new(&wide, dim),
            pool,
        }
    }
}

impl Assign for Assigner {
    /// Of centroids equally near, the lower one.
    fn assign(&mut self, rows: &[f16]) -> Vec<u32> {
        assert!(
            rows.len().is_multiple_of(self.dim),
            "rows of {} dimensions",
            self.dim
        );
        let mut lists = vec![0; rows.len() / self.dim];
        self.pool.install(|| {
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
