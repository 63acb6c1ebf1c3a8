//! New vectors from vectors: elementwise arithmetic, concatenation, parts, normal form, bits.

use super::distance::norm;
use super::{VectorBuf, check_same_dim};
use crate::datatype::function::pg_functions;
use crate::datatype::varlena::{HEADER_BYTES, new_varlena};
use crate::error::{PgError, Result};
use omen_vector::InputError;
use pgrx::PgSqlErrorCode;

pg_functions! {
    /// Operator `+`; also the transition function of `sum`.
    fn vector_add(args) -> VectorBuf {
        let (a, b) = args.two_vectors()?;
        check_same_dim(&a, &b)?;
        let (a, b) = (a.x(), b.x());
        let sum = VectorBuf::from_fn(a.len(), |i| a[i] + b[i])?;
        check_overflow(sum.x())?;
        Ok(sum)
    }

    /// Operator `-`.
    fn vector_sub(args) -> VectorBuf {
        let (a, b) = args.two_vectors()?;
        check_same_dim(&a, &b)?;
        let (a, b) = (a.x(), b.x());
        let difference = VectorBuf::from_fn(a.len(), |i| a[i] - b[i])?;
        check_overflow(difference.x())?;
        Ok(difference)
    }

    /// Operator `*`: elementwise product.
    fn vector_mul(args) -> VectorBuf {
        let (a, b) = args.two_vectors()?;
        check_same_dim(&a, &b)?;
        let (a, b) = (a.x(), b.x());
        let product = VectorBuf::from_fn(a.len(), |i| a[i] * b[i])?;
        for ((&p, &a), &b) in product.x().iter().zip(a).zip(b) {
            if p.is_infinite() {
                return Err(out_of_range("overflow"));
            }
            if p == 0.0 && a != 0.0 && b != 0.0 {
                return Err(out_of_range("underflow"));
            }
        }
        Ok(product)
    }

    /// Operator `||`.
    fn vector_concat(args) -> VectorBuf {
        let (a, b) = args.two_vectors()?;
        let mut joined = VectorBuf::zeroed(a.dim() + b.dim())?;
        let (first, second) = joined.x_mut().split_at_mut(a.dim());
        first.copy_from_slice(a.x());
        second.copy_from_slice(b.x());
        Ok(joined)
    }

    /// `subvector(vector, start, count)`: `count` coordinates from `start` (the first is 1) as far as the vector goes.
    fn subvector(args) -> VectorBuf {
        let vector = args.vector(0)?;
        // i64 holds every sum of two i32.
        let (start, count) = (i64::from(args.int(1)), i64::from(args.int(2)));
        let dim = vector.dim() as i64;
        if count < 1 || start > dim {
            return Err(InputError::NoDimension.into());
        }
        let first = start.max(1);
        let end = (start + count).min(dim + 1);
        if end <= first {
            return Err(InputError::NoDimension.into());
        }
        let part = &vector.x()[first as usize - 1..end as usize - 1];
        VectorBuf::from_fn(part.len(), |i| part[i])
    }

    /// Divides by the Euclidean norm; a zero vector stays zero.
    fn l2_normalize(args) -> VectorBuf {
        let vector = args.vector(0)?;
        let x = vector.x();
        let norm = norm(x);
        if norm == 0.0 {
            return VectorBuf::zeroed(x.len());
        }
        let unit = VectorBuf::from_fn(x.len(), |i| (f64::from(x[i]) / norm) as f32)?;
        check_overflow(unit.x())?;
        Ok(unit)
    }

    /// One bit per coordinate, set where it is positive; a Postgres bit string, first coordinate in the highest bit.
    fn binary_quantize(args) -> *mut u8 {
        let vector = args.vector(0)?;
        let n_bytes = HEADER_BYTES + 4 + vector.dim().div_ceil(8);
        let bit_string = new_varlena(n_bytes);
        #[allow(unsafe_code)]
        // SAFETY: `new_varlena` gave `n_bytes` initialised bytes that nothing else refers to.
        let bytes = unsafe { core::slice::from_raw_parts_mut(bit_string, n_bytes) };
        bytes[4..8].copy_from_slice(&(vector.dim() as i32).to_ne_bytes());
        for (byte, x) in bytes[8..].iter_mut().zip(vector.x().chunks(8)) {
            for (i, &x) in x.iter().enumerate() {
                *byte |= u8::from(x > 0.0) << (7 - i);
            }
        }
        Ok(bit_string)
    }
}

/// Errors: a coordinate became infinite.
fn check_overflow(x: &[f32]) -> Result<()> {
    if x.iter().any(|x| x.is_infinite()) {
        return Err(out_of_range("overflow"));
    }
    Ok(())
}

/// Postgres' own error for floating-point overflow and underflow.
#[cold]
pub(super) fn out_of_range(what: &str) -> PgError {
    PgError::new(
        PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        format!("value out of range: {what}"),
    )
}
