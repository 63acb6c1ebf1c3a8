//! The three types, and the checks that their values have in common.

use crate::{InputError, Result};
use core::fmt;

/// A type that this crate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorType {
    /// `vector`: each coordinate as f32.
    Vector,
    /// `halfvec`: each coordinate as f16.
    Halfvec,
    /// `sparsevec`: the coordinates that are not zero, as f32.
    Sparsevec,
}

impl VectorType {
    /// Its name in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vector => "vector",
            Self::Halfvec => "halfvec",
            Self::Sparsevec => "sparsevec",
        }
    }

    /// Most dimensions of a value.
    pub const fn max_dim(self) -> usize {
        match self {
            Self::Vector | Self::Halfvec => 16_000,
            Self::Sparsevec => 1_000_000_000,
        }
    }

    /// Errors: no dimension, or more than [`Self::max_dim`].
    #[inline]
    pub fn check_dim(self, dim: usize) -> Result<()> {
        if dim < 1 {
            return Err(InputError::NoDimension(self));
        }
        if dim > self.max_dim() {
            return Err(InputError::TooManyDimensions(self));
        }
        Ok(())
    }

    /// Errors: `x` is NaN or infinite.
    #[inline]
    pub fn check_finite(self, x: f32) -> Result<()> {
        if x.is_finite() {
            return Ok(());
        }
        Err(InputError::NotFinite {
            what: if x.is_nan() { "NaN" } else { "infinite value" },
            vector_type: self,
        })
    }
}

impl fmt::Display for VectorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
