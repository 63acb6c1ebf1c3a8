//! What the type `vector` accepts: its text form, its binary form, and the checks that all values pass. Pure: what is made of the numbers,
//! and how an error is raised, is the caller's business.

mod binary;
mod error;
mod text;

pub use binary::{Binary, HEAD_BYTES, put_binary, read_binary};
pub use error::InputError;
pub use text::{parse_text, room_for};

/// Result of reading a vector.
pub type Result<T> = core::result::Result<T, InputError>;

/// Most dimensions of a vector.
pub const MAX_DIM: usize = 16_000;

/// Errors: no dimension, or more than [`MAX_DIM`].
#[inline]
pub fn check_dim(dim: usize) -> Result<()> {
    match dim {
        0 => Err(InputError::NoDimension),
        1..=MAX_DIM => Ok(()),
        _ => Err(InputError::TooManyDimensions),
    }
}

/// Errors: `x` is NaN or infinite.
#[inline]
pub fn check_finite(x: f32) -> Result<()> {
    if x.is_finite() {
        Ok(())
    } else if x.is_nan() {
        Err(InputError::NotFinite("NaN"))
    } else {
        Err(InputError::NotFinite("infinite value"))
    }
}
