//! Numbers beyond a range, as Postgres reports them.

use super::text::shortest;
use crate::error::{PgError, Result};
use omen_vector::{Element, InputError};
use pgrx::PgSqlErrorCode;

/// Postgres' own error for floating-point overflow and underflow.
#[cold]
pub(super) fn out_of_range(what: &str) -> PgError {
    PgError::new(
        PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        format!("value out of range: {what}"),
    )
}

/// The nearest to `x`, which is infinite or NaN only where `x` is. Errors: `x` is beyond the range.
#[inline]
pub(super) fn rounded<E: Element>(x: f32) -> Result<E> {
    let nearest = E::from_f32(x);
    if !nearest.is_finite() && x.is_finite() {
        return Err(InputError::OutOfRange {
            vector_type: E::TYPE,
            number: shortest(x),
        }
        .into());
    }
    Ok(nearest)
}

/// Why something is no value of a type, as the user sees it.
impl From<InputError> for PgError {
    #[cold]
    fn from(error: InputError) -> Self {
        let code = match &error {
            InputError::Syntax { .. } => PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            InputError::OutOfRange { .. } => PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            InputError::TooManyDimensions(_)
            | InputError::TooManyElements
            | InputError::MoreElementsThanDimensions => {
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED
            }
            InputError::Short { .. } => PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
            InputError::NotFinite { .. }
            | InputError::NoDimension(_)
            | InputError::Unused(_)
            | InputError::NegativeElements
            | InputError::IndexOutOfBounds
            | InputError::NotAscending
            | InputError::DuplicateIndex
            | InputError::ZeroElement => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        };
        let report = Self::new(code, error.to_string());
        match error {
            InputError::Syntax {
                detail: Some(detail),
                ..
            } => report.with_detail(detail),
            _ => report,
        }
    }
}
