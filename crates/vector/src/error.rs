//! Why something is no vector.

use crate::MAX_DIM;
use thiserror::Error;

/// Why something is no vector. The messages are pgvector's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InputError {
    /// The text has another form.
    #[error("invalid input syntax for type vector: \"{literal}\"")]
    Syntax {
        /// The text, to be shown.
        literal: String,
        /// What is wrong with it, where that can be said: a whole sentence.
        detail: Option<&'static str>,
    },
    /// A number is beyond the range of f32.
    #[error("\"{0}\" is out of range for type vector")]
    OutOfRange(String),
    /// A number is not finite; what it is.
    #[error("{0} not allowed in vector")]
    NotFinite(&'static str),
    /// There is no number.
    #[error("vector must have at least 1 dimension")]
    NoDimension,
    /// There are too many numbers.
    #[error("vector cannot have more than {MAX_DIM} dimensions")]
    TooManyDimensions,
    /// The reserved field of the binary form is in use.
    #[error("expected unused to be 0, not {0}")]
    Unused(u16),
    /// The binary form takes more bytes than there are.
    #[error("a vector of {needed} bytes in less")]
    Short {
        /// Bytes wanted.
        needed: usize,
    },
}
