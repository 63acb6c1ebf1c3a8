//! Which of many centroids is nearest, for many rows at once: k-means and assignment.
//!
//! `argmin |x - c|^2 = argmin |c|^2 / 2 - <x, c>`, so this is a matrix product whose result never leaves the registers.
//! Centroids are packed in panels of [`WIDTH`] columns, rows in tiles of a few; a tile meets a panel in one loop over the
//! dimensions with all sums in registers. Both are taken relative to the centroids' mean, without which f32 would
//! lose the small differences of vectors far from the origin. Ties go to the lower number. Sums are not bounded as
//! those of the distances are: this chooses lists, and no promise rests on it.

#![allow(unsafe_code)]

use crate::{Isa, isa};

/// Centroids in a panel.
const WIDTH: usize = 32;
/// Rows that meet all panels before the next ones do: they stay in the cache.
const BLOCK: usize = 64;

/// Centroids packed for [`Panels::nearest`].
#[derive(Debug, Clone)]
pub struct Panels {
    dim: usize,
    /// `[dim]`
    mean: Vec<f32>,
    /// `[n_panels, dim, WIDTH]`, relative to the mean, padded with zeroes.
    packed: Vec<f32>,
    /// `[n_panels, WIDTH]`: half the squared norms, infinite where padded.
    half_norms: Vec<f32>,
}

