//! Casts: to a dimension, from and to the types that store all coordinates, from arrays of numbers.

use super::{SparsevecBuf, SparsevecRef, TYPE};
use crate::datatype::array::ArrayRef;
use crate::datatype::dense::{DenseBuf, DenseRef};
use crate::datatype::function::{Args, pg_functions};
use crate::datatype::modifier::check_typmod;
use crate::datatype::range::rounded;
use crate::error::Result;
use omen_vector::{Element, f16};

pg_functions! {
    /// `sparsevec(sparsevec, integer, boolean)`: checks the dimension.
    fn sparsevec(args) -> SparsevecRef {
        let value = args.read::<SparsevecRef>(0)?;
        check_typmod(args.int(1), value.dim())?;
        Ok(value)
    }

    /// `vector_to_sparsevec(vector, integer, boolean)`.
    fn vector_to_sparsevec(args) -> SparsevecBuf {
        from_dense::<f32>(args)
    }

    /// `halfvec_to_sparsevec(halfvec, integer, boolean)`.
    fn halfvec_to_sparsevec(args) -> SparsevecBuf {
        from_dense::<f16>(args)
    }

    /// `sparsevec_to_vector(sparsevec, integer, boolean)`.
    fn sparsevec_to_vector(args) -> DenseBuf<f32> {
        to_dense(args)
    }

    /// `sparsevec_to_halfvec(sparsevec, integer, boolean)`: each value rounded.
    fn sparsevec_to_halfvec(args) -> DenseBuf<f16> {
        to_dense(args)
    }

    /// `array_to_sparsevec(T[], integer, boolean)`, T one of integer, real, double precision, numeric.
    fn array_to_sparsevec(args) -> SparsevecBuf {
        let array = args.read::<ArrayRef>(0)?;
        array.check_list()?;
        let dim = array.len();
        TYPE.check_dim(dim)?;
        check_typmod(args.int(1), dim)?;
        let mut value = without_zeros(&array.numbers()?)?;
        let (_, x) = value.parts_mut();
        x.iter().try_for_each(|&x| TYPE.check_finite(x))?;
        Ok(value)
    }
}

fn from_dense<E: Element>(args: &Args) -> Result<SparsevecBuf> {
    let value = args.read::<DenseRef<E>>(0)?;
    TYPE.check_dim(value.dim())?;
    check_typmod(args.int(1), value.dim())?;
    without_zeros(value.x())
}

/// The coordinates `x` that are not zero. Errors: too many of them.
fn without_zeros<E: Element>(x: &[E]) -> Result<SparsevecBuf> {
    let elements = x.iter().zip(0..).filter(|&(&x, _)| x != E::ZERO);
    let nnz = elements.clone().count();
    let elements = elements.map(|(x, index)| (index, x.to_f32()));
    SparsevecBuf::from_elements(x.len(), nnz, elements)
}

fn to_dense<E: Element>(args: &Args) -> Result<DenseBuf<E>> {
    let value = args.read::<SparsevecRef>(0)?;
    E::TYPE.check_dim(value.dim())?;
    check_typmod(args.int(1), value.dim())?;
    let mut dense = DenseBuf::zeroed(value.dim())?;
    for (&index, &x) in value.indices().iter().zip(value.x()) {
        dense.x_mut()[index as usize] = rounded(x)?;
    }
    Ok(dense)
}
