//! Casts: to a dimension, from arrays of numbers, to `real[]`, from one of the types to the other.

use super::distance::{BLOCK, Summed};
use super::{DenseBuf, DenseRef};
use crate::datatype::array::{ArrayRef, new_array};
use crate::datatype::function::Args;
use crate::datatype::modifier::check_typmod;
use crate::datatype::range::rounded;
use crate::error::Result;
use omen_vector::Element;
use pgrx::pg_sys;

/// `(E, integer, boolean)`: checks the dimension.
pub(in crate::datatype) fn to_typmod<E: Element>(args: &Args) -> Result<DenseRef<E>> {
    let value = args.read::<DenseRef<E>>(0)?;
    check_typmod(args.int(1), value.dim())?;
    Ok(value)
}

/// `(T[], integer, boolean)`, T one of integer, real, double precision, numeric.
pub(in crate::datatype) fn from_array<E: Summed>(args: &Args) -> Result<DenseBuf<E>> {
    let array = args.read::<ArrayRef>(0)?;
    array.check_list()?;
    E::TYPE.check_dim(array.len())?;
    check_typmod(args.int(1), array.len())?;
    let mut value = DenseBuf::<E>::zeroed(array.len())?;
    round_to(&array.numbers()?, value.x_mut())?;
    let mut x = value.x().iter();
    x.try_for_each(|x| E::TYPE.check_finite(x.to_f32()))?;
    Ok(value)
}

/// `(E, integer, boolean)`: a real[].
pub(in crate::datatype) fn to_float4<E: Summed>(args: &Args) -> Result<*mut pg_sys::ArrayType> {
    let value = args.read::<DenseRef<E>>(0)?;
    #[allow(unsafe_code)]
    // SAFETY: real is f32.
    unsafe {
        new_array(pg_sys::FLOAT4OID, value.dim(), |x: &mut [f32]| {
            E::widen(value.x(), x);
            Ok(())
        })
    }
}

/// `(From, integer, boolean)`: the same coordinates, each rounded. Errors: one is beyond the range.
pub(in crate::datatype) fn convert<From: Summed, To: Summed>(args: &Args) -> Result<DenseBuf<To>> {
    let value = args.read::<DenseRef<From>>(0)?;
    To::TYPE.check_dim(value.dim())?;
    check_typmod(args.int(1), value.dim())?;
    let mut result = DenseBuf::zeroed(value.dim())?;
    let mut block = [0.0; BLOCK];
    let blocks = result.x_mut().chunks_mut(BLOCK);
    for (to, x) in blocks.zip(value.x().chunks(BLOCK)) {
        let wide = &mut block[..x.len()];
        From::widen(x, wide);
        round_to(wide, to)?;
    }
    Ok(result)
}

/// Writes the nearest numbers to `to`, of the same length; NaN and infinities stay. Errors: one is beyond the range.
fn round_to<E: Summed>(x: &[f32], to: &mut [E]) -> Result<()> {
    E::narrow(x, to);
    if to.iter().any(|x| !x.is_finite()) {
        x.iter().try_for_each(|&x| rounded::<E>(x).map(drop))?;
    }
    Ok(())
}
