//! `vector[]`: many vectors as one argument.
#![allow(unsafe_code)]

use super::VectorRef;
use crate::datatype::array::ArrayRef;
use crate::datatype::varlena::Detoasted;
use crate::error::{PgError, Result};
use pgrx::{PgSqlErrorCode, pg_sys};

/// An argument of type `vector[]`: at most one dimension, no NULL.
pub(crate) struct VectorArray {
    /// They point into the array.
    vectors: Vec<VectorRef>,
    array: ArrayRef,
}

impl VectorArray {
    /// Reads `datum`. Errors: more than one dimension, an element that is NULL, damaged data.
    ///
    /// # Safety
    /// `datum` is not NULL, of type vector[], and outlives the result.
    pub(crate) unsafe fn from_datum(datum: pg_sys::Datum) -> Result<Self> {
        // SAFETY: an array is a varlena; lifetime by this function's contract.
        let array = ArrayRef::new(unsafe { Detoasted::new(datum) });
        if array.n_dims() > 1 {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                "array of vectors must be 1-D",
            )
            .with_hint("Write ARRAY[...] or array_agg(...) over single vectors."));
        }
        if array.contains_nulls() {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "array of vectors must not contain nulls",
            )
            .with_hint("Leave them out, as in array_agg(v) FILTER (WHERE v IS NOT NULL)."));
        }
        let vectors = array
            .datums()
            .into_iter()
            // SAFETY: the elements are vectors and live as long as the array.
            .map(|vector| unsafe { VectorRef::from_datum(vector) })
            .collect::<Result<_>>()?;
        Ok(Self { vectors, array })
    }

    /// The vectors, in the order of their subscripts.
    pub(crate) fn vectors(&self) -> &[VectorRef] {
        &self.vectors
    }

    /// Subscript of the first one: 1 unless the array was made otherwise.
    pub(crate) fn first_subscript(&self) -> i32 {
        self.array.lower_bound()
    }
}
