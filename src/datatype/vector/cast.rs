//! Casts: to a dimension, from arrays of numbers, to `real[]`.

use super::{VectorBuf, VectorRef, check_dim, check_finite, check_typmod};
use crate::datatype::array::{ArrayRef, new_array};
use crate::datatype::function::pg_functions;
use crate::error::{PgError, Result};
use pgrx::{PgSqlErrorCode, pg_sys};

pg_functions! {
    /// `vector(vector, integer, boolean)`: checks the dimension.
    fn vector(args) -> VectorRef {
        let vector = args.vector(0)?;
        check_typmod(args.int(1), vector.dim())?;
        Ok(vector)
    }

    /// `array_to_vector(T[], integer, boolean)`, T one of integer, real, double precision, numeric.
    fn array_to_vector(args) -> VectorBuf {
        let array = ArrayRef::new(args.varlena(0));
        if array.n_dims() > 1 {
            return Err(PgError::new(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, "array must be 1-D"));
        }
        if array.contains_nulls() {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "array must not contain nulls",
            ));
        }
        check_dim(array.len())?;
        check_typmod(args.int(1), array.len())?;
        let vector = numbers(&array)?;
        vector.x().iter().try_for_each(|&x| check_finite(x))?;
        Ok(vector)
    }

    /// `vector_to_float4(vector, integer, boolean)`.
    fn vector_to_float4(args) -> *mut pg_sys::ArrayType {
        let vector = args.vector(0)?;
        #[allow(unsafe_code)]
        // SAFETY: real is f32.
        unsafe {
            new_array(pg_sys::FLOAT4OID, vector.dim(), |x: &mut [f32]| {
                x.copy_from_slice(vector.x());
                Ok(())
            })
        }
    }
}

/// The elements of `array` as f32, not checked to be finite. Errors: an element type without a cast.
#[allow(unsafe_code)]
fn numbers(array: &ArrayRef) -> Result<VectorBuf> {
    let n = array.len();
    // SAFETY: each arm reads the memory form of the element type that it matches.
    unsafe {
        match array.element_type() {
            pg_sys::INT4OID => {
                let x = array.elements::<i32>()?;
                VectorBuf::from_fn(n, |i| x[i] as f32)
            }
            pg_sys::FLOAT4OID => {
                let x = array.elements::<f32>()?;
                VectorBuf::from_fn(n, |i| x[i])
            }
            pg_sys::FLOAT8OID => {
                let x = array.elements::<f64>()?;
                VectorBuf::from_fn(n, |i| x[i] as f32)
            }
            pg_sys::NUMERICOID => {
                let x = array.numerics_as_f32();
                VectorBuf::from_fn(n, |i| x[i])
            }
            _ => Err(PgError::new(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                "unsupported array type",
            )),
        }
    }
}
