//! The type `sparsevec`: the coordinates of one row that are not zero, f32.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | memory layout, reading and making values |
//! | `text.rs`, `binary.rs` | input and output, type modifier |
//! | `cast.rs` | from and to the other types, from arrays |
//! | `distance.rs` | distances, norm, normal form |
//! | `compare.rs` | order by coordinates, for btree |
//!
//! Layout, as pgvector's: `{ length word: i32, dim: i32, nnz: i32, unused: i32 = 0, indices: [i32; nnz], x: [f32; nnz] }`, aligned to four bytes.
//! Indices count from 0 (from 1 in text) and ascend; values are finite and not zero.

mod binary;
mod cast;
mod compare;
mod distance;
mod text;

use super::function::{Returned, Stored};
use super::varlena::{Detoasted, HEADER_BYTES, new_varlena};
use crate::error::{PgError, Result};
use omen_vector::VectorType;
use omen_vector::sparse::{MAX_NNZ, check_nnz};
use pgrx::{PgSqlErrorCode, pg_sys};

const TYPE: VectorType = VectorType::Sparsevec;

/// What precedes the indices.
#[repr(C)]
struct Header {
    length_word: u32,
    dim: i32,
    nnz: i32,
    unused: i32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES + 12 && align_of::<Header>() == 4);

/// Bytes of a value of `nnz` elements.
const fn sparse_bytes(nnz: usize) -> usize {
    size_of::<Header>() + nnz * (size_of::<i32>() + size_of::<f32>())
}

/// A value read from a datum; its length and number of elements agree, its indices are dimensions in ascending order.
pub(crate) struct SparsevecRef {
    value: Detoasted,
    dim: usize,
    nnz: usize,
}

#[allow(unsafe_code)]
impl SparsevecRef {
    /// Reads a datum of type sparsevec.
    ///
    /// Errors: length, number of elements and indices do not fit each other (damaged data).
    ///
    /// # Safety
    /// `datum` is not NULL, has type sparsevec, and outlives the result.
    pub(crate) unsafe fn from_datum(datum: pg_sys::Datum) -> Result<Self> {
        // SAFETY: a sparsevec is a varlena; lifetime by this function's contract.
        Self::read(unsafe { Detoasted::new(datum) })
    }

    /// Number of dimensions.
    #[inline]
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// Number of elements.
    #[inline]
    pub(crate) fn nnz(&self) -> usize {
        self.nnz
    }

    /// The index of each element, from 0, ascending, below [`Self::dim`].
    #[inline]
    pub(crate) fn indices(&self) -> &[i32] {
        // SAFETY: `read` checked that `nnz` indices follow the header; the value lives as long as `self`.
        unsafe {
            core::slice::from_raw_parts(self.value.as_ptr::<Header>().add(1).cast(), self.nnz)
        }
    }

    /// The value of each element.
    #[inline]
    pub(crate) fn x(&self) -> &[f32] {
        // SAFETY: `read` checked that `nnz` values follow the indices; the value lives as long as `self`.
        unsafe {
            let indices = self.value.as_ptr::<Header>().add(1).cast::<i32>();
            core::slice::from_raw_parts(indices.add(self.nnz).cast(), self.nnz)
        }
    }

    /// The header's reserved field.
    fn unused(&self) -> i32 {
        // SAFETY: `read` checked the length.
        unsafe { (*self.value.as_ptr::<Header>()).unused }
    }
}

impl Stored for SparsevecRef {
    #[inline(always)]
    fn read(value: Detoasted) -> Result<Self> {
        let n_bytes = value.n_bytes();
        if n_bytes < size_of::<Header>() {
            return Err(damaged(n_bytes, 0, 0));
        }
        #[allow(unsafe_code)]
        // SAFETY: the value is aligned to four bytes and, by the check above, as long as the header.
        let (dim, nnz) = unsafe {
            let header = value.as_ptr::<Header>();
            ((*header).dim, (*header).nnz)
        };
        let sizes = (usize::try_from(dim), usize::try_from(nnz));
        let (Ok(dim), Ok(nnz)) = sizes else {
            return Err(damaged(n_bytes, dim, nnz));
        };
        if nnz > MAX_NNZ || n_bytes != sparse_bytes(nnz) {
            return Err(damaged(n_bytes, dim as i32, nnz as i32));
        }
        let read = Self { value, dim, nnz };
        let indices = read.indices();
        let ascend = indices.windows(2).all(|pair| pair[0] < pair[1]);
        let within = indices.first().is_none_or(|&first| first >= 0)
            && indices.last().is_none_or(|&last| (last as usize) < dim);
        if !ascend || !within {
            return Err(damaged(n_bytes, dim as i32, nnz as i32)
                .with_detail("Its indices are no dimensions in ascending order."));
        }
        Ok(read)
    }
}

/// Returning an argument hands over its plain form.
impl Returned for SparsevecRef {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.value.into_ptr::<Header>().into_datum()
    }
}

/// A new value in the current memory context; the caller fills it.
struct SparsevecBuf {
    ptr: *mut u8,
    nnz: usize,
}

#[allow(unsafe_code)]
impl SparsevecBuf {
    /// A value of `nnz` elements, all bytes zero. Errors: no value has this dimension, or so many elements.
    fn zeroed(dim: usize, nnz: usize) -> Result<Self> {
        TYPE.check_dim(dim)?;
        check_nnz(nnz as i64, dim)?;
        let ptr = new_varlena(sparse_bytes(nnz));
        let header = ptr.cast::<Header>();
        // SAFETY: palloc aligns to eight bytes and gave at least the header; the checks make both numbers fit.
        unsafe {
            (*header).dim = dim as i32;
            (*header).nnz = nnz as i32;
        }
        Ok(Self { ptr, nnz })
    }

    /// Index and value of each element.
    fn parts_mut(&mut self) -> (&mut [i32], &mut [f32]) {
        // SAFETY: `zeroed` allocated and zeroed `nnz` of either behind the header, aligned to four bytes.
        unsafe {
            let indices = self.ptr.add(size_of::<Header>()).cast::<i32>();
            (
                core::slice::from_raw_parts_mut(indices, self.nnz),
                core::slice::from_raw_parts_mut(indices.add(self.nnz).cast(), self.nnz),
            )
        }
    }

    /// A value of these elements, whose indices ascend below `dim`.
    fn from_elements(
        dim: usize,
        nnz: usize,
        elements: impl Iterator<Item = (i32, f32)>,
    ) -> Result<Self> {
        let mut value = Self::zeroed(dim, nnz)?;
        let (indices, x) = value.parts_mut();
        let places = indices.iter_mut().zip(x);
        for ((index_to, x_to), (index, x)) in places.zip(elements) {
            *index_to = index;
            *x_to = x;
        }
        Ok(value)
    }
}

impl Returned for SparsevecBuf {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.ptr.into_datum()
    }
}

#[cold]
fn damaged(n_bytes: usize, dim: i32, nnz: i32) -> PgError {
    PgError::new(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("sparsevec of {dim} dimensions and {nnz} elements has {n_bytes} bytes"),
    )
}
