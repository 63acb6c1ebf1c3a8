//! Why something is no value.

use crate::VectorType;
use crate::sparse::MAX_NNZ;
use thiserror::Error;

/// Why something is no value of a type. The messages are pgvector's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InputError {
    /// The text has another form.
    #[error("invalid input syntax for type {vector_type}: \"{literal}\"")]
    Syntax {
        /// The type.
        vector_type: VectorType,
        /// The text, to be shown.
        literal: String,
        /// What is wrong with it, where that can be said: a whole sentence.
        detail: Option<&'static str>,
    },
    /// A number is beyond the range of the type's.
    #[error("\"{number}\" is out of range for type {vector_type}")]
    OutOfRange {
        /// The type.
        vector_type: VectorType,
        /// The number, to be shown.
        number: String,
    },
    /// A number is not finite.
    #[error("{what} not allowed in {vector_type}")]
    NotFinite {
        /// The type.
        vector_type: VectorType,
        /// What it is.
        what: &'static str,
    },
    /// There is no number.
    #[error("{0} must have at least 1 dimension")]
    NoDimension(VectorType),
    /// There are too many numbers.
    #[error("{0} cannot have more than {max} dimensions", max = .0.max_dim())]
    TooManyDimensions(VectorType),
    /// The reserved field of the binary form is in use.
    #[error("expected unused to be 0, not {0}")]
    Unused(i32),
    /// The binary form takes more bytes than there are.
    #[error("a value of {needed} bytes in less")]
    Short {
        /// Bytes wanted.
        needed: usize,
    },
    /// A sparse vector has fewer than no elements.
    #[error("sparsevec cannot have negative number of elements")]
    NegativeElements,
    /// A sparse vector has too many elements.
    #[error("sparsevec cannot have more than {MAX_NNZ} non-zero elements")]
    TooManyElements,
    /// A sparse vector has more elements than its dimension allows.
    #[error("sparsevec cannot have more elements than dimensions")]
    MoreElementsThanDimensions,
    /// An index of a sparse vector is none of its dimensions.
    #[error("sparsevec index out of bounds")]
    IndexOutOfBounds,
    /// The indices of a sparse vector are not in order.
    #[error("sparsevec indices must be in ascending order")]
    NotAscending,
    /// An index of a sparse vector comes twice.
    #[error("sparsevec indices must not contain duplicates")]
    DuplicateIndex,
    /// The binary form of a sparse vector holds a zero.
    #[error("binary representation of sparsevec cannot contain zero values")]
    ZeroElement,
}
