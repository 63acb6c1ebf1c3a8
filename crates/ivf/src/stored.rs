//! From the user's vector to the stored one: scaling by a power of two, binary16, and the radius of the hard bound.
//!
//! Stored numbers are the user's times `2^scale_exp`, chosen at build so that typical values lie well inside the
//! range of binary16 (about 6e-8 to 65504). Cosine: vectors are first brought to unit length, in f64. Everything the
//! index computes (centroids, codes, keys) starts from the row as stored; `err` says how far that is from the truth.

use half::f16;
use rayon::prelude::*;

use crate::bound::{COSINE_NORM_MAX, COSINE_NORM_MIN, MAX_ERR, round_up, rounding};
use crate::lanes::dot;
use crate::{IvfError, Metric, Result};

/// Largest finite value of binary16.
const F16_MAX: f64 = 65504.0;
/// The sample's largest magnitude is brought to between 2^7 and 2^8.
pub(crate) const TARGET_EXP: i32 = 8;
/// With this a unit vector's components stay below [`F16_MAX`].
pub(crate) const MAX_COSINE_EXP: i32 = 15;

/// What the index keeps of a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredVector {
    /// The row, `[row_words]`: of vectors the scaled vector in binary16, `[dim]`, finite.
    pub row: Vec<f16>,
    /// Radius of the hard bound (see `bound.rs`); may be infinite.
    pub err: f32,
}

/// How an index scales vectors; frozen at build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaling {
    /// Metric of the index.
    pub metric: Metric,
    /// Dimension of the vectors.
    pub dim: u32,
    /// Stored numbers are the user's times `2^scale_exp`.
    pub scale_exp: i32,
}

impl Scaling {
    /// The stored form of `v` (`[dim]`), or `None` for the zero vector under Cosine, which has no direction and is not
    /// indexed. Fails if the dimension differs.
    pub fn to_stored(&self, v: &[f32]) -> Result<Option<StoredVector>> {
        let Some(scaled) = self.scaled(v)? else {
            return Ok(None);
        };
        let saturated: Vec<f32> = scaled
            .values
            .iter()
            .map(|&x| x.clamp(-F16_MAX, F16_MAX) as f32)
            .collect();
        let mut row = vec![f16::ZERO; v.len()];
        omen_distance::f16_from_f32(&saturated, &mut row);
        let (mut diff_sq, mut diff_sum, mut norm_sq) = (0f64, 0f64, 0f64);
        for (&x, h) in scaled.values.iter().zip(&row) {
            let diff = x - h.to_f64();
            diff_sq += diff * diff;
            diff_sum += diff.abs();
            norm_sq += x * x;
        }
        let rounded = match self.metric {
            Metric::L1 => diff_sum,
            _ => diff_sq.sqrt(),
        };
        let mut err = rounded + scaled.err;
        if self.metric == Metric::NegIp {
            err += 2.0 * f64::from(rounding(self.dim)) * norm_sq.sqrt();
        }
        let err = round_up(err);
        let err = if err < MAX_ERR { err } else { f32::INFINITY };
        Ok(Some(StoredVector { row, err }))
    }

    /// `v` in scaled space, in f64. `None` for the zero vector under Cosine.
    pub(crate) fn scaled(&self, v: &[f32]) -> Result<Option<Scaled>> {
        let Some(scale) = self.scale_of(v)? else {
            return Ok(None);
        };
        Ok(Some(Scaled {
            values: v.iter().map(|&x| scale.apply(x)).collect(),
            err: scale.err,
        }))
    }

    /// How `v` is scaled. `None` for the zero vector under Cosine. Fails if the dimension differs.
    pub(crate) fn scale_of(&self, v: &[f32]) -> Result<Option<Scale>> {
        if v.len() != self.dim as usize {
            return Err(IvfError::Dimension {
                expected: self.dim,
                found: v.len() as u32,
            });
        }
        let unit = 2f64.powi(self.scale_exp);
        let (factor, err) = match self.metric {
            Metric::L2 | Metric::NegIp | Metric::L1 | Metric::Hamming | Metric::Jaccard => {
                (unit, 0.0)
            }
            Metric::Cosine => {
                let norm = dot(v, v).sqrt();
                if norm == 0.0 {
                    return Ok(None);
                }
                // Outside this range the operator's own sums overflow or vanish, so only the trivial bound holds.
                let ordinary = (COSINE_NORM_MIN..=COSINE_NORM_MAX).contains(&norm);
                let err = if ordinary {
                    unit * f64::from(self.dim + 8) * f64::EPSILON
                } else {
                    f64::INFINITY
                };
                (unit / norm, err)
            }
        };
        Ok(Some(Scale { factor, err }))
    }
}

/// How one vector is scaled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    factor: f64,
    /// See [`Scaled::err`].
    pub err: f64,
}

impl Scale {
    /// A coordinate in scaled space.
    #[inline(always)]
    pub(crate) fn apply(&self, x: f32) -> f64 {
        f64::from(x) * self.factor
    }
}

/// A vector in scaled space.
pub(crate) struct Scaled {
    /// The values, `[dim]`.
    pub values: Vec<f64>,
    /// Distance of `values` from the true scaled vector, at most: 0 but for Cosine's, which are divided. Infinite if the
    /// operator itself is unreliable at this length.
    pub err: f64,
}

/// The `scale_exp` of a new index from a sample of its vectors (`[n, dim]`, the user's numbers). Runs on the threads of the pool that it is called in.
///
/// Zero vectors do not count; 0 if nothing is left.
pub fn choose_scale(metric: Metric, sample: &[f32], dim: usize) -> i32 {
    let size_of = |v: &[f32]| {
        let peak = f64::from(v.iter().fold(0f32, |m, x| m.max(x.abs())));
        let norm = match metric {
            Metric::Cosine => dot(v, v).sqrt(),
            _ => 1.0,
        };
        if peak > 0.0 && peak.is_finite() {
            peak / norm
        } else {
            0.0
        }
    };
    let largest = sample
        .par_chunks_exact(dim)
        .map(size_of)
        .reduce(|| 0.0, f64::max);
    if largest == 0.0 {
        return 0;
    }
    // From -119 to 157 for f32 input; 2^scale_exp is only ever used in f64.
    let exp = TARGET_EXP - 1 - largest.log2().floor() as i32;
    if metric == Metric::Cosine {
        exp.min(MAX_COSINE_EXP)
    } else {
        exp
    }
}

/// The scaled vectors of a sample (`[n, dim]`, the user's numbers), saturated to the range of binary16: the input of
/// [`crate::kmeans::train`]. Zero vectors under Cosine are left out. Runs on the threads of the pool that it is called in.
pub fn scale_sample(scaling: &Scaling, sample: &[f32]) -> Result<Vec<f32>> {
    let dim = scaling.dim as usize;
    let mut out = vec![0f32; sample.len()];
    let rows = sample
        .par_chunks_exact(dim)
        .zip(out.par_chunks_exact_mut(dim));
    let kept: Vec<bool> = rows
        .map(|(v, out)| {
            let Some(scale) = scaling.scale_of(v)? else {
                return Ok(false);
            };
            for (out, &x) in out.iter_mut().zip(v) {
                *out = scale.apply(x).clamp(-F16_MAX, F16_MAX) as f32;
            }
            Ok(true)
        })
        .collect::<Result<_>>()?;
    let mut n = 0;
    for (row, _) in kept.iter().enumerate().filter(|(_, is_kept)| **is_kept) {
        if row > n {
            out.copy_within(row * dim..(row + 1) * dim, n * dim);
        }
        n += 1;
    }
    out.truncate(n * dim);
    Ok(out)
}
