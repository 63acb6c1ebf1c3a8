//! Distances and measures. Sums are f32 (`omen_distance`), the rest f64.
//!
//! The index's bounds are proved against exactly these definitions; change neither alone:
//! `<->` = sqrt(l2sq), `<#>` = -dot, `<+>` = l1, `<=>` = 1 - clamp(dot(a, b) / sqrt(norm_sq(a) norm_sq(b)), -1, 1).

use super::DenseRef;
use crate::datatype::function::Args;
use crate::datatype::modifier::check_same_dim;
use crate::error::Result;
use core::f64::consts::PI;
use omen_distance::f16;
use omen_ivf::Metric;
use omen_vector::Element;

/// Coordinates that are widened at a time, to compute with them.
pub(super) const BLOCK: usize = 64;

/// Coordinates that sums are made of.
pub(crate) trait Summed: Element + PartialOrd {
    /// `sum (a_i - b_i)^2`.
    fn l2sq(a: &[Self], b: &[Self]) -> f32;
    /// `sum a_i b_i`.
    fn dot(a: &[Self], b: &[Self]) -> f32;
    /// `sum |a_i - b_i|`.
    fn l1(a: &[Self], b: &[Self]) -> f32;
    /// Writes the same numbers to `to`, of the same length.
    fn widen(x: &[Self], to: &mut [f32]);
    /// Writes the nearest numbers to `to`, of the same length; infinite where `x` is beyond the range.
    fn narrow(x: &[f32], to: &mut [Self]);
}

impl Summed for f32 {
    #[inline(always)]
    fn l2sq(a: &[f32], b: &[f32]) -> f32 {
        omen_distance::l2sq(a, b)
    }
    #[inline(always)]
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        omen_distance::dot(a, b)
    }
    #[inline(always)]
    fn l1(a: &[f32], b: &[f32]) -> f32 {
        omen_distance::l1(a, b)
    }
    #[inline(always)]
    fn widen(x: &[f32], to: &mut [f32]) {
        to.copy_from_slice(x);
    }
    #[inline(always)]
    fn narrow(x: &[f32], to: &mut [f32]) {
        to.copy_from_slice(x);
    }
}

impl Summed for f16 {
    #[inline(always)]
    fn l2sq(a: &[f16], b: &[f16]) -> f32 {
        omen_distance::l2sq_halves(a, b)
    }
    #[inline(always)]
    fn dot(a: &[f16], b: &[f16]) -> f32 {
        omen_distance::dot_halves(a, b)
    }
    #[inline(always)]
    fn l1(a: &[f16], b: &[f16]) -> f32 {
        omen_distance::l1_halves(a, b)
    }
    #[inline(always)]
    fn widen(x: &[f16], to: &mut [f32]) {
        omen_distance::f32_from_f16(x, to);
    }
    #[inline(always)]
    fn narrow(x: &[f32], to: &mut [f16]) {
        omen_distance::f16_from_f32(x, to);
    }
}

/// What `f` makes of the coordinates of the first two arguments. Errors: they differ in number.
#[inline(always)]
pub(in crate::datatype) fn of_two<E: Summed>(
    args: &Args,
    f: impl FnOnce(&[E], &[E]) -> f64,
) -> Result<f64> {
    let (a, b) = args.two::<DenseRef<E>>()?;
    check_same_dim(E::TYPE, a.dim(), b.dim())?;
    Ok(f(a.x(), b.x()))
}

/// What the operator of `metric` returns for values of one dimension.
#[inline(always)]
pub(crate) fn distance<E: Summed>(metric: Metric, a: &[E], b: &[E]) -> f64 {
    match metric {
        Metric::L2 => l2sq(a, b).sqrt(),
        Metric::NegIp => -inner_product(a, b),
        Metric::L1 => l1(a, b),
        // Of bits alone.
        Metric::Hamming | Metric::Jaccard => f64::NAN,
        Metric::Cosine => {
            let norms = inner_product(a, a) * inner_product(b, b);
            let similarity = inner_product(a, b) / norms.sqrt();
            1.0 - similarity.clamp(-1.0, 1.0)
        }
    }
}

/// Square of the Euclidean distance.
#[inline(always)]
pub(in crate::datatype) fn l2sq<E: Summed>(a: &[E], b: &[E]) -> f64 {
    f64::from(E::l2sq(a, b))
}

/// Inner product.
#[inline(always)]
pub(in crate::datatype) fn inner_product<E: Summed>(a: &[E], b: &[E]) -> f64 {
    f64::from(E::dot(a, b))
}

/// Taxicab distance.
#[inline(always)]
pub(in crate::datatype) fn l1<E: Summed>(a: &[E], b: &[E]) -> f64 {
    f64::from(E::l1(a, b))
}

/// Angle between unit vectors as a share of pi.
#[inline(always)]
pub(in crate::datatype) fn spherical<E: Summed>(a: &[E], b: &[E]) -> f64 {
    inner_product(a, b).clamp(-1.0, 1.0).acos() / PI
}

/// Euclidean norm, summed in f64: no value overflows it.
pub(in crate::datatype) fn norm<E: Summed>(x: &[E]) -> f64 {
    // Eight sums, so that the compiler may use SIMD.
    let mut sums = [0.0_f64; 8];
    let mut block = [0.0; BLOCK];
    for x in x.chunks(BLOCK) {
        let wide = &mut block[..x.len()];
        E::widen(x, wide);
        let (rounds, rest) = wide.as_chunks::<8>();
        for x in rounds {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sums.iter().sum::<f64>().sqrt()
}
