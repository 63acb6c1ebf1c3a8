//! Order: by the first coordinate that differs, else the shorter vector first, as Postgres orders arrays.

use crate::datatype::function::{Args, pg_functions};
use crate::error::Result;
use core::cmp::Ordering;

pg_functions! {
    /// Operator `<`.
    fn vector_lt(args) -> bool {
        Ok(compare(args)?.is_lt())
    }

    /// Operator `<=`.
    fn vector_le(args) -> bool {
        Ok(compare(args)?.is_le())
    }

    /// Operator `=`.
    fn vector_eq(args) -> bool {
        Ok(compare(args)?.is_eq())
    }

    /// Operator `<>`.
    fn vector_ne(args) -> bool {
        Ok(compare(args)?.is_ne())
    }

    /// Operator `>=`.
    fn vector_ge(args) -> bool {
        Ok(compare(args)?.is_ge())
    }

    /// Operator `>`.
    fn vector_gt(args) -> bool {
        Ok(compare(args)?.is_gt())
    }

    /// Support function 1 of btree: -1, 0 or 1.
    fn vector_cmp(args) -> i32 {
        Ok(compare(args)? as i32)
    }
}

#[inline(always)]
fn compare(args: &Args) -> Result<Ordering> {
    let (a, b) = args.two_vectors()?;
    // Coordinates are finite, and -0 equals 0.
    for (x, y) in a.x().iter().zip(b.x()) {
        if x < y {
            return Ok(Ordering::Less);
        }
        if x > y {
            return Ok(Ordering::Greater);
        }
    }
    Ok(a.dim().cmp(&b.dim()))
}