impl Panels {
    /// Packs `centroids`, `[n, dim]`, n and dim at least 1.
    pub fn new(centroids: &[f32], dim: usize) -> Self {
        assert!(
            dim > 0 && !centroids.is_empty() && centroids.len().is_multiple_of(dim),
            "centroids of {dim} dimensions"
        );
        let n = centroids.len() / dim;
        let mut sums = vec![0f64; dim];
        for centroid in centroids.chunks_exact(dim) {
            for (sum, &x) in sums.iter_mut().zip(centroid) {
                *sum += f64::from(x);
            }
        }
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / n as f64) as f32).collect();
        let n_panels = n.div_ceil(WIDTH);
        let mut packed = vec![0f32; n_panels * dim * WIDTH];
        let mut half_norms = vec![f32::INFINITY; n_panels * WIDTH];
        for (i, centroid) in centroids.chunks_exact(dim).enumerate() {
            let panel = &mut packed[i / WIDTH * dim * WIDTH..][..dim * WIDTH];
            let mut norm = 0f64;
            for ((column, &x), &m) in panel.chunks_exact_mut(WIDTH).zip(centroid).zip(&mean) {
                column[i % WIDTH] = x - m;
                norm += f64::from(x - m) * f64::from(x - m);
            }
            half_norms[i] = (norm / 2.0) as f32;
        }
        Self {
            dim,
            mean,
            packed,
            half_norms,
        }
    }

    /// Writes to `nearest[i]` the number of the centroid nearest to row i. `rows`: `[n, dim]`, finite; `nearest`: `[n]`.
    pub fn nearest(&self, rows: &[f32], nearest: &mut [u32]) {
        assert_eq!(
            rows.len(),
            nearest.len() * self.dim,
            "rows of {} dimensions",
            self.dim
        );
        match isa() {
            // SAFETY: isa() names instruction sets that this machine has.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { self.nearest_avx512(rows, nearest) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { self.nearest_avx2(rows, nearest) },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => self.nearest_by::<2, true>(rows, nearest),
            _ => self.nearest_by::<2, false>(rows, nearest),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    fn nearest_avx512(&self, rows: &[f32], nearest: &mut [u32]) {
        self.nearest_by::<4, true>(rows, nearest);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn nearest_avx2(&self, rows: &[f32], nearest: &mut [u32]) {
        self.nearest_by::<2, true>(rows, nearest);
    }

    /// `TILE` rows at a time, which divides `BLOCK`: as many as keep the sums in registers (measured; twice as many
    /// spill and cost a factor of 2 to 40). `FUSED`: the machine multiplies and adds in one instruction.
    #[inline(always)]
    fn nearest_by<const TILE: usize, const FUSED: bool>(&self, rows: &[f32], nearest: &mut [u32]) {
        let dim = self.dim;
        let mut tiles = vec![[0f32; TILE]; dim * (BLOCK / TILE)];
        let mut best = vec![([[0f32; WIDTH]; TILE], [[0u32; WIDTH]; TILE]); BLOCK / TILE];
        for (rows, nearest) in rows.chunks(BLOCK * dim).zip(nearest.chunks_mut(BLOCK)) {
            let n_tiles = nearest.len().div_ceil(TILE);
            for (i, row) in rows.chunks_exact(dim).enumerate() {
                let tile = &mut tiles[i / TILE * dim..][..dim];
                for ((column, &x), &m) in tile.iter_mut().zip(row).zip(&self.mean) {
                    column[i % TILE] = x - m;
                }
            }
            best.fill(([[f32::INFINITY; WIDTH]; TILE], [[0; WIDTH]; TILE]));
            for (p, panel) in self.packed.chunks_exact(dim * WIDTH).enumerate() {
                let half_norms: &[f32; WIDTH] = self.half_norms[p * WIDTH..][..WIDTH]
                    .try_into()
                    .expect("WIDTH");
                for (tile, best) in tiles.chunks_exact(dim).zip(&mut best[..n_tiles]) {
                    let sums = products::<TILE, FUSED>(tile, panel);
                    for (r, sums) in sums.iter().enumerate() {
                        let (scores, panels) = (&mut best.0[r], &mut best.1[r]);
                        for j in 0..WIDTH {
                            let score = half_norms[j] - sums[j];
                            let nearer = score < scores[j];
                            scores[j] = if nearer { score } else { scores[j] };
                            panels[j] = if nearer { p as u32 } else { panels[j] };
                        }
                    }
                }
            }
            for (i, nearest) in nearest.iter_mut().enumerate() {
                let (scores, panels) = &best[i / TILE];
                let columns = scores[i % TILE].iter().zip(&panels[i % TILE]).enumerate();
                let numbered =
                    columns.map(|(j, (&score, &p))| (score, p * WIDTH as u32 + j as u32));
                *nearest = numbered
                    .fold((f32::INFINITY, 0), |a, b| {
                        if (b.0, b.1) < (a.0, a.1) { b } else { a }
                    })
                    .1;
            }
        }
    }
}

/// Inner products of the rows of a tile (`[dim, TILE]`) and the columns of a panel (`[dim, WIDTH]`).
#[inline(always)]
fn products<const TILE: usize, const FUSED: bool>(
    tile: &[[f32; TILE]],
    panel: &[f32],
) -> [[f32; WIDTH]; TILE] {
    let mut sums = [[0f32; WIDTH]; TILE];
    let (columns, _) = panel.as_chunks::<WIDTH>();
    for (x, c) in tile.iter().zip(columns) {
        for r in 0..TILE {
            for j in 0..WIDTH {
                sums[r][j] = if FUSED {
                    x[r].mul_add(c[j], sums[r][j])
                } else {
                    x[r] * c[j] + sums[r][j]
                };
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small deterministic generator: this crate has no other.
    fn numbers(seed: &mut u64, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| {
                *seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (*seed >> 40) as f32 / (1u64 << 24) as f32
            })
            .collect()
    }

    fn l2sq(a: &[f32], b: &[f32]) -> f64 {
        a.iter()
            .zip(b)
            .map(|(&x, &y)| f64::from(x - y) * f64::from(x - y))
            .sum()
    }

    #[test]
    fn finds_the_nearest() {
        let mut seed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64;
        println!("seed {seed}");
        for (dim, lists, n) in [
            (1, 1, 1),
            (1, 5, 70),
            (3, 31, 64),
            (100, 32, 65),
            (100, 97, 130),
            (768, 33, 17),
        ] {
            for offset in [0.0, 1000.0] {
                let shift = |v: Vec<f32>| v.into_iter().map(|x| x + offset).collect::<Vec<f32>>();
                let (centroids, rows) = (
                    shift(numbers(&mut seed, lists * dim)),
                    shift(numbers(&mut seed, n * dim)),
                );
                let mut nearest = vec![u32::MAX; n];
                Panels::new(&centroids, dim).nearest(&rows, &mut nearest);
                for (row, &found) in rows.chunks_exact(dim).zip(&nearest) {
                    let distances: Vec<f64> =
                        centroids.chunks_exact(dim).map(|c| l2sq(row, c)).collect();
                    let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
                    let tolerance = 1e-6 * dim as f64;
                    assert!(
                        distances[found as usize] <= least + tolerance,
                        "dim {dim}, {lists} lists, offset {offset}"
                    );
                }
            }
        }
    }

    #[test]
    fn ties_go_to_the_lower_number() {
        let mut seed = 7;
        let one = numbers(&mut seed, 40);
        let centroids = one.repeat(100);
        let mut nearest = vec![9; 3];
        Panels::new(&centroids, 40).nearest(&numbers(&mut seed, 120), &mut nearest);
        assert_eq!(nearest, [0; 3]);
    }
}
