//! Distances, norm and normal form. Sums are f32 (`omen_distance`), the rest f64.

use super::{SparsevecBuf, SparsevecRef, TYPE};
use crate::datatype::dense::norm;
use crate::datatype::function::{Args, pg_functions};
use crate::datatype::modifier::check_same_dim;
use crate::datatype::range::out_of_range;
use crate::error::Result;
use omen_distance::Sparse;

pg_functions! {
    /// Operator `<->`: Euclidean distance.
    fn sparsevec_l2_distance(args) -> f64 {
        of_two(args, |a, b| f64::from(a.l2sq(b)).sqrt())
    }

    /// Square of the Euclidean distance.
    fn sparsevec_l2_squared_distance(args) -> f64 {
        of_two(args, |a, b| a.l2sq(b).into())
    }

    /// Inner product.
    fn sparsevec_inner_product(args) -> f64 {
        of_two(args, |a, b| a.dot(b).into())
    }

    /// Operator `<#>`: negative inner product.
    fn sparsevec_negative_inner_product(args) -> f64 {
        of_two(args, |a, b| (-a.dot(b)).into())
    }

    /// Operator `<=>`: cosine distance; NaN when a norm is zero or overflows.
    fn sparsevec_cosine_distance(args) -> f64 {
        of_two(args, |a, b| {
            let norms = f64::from(a.norm_sq()) * f64::from(b.norm_sq());
            let similarity = f64::from(a.dot(b)) / norms.sqrt();
            1.0 - similarity.clamp(-1.0, 1.0)
        })
    }

    /// Operator `<+>`: taxicab distance.
    fn sparsevec_l1_distance(args) -> f64 {
        of_two(args, |a, b| a.l1(b).into())
    }

    /// Euclidean norm.
    fn sparsevec_l2_norm(args) -> f64 {
        Ok(norm(args.read::<SparsevecRef>(0)?.x()))
    }

    /// Divides by the Euclidean norm; zero stays zero, and what becomes zero is left out.
    fn sparsevec_l2_normalize(args) -> SparsevecBuf {
        let value = args.read::<SparsevecRef>(0)?;
        let norm = norm(value.x());
        let unit = |x: f32| (f64::from(x) / norm) as f32;
        let elements = value.indices().iter().zip(value.x());
        let elements = elements.map(|(&index, &x)| (index, unit(x))).filter(|&(_, x)| x != 0.0);
        if elements.clone().any(|(_, x)| x.is_infinite()) {
            return Err(out_of_range("overflow"));
        }
        SparsevecBuf::from_elements(value.dim(), elements.clone().count(), elements)
    }
}

impl SparsevecRef {
    /// Its elements.
    pub(crate) fn elements(&self) -> Sparse<'_> {
        Sparse {
            indices: self.indices(),
            x: self.x(),
        }
    }
}

/// What `f` makes of the first two arguments. Errors: they differ in dimension.
fn of_two(args: &Args, f: impl FnOnce(Sparse<'_>, Sparse<'_>) -> f64) -> Result<f64> {
    let (a, b) = args.two::<SparsevecRef>()?;
    check_same_dim(TYPE, a.dim(), b.dim())?;
    Ok(f(a.elements(), b.elements()))
}
