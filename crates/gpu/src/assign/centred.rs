//! Centroids relative to a point, so that sums of f32 keep the small differences of vectors far from the origin.

/// Rows that are enough for a mean.
const MEAN_ROWS: usize = 4096;

/// Centroids c - m, and what is to be added to minus their inner products with rows.
#[derive(Debug, Clone)]
pub(super) struct Centred {
    /// `[n, dim]`
    pub centroids: Vec<f32>,
    /// `[n]`
    pub offsets: Vec<f32>,
}

impl Centred {
    /// For rows as they are: around the centroids' mean. `centroids`: `[n, dim]`.
    pub(super) fn around_mean(centroids: &[f32], dim: usize) -> Self {
        let mean = mean_of(centroids.chunks_exact(dim), dim);
        // |x - c|^2 / 2 = |x|^2 / 2 - <x, m> + ... : with d = c - m, argmin of |d|^2 / 2 + <m, d> - <x, d>.
        Self::relative(centroids, &mean, |m, d| f64::from(m) * f64::from(d))
    }

    /// For rows that are relative to `center`, `[dim]`, too.
    pub(super) fn for_relative_rows(centroids: &[f32], center: &[f32]) -> Self {
        Self::relative(centroids, center, |_, _| 0.0)
    }

    fn relative(centroids: &[f32], center: &[f32], more: impl Fn(f32, f32) -> f64) -> Self {
        let mut relative = Vec::with_capacity(centroids.len());
        let mut offsets = Vec::with_capacity(centroids.len() / center.len());
        for centroid in centroids.chunks_exact(center.len()) {
            let mut offset = 0f64;
            for (&c, &m) in centroid.iter().zip(center) {
                let d = c - m;
                offset += f64::from(d) * f64::from(d) / 2.0 + more(m, d);
                relative.push(d);
            }
            offsets.push(offset as f32);
        }
        Self {
            centroids: relative,
            offsets,
        }
    }
}

/// The mean of rows, `[n, dim]`, n at least 1, or of some of them where they are many: any point near all of them does.
pub(super) fn mean(rows: &[f32], dim: usize) -> Vec<f32> {
    let n = rows.len() / dim;
    mean_of(
        rows.chunks_exact(dim).step_by(n.div_ceil(MEAN_ROWS).max(1)),
        dim,
    )
}

fn mean_of<'a>(rows: impl Iterator<Item = &'a [f32]>, dim: usize) -> Vec<f32> {
    let (mut sums, mut n) = (vec![0f64; dim], 0u32);
    for row in rows {
        n += 1;
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
    }
    sums.iter()
        .map(|sum| (sum / f64::from(n.max(1))) as f32)
        .collect()
}
