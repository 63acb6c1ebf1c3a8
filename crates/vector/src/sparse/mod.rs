//! The type `sparsevec`: the coordinates that are not zero, each with its index, which counts from 0 (from 1 in text), in ascending order.

mod binary;
mod text;

pub use binary::{Binary, HEAD_BYTES, binary_bytes, put_binary, read_binary};
pub use text::{Elements, parse_text};

use crate::{InputError, Result};

/// Most elements of a value.
pub const MAX_NNZ: usize = 16_000;

/// Errors: fewer than none, more than [`MAX_NNZ`], or more than the dimension.
pub fn check_nnz(nnz: i64, dim: usize) -> Result<()> {
    if nnz < 0 {
        return Err(InputError::NegativeElements);
    }
    if nnz > MAX_NNZ as i64 {
        return Err(InputError::TooManyElements);
    }
    if nnz > dim as i64 {
        return Err(InputError::MoreElementsThanDimensions);
    }
    Ok(())
}

/// Errors: `index` is none of `dim` dimensions, or does not come after the one before it.
#[inline]
pub fn check_index(index: i32, before: Option<i32>, dim: usize) -> Result<()> {
    if index < 0 || index as usize >= dim {
        return Err(InputError::IndexOutOfBounds);
    }
    match before {
        Some(before) if index < before => Err(InputError::NotAscending),
        Some(before) if index == before => Err(InputError::DuplicateIndex),
        _ => Ok(()),
    }
}
