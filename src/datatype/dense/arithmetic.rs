//! New values from values: elementwise arithmetic, concatenation, parts, normal form, bits.

use super::distance::{BLOCK, Summed, norm};
use super::{DenseBuf, DenseRef};
use crate::datatype::bit::new_bits;
use crate::datatype::function::Args;
use crate::datatype::modifier::check_same_dim;
use crate::datatype::range::out_of_range;
use crate::error::Result;
use omen_vector::{Element, InputError};

/// The value whose coordinates are `f` of those of the two arguments, computed in f32 and rounded; infinite where it is beyond the range. Errors: they differ in number.
#[inline(always)]
fn each_of_two<E: Summed>(
    a: &DenseRef<E>,
    b: &DenseRef<E>,
    f: impl Fn(f32, f32) -> f32,
) -> Result<DenseBuf<E>> {
    check_same_dim(E::TYPE, a.dim(), b.dim())?;
    let mut result = DenseBuf::zeroed(a.dim())?;
    let (mut x, mut y) = ([0.0; BLOCK], [0.0; BLOCK]);
    let blocks = a.x().chunks(BLOCK).zip(b.x().chunks(BLOCK));
    for (to, (a, b)) in result.x_mut().chunks_mut(BLOCK).zip(blocks) {
        let (x, y) = (&mut x[..a.len()], &mut y[..a.len()]);
        E::widen(a, x);
        E::widen(b, y);
        for (x, y) in x.iter_mut().zip(y) {
            *x = f(*x, *y);
        }
        E::narrow(x, to);
    }
    Ok(result)
}

/// Operator `+`; also the transition function of `sum`.
pub(in crate::datatype) fn add<E: Summed>(args: &Args) -> Result<DenseBuf<E>> {
    let (a, b) = args.two()?;
    let sum = each_of_two(&a, &b, |a, b| a + b)?;
    check_overflow(sum.x())?;
    Ok(sum)
}

/// Operator `-`.
pub(in crate::datatype) fn subtract<E: Summed>(args: &Args) -> Result<DenseBuf<E>> {
    let (a, b) = args.two()?;
    let difference = each_of_two(&a, &b, |a, b| a - b)?;
    check_overflow(difference.x())?;
    Ok(difference)
}

/// Operator `*`: elementwise product.
pub(in crate::datatype) fn multiply<E: Summed>(args: &Args) -> Result<DenseBuf<E>> {
    let (a, b) = args.two::<DenseRef<E>>()?;
    let product = each_of_two(&a, &b, |a, b| a * b)?;
    for ((&p, &a), &b) in product.x().iter().zip(a.x()).zip(b.x()) {
        if !p.is_finite() {
            return Err(out_of_range("overflow"));
        }
        if p == E::ZERO && a != E::ZERO && b != E::ZERO {
            return Err(out_of_range("underflow"));
        }
    }
    Ok(product)
}

/// Operator `||`.
pub(in crate::datatype) fn concat<E: Element>(args: &Args) -> Result<DenseBuf<E>> {
    let (a, b) = args.two::<DenseRef<E>>()?;
    let mut joined = DenseBuf::zeroed(a.dim() + b.dim())?;
    let (first, second) = joined.x_mut().split_at_mut(a.dim());
    first.copy_from_slice(a.x());
    second.copy_from_slice(b.x());
    Ok(joined)
}

/// `subvector(value, start, count)`: `count` coordinates from `start` (the first is 1) as far as the value goes.
pub(in crate::datatype) fn subvector<E: Element>(args: &Args) -> Result<DenseBuf<E>> {
    let value = args.read::<DenseRef<E>>(0)?;
    // i64 holds every sum of two i32.
    let (start, count) = (i64::from(args.int(1)), i64::from(args.int(2)));
    let dim = value.dim() as i64;
    let first = start.max(1);
    let end = (start + count).min(dim + 1);
    if count < 1 || start > dim || end <= first {
        return Err(InputError::NoDimension(E::TYPE).into());
    }
    let part = &value.x()[first as usize - 1..end as usize - 1];
    let mut result = DenseBuf::zeroed(part.len())?;
    result.x_mut().copy_from_slice(part);
    Ok(result)
}

/// Divides by the Euclidean norm; a zero value stays zero.
pub(in crate::datatype) fn l2_normalize<E: Summed>(args: &Args) -> Result<DenseBuf<E>> {
    let value = args.read::<DenseRef<E>>(0)?;
    let norm = norm(value.x());
    let mut unit = DenseBuf::zeroed(value.dim())?;
    if norm == 0.0 {
        return Ok(unit);
    }
    let mut block = [0.0; BLOCK];
    for (to, x) in unit.x_mut().chunks_mut(BLOCK).zip(value.x().chunks(BLOCK)) {
        let wide = &mut block[..x.len()];
        E::widen(x, wide);
        for x in &mut *wide {
            *x = (f64::from(*x) / norm) as f32;
        }
        E::narrow(wide, to);
    }
    check_overflow(unit.x())?;
    Ok(unit)
}

/// One bit per coordinate, set where it is positive; a Postgres bit string.
pub(in crate::datatype) fn binary_quantize<E: Summed>(args: &Args) -> Result<*mut u8> {
    let value = args.read::<DenseRef<E>>(0)?;
    Ok(new_bits(value.dim(), |bytes| {
        for (byte, x) in bytes.iter_mut().zip(value.x().chunks(8)) {
            for (i, &x) in x.iter().enumerate() {
                *byte |= u8::from(x > E::ZERO) << (7 - i);
            }
        }
    }))
}

/// Errors: a coordinate became infinite.
fn check_overflow<E: Element>(x: &[E]) -> Result<()> {
    if x.iter().any(|x| !x.is_finite()) {
        return Err(out_of_range("overflow"));
    }
    Ok(())
}
