//! What the types that store all coordinates have in common, `vector` (f32) and `halfvec` (f16): the functions of both, over the type of a coordinate.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | memory layout, reading and making values |
//! | `functions.rs` | the SQL functions, whose names each type gives |
//! | `text.rs`, `binary.rs` | input and output |
//! | `cast.rs` | from and to arrays, and from one type to the other |
//! | `distance.rs` | distances and norm |
//! | `arithmetic.rs` | new values from values |
//! | `compare.rs` | order by coordinates, for btree |
//! | `aggregate.rs` | transition, combine and final functions |
//!
//! Layout, as pgvector's: `{ length word: i32, dim: u16, unused: u16 = 0, x: [E; dim] }`, aligned to four bytes.
//! Coordinates are finite; `1 <= dim <= E::TYPE.max_dim()`.

mod aggregate;
mod arithmetic;
mod binary;
mod cast;
mod compare;
mod distance;
mod functions;
mod text;

pub(super) use aggregate::{accumulate, average, combine};
pub(super) use arithmetic::{
    add, binary_quantize, concat, l2_normalize, multiply, subtract, subvector,
};
pub(super) use binary::{receive, send};
pub(super) use cast::{convert, from_array, to_float4, to_typmod};
pub(super) use compare::compare;
pub(crate) use distance::distance;
pub(super) use distance::{inner_product, l1, l2sq, norm, of_two, spherical};
pub(super) use functions::dense_functions;
pub(super) use text::{input, output};

use super::function::{Returned, Stored};
use super::varlena::{Detoasted, HEADER_BYTES, new_varlena, set_n_bytes};
use crate::error::{PgError, Result};
use core::marker::PhantomData;
use omen_vector::Element;
use pgrx::{PgSqlErrorCode, pg_sys};

/// What precedes the coordinates.
#[repr(C)]
struct Header {
    length_word: u32,
    dim: u16,
    unused: u16,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES + 4 && align_of::<Header>() == 4);

/// Bytes of a value of `dim` coordinates.
const fn dense_bytes<E: Element>(dim: usize) -> usize {
    size_of::<Header>() + dim * size_of::<E>()
}

/// A value read from a datum; its length and dimension agree.
pub(crate) struct DenseRef<E> {
    value: Detoasted,
    dim: usize,
    element: PhantomData<E>,
}

#[allow(unsafe_code)]
impl<E: Element> DenseRef<E> {
    /// Reads a datum of the type `E::TYPE`.
    ///
    /// Errors: the value's length does not fit its dimension (damaged data).
    ///
    /// # Safety
    /// `datum` is not NULL, has that type, and outlives the result.
    pub(crate) unsafe fn from_datum(datum: pg_sys::Datum) -> Result<Self> {
        // SAFETY: a value of the type is a varlena; lifetime by this function's contract.
        Self::read(unsafe { Detoasted::new(datum) })
    }

    /// Number of coordinates.
    #[inline]
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// The coordinates.
    #[inline]
    pub(crate) fn x(&self) -> &[E] {
        // SAFETY: `read` checked that `dim` coordinates follow the header; the value lives as long as `self`. All bits are valid coordinates.
        unsafe {
            core::slice::from_raw_parts(self.value.as_ptr::<Header>().add(1).cast(), self.dim)
        }
    }

    /// The header's reserved field.
    fn unused(&self) -> u16 {
        // SAFETY: `read` checked the length.
        unsafe { (*self.value.as_ptr::<Header>()).unused }
    }
}

impl<E: Element> Stored for DenseRef<E> {
    #[inline(always)]
    fn read(value: Detoasted) -> Result<Self> {
        let n_bytes = value.n_bytes();
        if n_bytes < size_of::<Header>() {
            return Err(damaged::<E>(n_bytes, 0));
        }
        #[allow(unsafe_code)]
        // SAFETY: the value is aligned to four bytes and, by the check above, as long as the header.
        let dim = usize::from(unsafe { (*value.as_ptr::<Header>()).dim });
        if n_bytes != dense_bytes::<E>(dim) {
            return Err(damaged::<E>(n_bytes, dim));
        }
        Ok(Self {
            value,
            dim,
            element: PhantomData,
        })
    }
}

/// Returning an argument hands over its plain form.
impl<E> Returned for DenseRef<E> {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.value.into_ptr::<Header>().into_datum()
    }
}

/// A new value in the current memory context, zero at first.
pub(super) struct DenseBuf<E> {
    ptr: *mut u8,
    dim: usize,
    element: PhantomData<E>,
}

#[allow(unsafe_code)]
impl<E: Element> DenseBuf<E> {
    /// A zero value. Errors: no value has this dimension.
    pub(super) fn zeroed(dim: usize) -> Result<Self> {
        E::TYPE.check_dim(dim)?;
        let ptr = new_varlena(dense_bytes::<E>(dim));
        // SAFETY: palloc aligns to eight bytes and gave at least the header; `check_dim` makes `dim` fit.
        unsafe { (*ptr.cast::<Header>()).dim = dim as u16 };
        Ok(Self {
            ptr,
            dim,
            element: PhantomData,
        })
    }

    #[inline]
    pub(super) fn x(&self) -> &[E] {
        // SAFETY: as in `x_mut`; no `&mut` exists while `self` is borrowed.
        unsafe { core::slice::from_raw_parts(self.ptr.add(size_of::<Header>()).cast(), self.dim) }
    }

    #[inline]
    pub(super) fn x_mut(&mut self) -> &mut [E] {
        // SAFETY: `zeroed` allocated and zeroed `dim` coordinates behind the header, aligned to four bytes.
        unsafe {
            core::slice::from_raw_parts_mut(self.ptr.add(size_of::<Header>()).cast(), self.dim)
        }
    }

    /// Keeps the first `dim` coordinates. Errors: no value has this dimension.
    ///
    /// # Panics
    /// If the value is shorter.
    fn truncate(&mut self, dim: usize) -> Result<()> {
        assert!(dim <= self.dim, "a value cannot grow");
        E::TYPE.check_dim(dim)?;
        self.dim = dim;
        // SAFETY: the allocation holds at least as much, by the assertion.
        unsafe {
            set_n_bytes(self.ptr, dense_bytes::<E>(dim));
            (*self.ptr.cast::<Header>()).dim = dim as u16;
        }
        Ok(())
    }
}

impl<E> Returned for DenseBuf<E> {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.ptr.into_datum()
    }
}

#[cold]
fn damaged<E: Element>(n_bytes: usize, dim: usize) -> PgError {
    PgError::new(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("{} of {dim} dimensions has {n_bytes} bytes", E::TYPE),
    )
}
