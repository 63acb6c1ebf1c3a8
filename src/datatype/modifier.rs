//! The type modifier of `vector`, `halfvec` and `sparsevec`, which is the dimension.

use super::function::Args;
use crate::error::{PgError, Result};
use omen_vector::VectorType;
use pgrx::{PgSqlErrorCode, pg_sys};

/// Errors: `dim` is not what the type modifier says; a modifier of -1 allows any.
#[inline]
pub(super) fn check_typmod(typmod: i32, dim: usize) -> Result<()> {
    if typmod != -1 && i64::from(typmod) != dim as i64 {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("expected {typmod} dimensions, not {dim}"),
        ));
    }
    Ok(())
}

/// Errors: two values have different dimensions.
#[inline]
pub(super) fn check_same_dim(vector_type: VectorType, a: usize, b: usize) -> Result<()> {
    if a != b {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("different {vector_type} dimensions {a} and {b}"),
        ));
    }
    Ok(())
}

/// Type modifier input: the first argument is a cstring[] of them.
pub(super) fn typmod_in(vector_type: VectorType, args: &Args) -> Result<i32> {
    let max_dim = vector_type.max_dim();
    match typmods(args.varlena(0).as_ptr()) {
        [dim] if *dim < 1 => Err(bad_typmod(format!(
            "dimensions for type {vector_type} must be at least 1"
        ))),
        [dim] if *dim as usize > max_dim => Err(bad_typmod(format!(
            "dimensions for type {vector_type} cannot exceed {max_dim}"
        ))),
        [dim] => Ok(*dim),
        _ => Err(bad_typmod("invalid type modifier".into())),
    }
}

/// The numbers in a cstring[] of modifiers. Raises Postgres' error for what is no integer.
#[allow(unsafe_code)]
fn typmods<'a>(array: *mut pg_sys::ArrayType) -> &'a [i32] {
    let mut n = 0;
    // SAFETY: `array` is the argument that Postgres declares as a cstring[]; ArrayGetIntegerTypmods checks its shape
    // and returns `n` palloc'd integers.
    unsafe {
        let typmods = pg_sys::ArrayGetIntegerTypmods(array, &mut n);
        core::slice::from_raw_parts(typmods, n as usize)
    }
}

#[cold]
fn bad_typmod(message: String) -> PgError {
    PgError::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
}
