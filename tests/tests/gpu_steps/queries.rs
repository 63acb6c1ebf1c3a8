//! Queries as the kernels want them, made by the host.

use crate::common::{normal, random_bits};
use half::f16;
use omen_gpu::TierQuery;
use omen_gpu::engine::Scales;
use omen_gpu::memory::pitch_of;
use omen_gpu::params::QueryConsts;
use omen_gpu::query::{prepare, prepare_bits, scales};
use omen_ivf::Metric;
use rand::Rng;

/// A batch's queries.
pub struct Queries {
    /// Words of 32 bits of each.
    words: usize,
    /// `[n, words]`
    pub vectors: Vec<f32>,
    /// `[n, 2, pitch]`
    pub halves: Vec<f16>,
    /// `[n]`
    pub consts: Vec<QueryConsts>,
    pub scales: Scales,
}

impl Queries {
    /// From `raw`, `[n, dim]`.
    pub fn new(metric: Metric, dim: usize, raw: &[f32]) -> Self {
        assert!(!metric.is_of_bits(), "of bits there are other ones");
        let (pitch, n) = (pitch_of(dim), raw.len() / dim);
        let g = omen_ivf::bound::rounding(dim as u32);
        let mut vectors = vec![0.0; n * pitch];
        let mut halves = vec![f16::ZERO; 2 * n * pitch];
        let of_query = vectors
            .chunks_exact_mut(pitch)
            .zip(halves.chunks_exact_mut(2 * pitch));
        let consts = raw
            .chunks_exact(dim)
            .zip(of_query)
            .map(|(q, (vector, halves))| {
                let query = TierQuery {
                    q,
                    q_norm: q.iter().map(|x| x * x).sum::<f32>().sqrt(),
                    q_err: 0.125,
                    lists: &[],
                    k: 1,
                };
                prepare(metric, &query, g, vector, halves).unwrap()
            })
            .collect();
        Self {
            words: pitch,
            vectors,
            halves,
            consts,
            scales: scales(g),
        }
    }

    /// Strings of bits, `dim` of them.
    fn of_bits(rng: &mut impl Rng, dim: usize, n: usize) -> Self {
        let words = pitch_of(dim.div_ceil(16)) / 2;
        let mut vectors = vec![0.0; n * words];
        let consts = vectors.chunks_exact_mut(words).map(|to| QueryConsts {
            norm: prepare_bits(&random_bits(rng, dim, words), to),
            ..QueryConsts::default()
        });
        Self {
            words,
            consts: consts.collect(),
            vectors,
            halves: vec![f16::ZERO],
            scales: scales(0.0),
        }
    }

    pub fn random(rng: &mut impl Rng, metric: Metric, dim: usize, n: usize) -> Self {
        if metric.is_of_bits() {
            return Self::of_bits(rng, dim, n);
        }
        let raw: Vec<f32> = (0..n * dim).map(|_| 10.0 * normal(rng)).collect();
        Self::new(metric, dim, &raw)
    }

    pub fn vector(&self, q: usize) -> &[f32] {
        &self.vectors[q * self.words..][..self.words]
    }

    /// What rounding may change of the squared distance, or of the inner product, to a row of this norm.
    pub fn lost(&self, q: usize, n_halves: u32, row_norm_sq: f32) -> f32 {
        let consts = &self.consts[q];
        if consts.norm_sq == 0.0 && consts.slack == 0.0 {
            return 0.0; // of bits, counts are exact
        }
        let slack = if n_halves == 2 {
            consts.slack
        } else {
            consts.slack_high
        };
        slack * row_norm_sq.sqrt() * 2.0 + 1e-6 * (consts.norm_sq + row_norm_sq)
    }
}
