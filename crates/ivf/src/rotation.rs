//! The seeded random rotation of the codes: "FHT-Kac", no stored matrix.
//!
//! Four rounds of [`omen_distance::rotate`], which flip signs by seeded bits. Every step is orthogonal, so lengths
//! and inner products survive; the signs make the direction look random, which the estimate of `rabitq` needs.
//! Source: RaBitQ-Library, `docs/docs/rabitq/rotator.md`. The result depends on the seed and the dimensions
//! alone: it is part of the page format.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const ROUNDS: usize = 4;

/// A rotation from `dim` to `code_dim` dimensions.
#[derive(Debug, Clone)]
pub struct Rotation {
    seed: u64,
    dim: usize,
    code_dim: usize,
    /// Sign bits to flip, `[ROUNDS, code_dim]`, each 0 or the sign bit of an f32.
    flips: Vec<u32>,
}

impl Rotation {
    /// The rotation of a seed for vectors of `dim >= 1` dimensions into `code_dim` of them, a multiple of 8 and not fewer.
    pub fn new(seed: u64, dim: usize, code_dim: usize) -> Self {
        assert!(
            dim >= 1 && code_dim >= dim && code_dim.is_multiple_of(8),
            "a rotation from {dim} to {code_dim} dimensions"
        );
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut flips = Vec::with_capacity(ROUNDS * code_dim);
        for _ in 0..ROUNDS * code_dim / 32 {
            let bits = rng.next_u32();
            flips.extend((0..32).map(|i| (bits >> i) << 31));
        }
        Self {
            seed,
            dim,
            code_dim,
            flips,
        }
    }

    /// The seed it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Dimension of the input.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Dimension of the output.
    pub fn code_dim(&self) -> usize {
        self.code_dim
    }

    /// The flips packed for a GPU, `[ROUNDS, code_dim / 32]`: bit `i` of word `w` is set where dimension `32 w + i` changes its
    /// sign. The code dimension must be a multiple of 32.
    pub fn flip_bits(&self) -> Vec<u32> {
        assert!(
            self.code_dim.is_multiple_of(32),
            "words of {} flips",
            self.code_dim
        );
        let word = |flips: &[u32]| {
            flips
                .iter()
                .rev()
                .fold(0, |bits, flip| bits << 1 | flip >> 31)
        };
        self.flips.chunks_exact(32).map(word).collect()
    }

    /// Rotates `x` (`[dim]`) into `out` (`[code_dim]`).
    pub fn apply(&self, x: &[f32], out: &mut [f32]) {
        assert!(
            x.len() == self.dim && out.len() == self.code_dim,
            "lengths of a rotation's vectors"
        );
        out[..self.dim].copy_from_slice(x);
        out[self.dim..].fill(0.0);
        omen_distance::rotate(out, &self.flips);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(rng: &mut ChaCha8Rng, dim: usize) -> Vec<f32> {
        (0..dim)
            .map(|_| rng.next_u32() as f32 / 2f32.powi(31) - 1.0)
            .collect()
    }

    #[test]
    fn keeps_inner_products() {
        let seed = crate::testing::seed();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for (dim, multiple) in [1, 2, 63, 64, 65, 100, 128, 200, 768, 1000, 1536, 16_000]
            .into_iter()
            .flat_map(|dim| [(dim, 8), (dim, 64)])
        {
            let rotation = Rotation::new(seed, dim, dim.next_multiple_of(multiple));
            let (a, b) = (vector(&mut rng, dim), vector(&mut rng, dim));
            let (mut ra, mut rb) = (
                vec![0.0; rotation.code_dim()],
                vec![0.0; rotation.code_dim()],
            );
            rotation.apply(&a, &mut ra);
            rotation.apply(&b, &mut rb);
            let dot = |a: &[f32], b: &[f32]| {
                a.iter()
                    .zip(b)
                    .map(|(&x, &y)| f64::from(x) * f64::from(y))
                    .sum::<f64>()
            };
            let norm = (dot(&a, &a) * dot(&b, &b)).sqrt();
            assert!(
                (dot(&a, &b) - dot(&ra, &rb)).abs() < 1e-5 * norm,
                "dim {dim}"
            );
            assert!(
                (dot(&a, &a) - dot(&ra, &ra)).abs() < 1e-5 * dot(&a, &a),
                "dim {dim}"
            );
        }
    }

    #[test]
    fn flips_are_packed_in_order() {
        let rotation = Rotation::new(crate::testing::seed(), 100, 128);
        let bits = rotation.flip_bits();
        assert_eq!(bits.len(), ROUNDS * 128 / 32);
        for (i, flip) in rotation.flips.iter().enumerate() {
            assert_eq!(bits[i / 32] >> (i % 32) << 31, *flip, "flip {i}");
        }
    }

    #[test]
    fn spreads_a_unit_vector() {
        let seed = crate::testing::seed();
        for (dim, code_dim) in [(100, 104), (100, 128), (200, 200), (768, 768), (1536, 1536)] {
            let rotation = Rotation::new(seed, dim, code_dim);
            let mut out = vec![0.0; rotation.code_dim()];
            for axis in [0, dim / 2, dim - 1] {
                let mut x = vec![0.0; dim];
                x[axis] = 1.0;
                rotation.apply(&x, &mut out);
                let largest = out.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(
                    largest < 8.0 / (rotation.code_dim() as f32).sqrt(),
                    "dim {dim}, axis {axis}: {largest}"
                );
            }
        }
    }
}
