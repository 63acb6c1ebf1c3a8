//! The type `vector`: f32 coordinates of one row.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | memory layout, reading and making values, the checks all functions share |
//! | `text.rs`, `binary.rs` | input and output, type modifier |
//! | `cast.rs` | from and to arrays |
//! | `distance.rs` | distances, norm and dimension |
//! | `arithmetic.rs` | new vectors from vectors |
//! | `compare.rs` | order by coordinates, for btree |
//! | `array.rs` | many vectors as one argument |
//! | `aggregate.rs` | transition, combine and final functions |
//!
//! Layout, as pgvector's: `{ length word: i32, dim: u16, unused: u16 = 0, x: [f32; dim] }`, aligned to four bytes.
//! Coordinates are finite; 1 <= dim <= [`omen_vector::MAX_DIM`].

mod aggregate;
mod arithmetic;
mod array;
mod binary;
mod cast;
mod compare;
mod distance;
mod text;

pub(crate) use array::VectorArray;
pub(crate) use distance::distance;

use super::function::Returned;
use super::varlena::{Detoasted, HEADER_BYTES, new_varlena, set_n_bytes};
use crate::error::{PgError, Result};
use omen_vector::{InputError, check_dim, check_finite};
use pgrx::{PgSqlErrorCode, pg_sys};

/// What precedes the coordinates.
#[repr(C)]
struct Header {
    length_word: u32,
    dim: u16,
    unused: u16,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES + 4 && align_of::<Header>() == 4);

/// Bytes of a vector of `dim` coordinates.
const fn vector_bytes(dim: usize) -> usize {
    size_of::<Header>() + dim * size_of::<f32>()
}

/// A vector read from a datum; its length and dimension agree.
pub(crate) struct VectorRef {
    value: Detoasted,
    dim: usize,
}

#[allow(unsafe_code)]
impl VectorRef {
    /// Reads a datum of type vector.
    ///
    /// Errors: the value's length does not fit its dimension (damaged data).
    ///
    /// # Safety
    /// `datum` is not NULL, has type vector, and outlives the result.
    pub(crate) unsafe fn from_datum(datum: pg_sys::Datum) -> Result<Self> {
        // SAFETY: a vector is a varlena; lifetime by this function's contract.
        Self::new(unsafe { Detoasted::new(datum) })
    }

    /// Checks that `value` is a vector.
    #[inline(always)]
    pub(super) fn new(value: Detoasted) -> Result<Self> {
        let n_bytes = value.n_bytes();
        if n_bytes < size_of::<Header>() {
            return Err(damaged(n_bytes, 0));
        }
        // SAFETY: the value is aligned to four bytes and, by the check above, as long as the header.
        let dim = usize::from(unsafe { (*value.as_ptr::<Header>()).dim });
        if n_bytes != vector_bytes(dim) {
            return Err(damaged(n_bytes, dim));
        }
        Ok(Self { value, dim })
    }

    /// Number of coordinates.
    #[inline]
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// The coordinates.
    #[inline]
    pub(crate) fn x(&self) -> &[f32] {
        // SAFETY: `new` checked that `dim` coordinates follow the header; the value lives as long as `self`.
        unsafe {
            core::slice::from_raw_parts(self.value.as_ptr::<Header>().add(1).cast(), self.dim)
        }
    }

    /// The header's reserved field.
    fn unused(&self) -> u16 {
        // SAFETY: `new` checked the length.
        unsafe { (*self.value.as_ptr::<Header>()).unused }
    }
}

/// Returning an argument hands over its plain form.
impl Returned for VectorRef {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.value.into_ptr::<Header>().into_datum()
    }
}

/// A new vector in the current memory context, zero at first.
struct VectorBuf {
    ptr: *mut u8,
    dim: usize,
}

#[allow(unsafe_code)]
impl VectorBuf {
    /// A zero vector. Errors: [`check_dim`].
    fn zeroed(dim: usize) -> Result<Self> {
        check_dim(dim)?;
        let ptr = new_varlena(vector_bytes(dim));
        // SAFETY: palloc aligns to eight bytes and gave at least the header; `check_dim` makes `dim` fit.
        unsafe { (*ptr.cast::<Header>()).dim = dim as u16 };
        Ok(Self { ptr, dim })
    }

    /// A vector whose coordinate `i` is `x(i)`. Errors: [`check_dim`].
    #[inline]
    fn from_fn(dim: usize, x: impl Fn(usize) -> f32) -> Result<Self> {
        let mut vector = Self::zeroed(dim)?;
        for (i, x_i) in vector.x_mut().iter_mut().enumerate() {
            *x_i = x(i);
        }
        Ok(vector)
    }

    #[inline]
    fn x(&self) -> &[f32] {
        // SAFETY: as in `x_mut`; no `&mut` exists while `self` is borrowed.
        unsafe { core::slice::from_raw_parts(self.ptr.add(size_of::<Header>()).cast(), self.dim) }
    }

    #[inline]
    fn x_mut(&mut self) -> &mut [f32] {
        // SAFETY: `zeroed` allocated and zeroed `dim` coordinates behind the header, aligned to four bytes.
        unsafe {
            core::slice::from_raw_parts_mut(self.ptr.add(size_of::<Header>()).cast(), self.dim)
        }
    }

    /// Keeps the first `dim` coordinates. Errors: [`check_dim`].
    ///
    /// # Panics
    /// If the vector is shorter.
    fn truncate(&mut self, dim: usize) -> Result<()> {
        assert!(dim <= self.dim, "a vector cannot grow");
        check_dim(dim)?;
        self.dim = dim;
        // SAFETY: the allocation holds at least as much, by the assertion.
        unsafe {
            set_n_bytes(self.ptr, vector_bytes(dim));
            (*self.ptr.cast::<Header>()).dim = dim as u16;
        }
        Ok(())
    }
}

impl Returned for VectorBuf {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.ptr.into_datum()
    }
}

/// Errors: `dim` is not what the type modifier says; a modifier of -1 allows any.
fn check_typmod(typmod: i32, dim: usize) -> Result<()> {
    if typmod != -1 && i64::from(typmod) != dim as i64 {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("expected {typmod} dimensions, not {dim}"),
        ));
    }
    Ok(())
}

/// Errors: `a` and `b` have different dimensions.
#[inline]
fn check_same_dim(a: &VectorRef, b: &VectorRef) -> Result<()> {
    if a.dim() != b.dim() {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("different vector dimensions {} and {}", a.dim(), b.dim()),
        ));
    }
    Ok(())
}

/// Why something is no vector, as the user sees it.
impl From<InputError> for PgError {
    #[cold]
    fn from(error: InputError) -> Self {
        let code = match &error {
            InputError::Syntax { .. } => PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            InputError::OutOfRange(_) => PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            InputError::TooManyDimensions => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            InputError::Short { .. } => PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
            InputError::NotFinite(_) | InputError::NoDimension | InputError::Unused(_) => {
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION
            }
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

#[cold]
fn damaged(n_bytes: usize, dim: usize) -> PgError {
    PgError::new(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("vector of {dim} dimensions has {n_bytes} bytes"),
    )
}
