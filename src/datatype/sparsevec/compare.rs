//! Order: by the first coordinate that differs, zeros included, else the shorter value first, as Postgres orders arrays.

use super::SparsevecRef;
use crate::datatype::function::{Args, pg_functions};
use crate::error::Result;
use core::cmp::Ordering;

pg_functions! {
    /// Operator `<`.
    fn sparsevec_lt(args) -> bool {
        Ok(compare(args)?.is_lt())
    }

    /// Operator `<=`.
    fn sparsevec_le(args) -> bool {
        Ok(compare(args)?.is_le())
    }

    /// Operator `=`.
    fn sparsevec_eq(args) -> bool {
        Ok(compare(args)?.is_eq())
    }

    /// Operator `<>`.
    fn sparsevec_ne(args) -> bool {
        Ok(compare(args)?.is_ne())
    }

    /// Operator `>=`.
    fn sparsevec_ge(args) -> bool {
        Ok(compare(args)?.is_ge())
    }

    /// Operator `>`.
    fn sparsevec_gt(args) -> bool {
        Ok(compare(args)?.is_gt())
    }

    /// Support function 1 of btree: -1, 0 or 1.
    fn sparsevec_cmp(args) -> i32 {
        Ok(compare(args)? as i32)
    }
}

/// How the first argument stands to the second.
fn compare(args: &Args) -> Result<Ordering> {
    let (a, b) = args.two::<SparsevecRef>()?;
    let (mut of_a, mut of_b) = (elements(&a), elements(&b));
    // Beyond the shorter one's dimension the dimensions decide.
    let dim = a.dim().min(b.dim());
    loop {
        let x = of_a.next().filter(|&(index, _)| index < dim);
        let y = of_b.next().filter(|&(index, _)| index < dim);
        // The first coordinate of both that differs, if it is not that both have one at the same index.
        let order = match (x, y) {
            (None, None) => return Ok(a.dim().cmp(&b.dim())),
            (Some((_, x)), None) => sign(x),
            (None, Some((_, y))) => sign(y).reverse(),
            (Some((i, x)), Some((j, y))) => match i.cmp(&j) {
                Ordering::Less => sign(x),
                Ordering::Greater => sign(y).reverse(),
                // They are finite.
                Ordering::Equal => x.partial_cmp(&y).unwrap_or(Ordering::Equal),
            },
        };
        if order.is_ne() {
            return Ok(order);
        }
    }
}

/// Index and value of each element.
fn elements(value: &SparsevecRef) -> impl Iterator<Item = (usize, f32)> {
    let indices = value.indices().iter().map(|&index| index as usize);
    indices.zip(value.x().iter().copied())
}

/// How a value that is not zero stands to zero.
fn sign(x: f32) -> Ordering {
    if x < 0.0 {
        Ordering::Less
    } else {
        Ordering::Greater
    }
}
