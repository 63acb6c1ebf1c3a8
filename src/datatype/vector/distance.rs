//! Distances and measures. Sums are f32 (`omen_distance`), the rest f64.
//!
//! The index's bounds are proved against exactly these definitions; change neither alone:
//! `<->` = sqrt(l2sq), `<#>` = -dot, `<+>` = l1, `<=>` = 1 - clamp(dot(a, b) / sqrt(norm_sq(a) norm_sq(b)), -1, 1).

use super::check_same_dim;
use crate::datatype::function::pg_functions;
use core::f64::consts::PI;
use omen_distance::{dot, l1, l2sq, norm_sq};
use omen_ivf::Metric;

pg_functions! {
    /// Operator `<->`: Euclidean distance.
    fn l2_distance(args) -> f64 {
        let (a, b) = args.two_vectors()?;
        check_same_dim(&a, &b)?;
        Ok(distance(Metric::L2, a.x(), b.x()))
    }

    /// Square of the Euclidean distance.
    fn vector_l2_squared_distance(args) -> f64 {
        let (a, b) = args.two_vectors()?;
        check_same_dim(&a, &b)?;
        Ok(f64::from(l2sq(a.x(), b.x())))
    }

    /// Inner product.
    fn inner_product(args) -> f64 {
        let (a, b) = args.two_vectors()?;
        check_same_dim(&a, &b)?;
        Ok(f64::from(dot(a.x(), b.x())))
    }

    /// Operator `<#>`: negative inner product.
    fn vector_negative_inner_product(args) -> f64 {
        let (a, b) = args.two_vectors()?;
        check_same_dim(&a, &b)?;
        Ok(distance(Metric::NegIp, a.x(), b.x()))
    }

    /// Operator `<=>`: cosine distance; NaN when a norm is zero or overflows.
    fn cosine_distance(args) -> f64 {
        let (a, b) = args.two_vectors()?;
        check_same_dim(&a, &b)?;
        Ok(distance(Metric::Cosine, a.x(), b.x()))
    }

    /// Angle between unit vectors as a share of pi.
    fn vector_spherical_distance(args) -> f64 {
        let (a, b) = args.two_vectors()?;
        check_same_dim(&a, &b)?;
        Ok(f64::from(dot(a.x(), b.x())).clamp(-1.0, 1.0).acos() / PI)
    }

    /// Operator `<+>`: taxicab distance.
    fn l1_distance(args) -> f64 {
        let (a, b) = args.two_vectors()?;
        check_same_dim(&a, &b)?;
        Ok(distance(Metric::L1, a.x(), b.x()))
    }

    /// Number of dimensions.
    fn vector_dims(args) -> i32 {
        Ok(args.vector(0)?.dim() as i32)
    }

    /// Euclidean norm.
    fn vector_norm(args) -> f64 {
        Ok(norm(args.vector(0)?.x()))
    }
}

/// What the operator of `metric` returns for vectors of one dimension.
#[inline(always)]
pub(crate) fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    match metric {
        Metric::L2 => f64::from(l2sq(a, b)).sqrt(),
        Metric::NegIp => -f64::from(dot(a, b)),
        Metric::L1 => f64::from(l1(a, b)),
        Metric::Cosine => {
            let norms = f64::from(norm_sq(a)) * f64::from(norm_sq(b));
            let similarity = f64::from(dot(a, b)) / norms.sqrt();
            1.0 - similarity.clamp(-1.0, 1.0)
        }
    }
}

/// Euclidean norm, summed in f64: no f32 vector overflows it.
pub(super) fn norm(x: &[f32]) -> f64 {
    let (rounds, rest) = x.as_chunks::<8>();
    // Eight sums, so that the compiler may use SIMD.
    let mut sums = [0.0_f64; 8];
    for x in rounds {
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    let tail: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    (sums.iter().sum::<f64>() + tail).sqrt()
}
