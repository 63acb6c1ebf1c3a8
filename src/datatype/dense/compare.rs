//! Order: by the first coordinate that differs, else the shorter value first, as Postgres orders arrays.

use super::DenseRef;
use crate::datatype::function::Args;
use crate::error::Result;
use core::cmp::Ordering;
use omen_vector::Element;

/// How the first argument stands to the second.
#[inline(always)]
pub(in crate::datatype) fn compare<E: Element + PartialOrd>(args: &Args) -> Result<Ordering> {
    let (a, b) = args.two::<DenseRef<E>>()?;
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
