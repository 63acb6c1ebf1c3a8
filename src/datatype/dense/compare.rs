//! Order: by the first coordinate that differs, else the shorter value first, as Postgres orders arrays.

use super::DenseRef;
use crate::datatype::function::Args;
use crate::error::Result;
use core::cmp::Ordering;
use omen_vector::Element;

/// How the first argument stands to the second.
#[inline(always)]
pub(in crate::datatype) fn compare<E: Element>(args: &Args) -> Result<Ordering> {
    let (a, b) = args.two::<DenseRef<E>>()?;
    for (x, y) in a.x().iter().zip(b.x()) {
        let (x, y) = (x.order_key(), y.order_key());
        if x != y {
            return Ok(x.cmp(&y));
        }
    }
    Ok(a.dim().cmp(&b.dim()))
}
