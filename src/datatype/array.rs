//! Postgres arrays of numbers: [`ArrayRef`] reads one, [`new_array`] makes one.
//!
//! Layout: `ArrayType` (16 bytes: length word, n_dims, data offset or 0, element type), sizes and lower bounds of the
//! dimensions, null bitmap if there is an offset, then the elements, aligned to eight bytes.
#![allow(unsafe_code)]

use super::function::Stored;
use super::varlena::{Detoasted, new_varlena};
use crate::error::{PgError, Result};
use pgrx::datum::AnyArray;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::borrow::Cow;

/// Bytes before the elements of an array with one dimension and no null bitmap.
const HEADER_BYTES_1D: usize = size_of::<pg_sys::ArrayType>() + 8;

const _: () = assert!(HEADER_BYTES_1D == 24);

/// An array argument.
pub(super) struct ArrayRef {
    value: Detoasted,
}

impl ArrayRef {
    /// `value` is an argument that the SQL declaration calls an array.
    pub(super) fn new(value: Detoasted) -> Self {
        Self { value }
    }

    fn header(&self) -> &pg_sys::ArrayType {
        // SAFETY: an array value begins with this struct and is aligned to four bytes; it lives as long as `self`.
        unsafe { &*self.value.as_ptr() }
    }

    /// Number of dimensions; 0 for an empty array.
    pub(super) fn n_dims(&self) -> usize {
        self.header().ndim as usize
    }

    /// Type of the elements.
    pub(super) fn element_type(&self) -> pg_sys::Oid {
        self.header().elemtype
    }

    /// Whether room for nulls is there; `contains_nulls` looks whether there are any.
    pub(super) fn has_null_bitmap(&self) -> bool {
        self.header().dataoffset != 0
    }

    /// Whether an element is null.
    pub(super) fn contains_nulls(&self) -> bool {
        // SAFETY: the value is an array in plain form.
        self.has_null_bitmap() && unsafe { pg_sys::array_contains_nulls(self.value.as_ptr()) }
    }

    /// Number of elements of an array with at most one dimension.
    pub(super) fn len(&self) -> usize {
        if self.n_dims() == 0 {
            return 0;
        }
        // SAFETY: the size of the first dimension follows the header when there is one.
        unsafe {
            *self
                .value
                .as_ptr::<pg_sys::ArrayType>()
                .add(1)
                .cast::<i32>() as usize
        }
    }

    /// The elements, which are not null, of an array with at most one dimension.
    ///
    /// Errors: the value is too short for them (damaged data).
    ///
    /// # Safety
    /// `T` is the memory form of [`Self::element_type`].
    pub(super) unsafe fn elements<T: Copy>(&self) -> Result<&[T]> {
        let (start, n_elements) = self.locate::<T>()?;
        // SAFETY: `locate` checked length and alignment; the type is right by this function's contract.
        Ok(unsafe { core::slice::from_raw_parts(start, n_elements) })
    }

    /// As [`Self::elements`], to change in place.
    ///
    /// # Safety
    /// As [`Self::elements`], and the value may be changed: it is an aggregate's own state.
    pub(super) unsafe fn elements_mut<T: Copy>(&mut self) -> Result<&mut [T]> {
        let (start, n_elements) = self.locate::<T>()?;
        // SAFETY: as in `elements`; `&mut self` and the contract make the access unique.
        Ok(unsafe { core::slice::from_raw_parts_mut(start, n_elements) })
    }

    /// Address and number of the elements.
    fn locate<T>(&self) -> Result<(*mut T, usize)> {
        let n_elements = self.len();
        let offset = match self.header().dataoffset {
            0 => HEADER_BYTES_1D,
            offset => offset as usize,
        };
        if n_elements == 0 {
            return Ok((core::ptr::NonNull::dangling().as_ptr(), 0));
        }
        let fits = n_elements
            .checked_mul(size_of::<T>())
            .and_then(|n| n.checked_add(offset))
            .is_some_and(|n| n <= self.value.n_bytes());
        let start = self.value.as_ptr::<u8>().wrapping_add(offset).cast::<T>();
        if !fits || !start.is_aligned() {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                format!(
                    "array of {n_elements} elements has {} bytes",
                    self.value.n_bytes()
                ),
            ));
        }
        Ok((start, n_elements))
    }

    /// Subscript of the first element of an array with one dimension.
    pub(super) fn lower_bound(&self) -> i32 {
        if self.n_dims() == 0 {
            return 1;
        }
        // SAFETY: the lower bound of the first dimension follows the sizes of all.
        unsafe {
            *self
                .value
                .as_ptr::<pg_sys::ArrayType>()
                .add(1)
                .cast::<i32>()
                .add(self.n_dims())
        }
    }

    /// The elements, which are not null, of an array whose type has variable length and the alignment of int: datums that point
    /// into the array.
    pub(super) fn datums(&self) -> Vec<pg_sys::Datum> {
        self.datums_of(-1, false, pg_sys::TYPALIGN_INT as core::ffi::c_char)
    }

    /// The elements, which are not null, of an array whose type has this length and alignment.
    fn datums_of(
        &self,
        length: i16,
        by_value: bool,
        alignment: core::ffi::c_char,
    ) -> Vec<pg_sys::Datum> {
        let mut datums = core::ptr::null_mut();
        let mut n_datums = 0;
        // SAFETY: the value is an array of such a type; Postgres returns `n_datums` palloc'd datums.
        unsafe {
            pg_sys::deconstruct_array(
                self.value.as_ptr(),
                self.element_type(),
                i32::from(length),
                by_value,
                alignment,
                &mut datums,
                core::ptr::null_mut(),
                &mut n_datums,
            );
            let found = core::slice::from_raw_parts(datums, n_datums as usize).to_vec();
            pg_sys::pfree(datums.cast());
            found
        }
    }

    /// The elements of an array of numbers, rounded to f32, not checked to be finite: what a cast takes.
    ///
    /// Errors: an element type without a cast. Raises Postgres' error for a numeric beyond the range of real.
    pub(super) fn numbers(&self) -> Result<Cow<'_, [f32]>> {
        // SAFETY: each arm reads the memory form of the element type that it matches.
        unsafe {
            Ok(match self.element_type() {
                pg_sys::INT4OID => self.elements::<i32>()?.iter().map(|&x| x as f32).collect(),
                pg_sys::FLOAT4OID => Cow::Borrowed(self.elements()?),
                pg_sys::FLOAT8OID => self.elements::<f64>()?.iter().map(|&x| x as f32).collect(),
                pg_sys::NUMERICOID => self.numerics_as_f32().into(),
                _ => {
                    return Err(PgError::new(
                        PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                        "unsupported array type",
                    ));
                }
            })
        }
    }

    /// Errors: what no cast takes, more than one dimension or a null.
    pub(super) fn check_list(&self) -> Result<()> {
        if self.n_dims() > 1 {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                "array must be 1-D",
            ));
        }
        if self.contains_nulls() {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "array must not contain nulls",
            ));
        }
        Ok(())
    }

    /// Numeric elements, not null, rounded to f32. Raises Postgres' error for one beyond the range of real.
    fn numerics_as_f32(&self) -> Vec<f32> {
        let as_f32 = |numeric| {
            // SAFETY: the value is a numeric[], whose elements this function takes; they live as long as `self`.
            let real = unsafe {
                pgrx::direct_function_call_as_datum(pg_sys::numeric_float4, &[Some(numeric)])
            };
            f32::from_bits(real.unwrap_or(pg_sys::Datum::null()).value() as u32)
        };
        self.datums().into_iter().map(as_f32).collect()
    }

    /// Gives the array to the caller as it is.
    pub(super) fn into_ptr(self) -> *mut pg_sys::ArrayType {
        self.value.into_ptr()
    }
}

impl Stored for ArrayRef {
    fn read(value: Detoasted) -> Result<Self> {
        Ok(Self::new(value))
    }
}

/// A new array `[n_elements]` in the current memory context, its elements written by `fill`.
///
/// # Safety
/// `T` is the memory form of `element_type`, has alignment 8 or less, and all-zero bytes are a valid `T`.
pub(super) unsafe fn new_array<T>(
    element_type: pg_sys::Oid,
    n_elements: usize,
    fill: impl FnOnce(&mut [T]) -> Result<()>,
) -> Result<*mut pg_sys::ArrayType> {
    let array = new_varlena(HEADER_BYTES_1D + n_elements * size_of::<T>());
    // SAFETY: `new_varlena` gave that many zeroed bytes, aligned to eight, which nothing else refers to.
    unsafe {
        let header = array.cast::<pg_sys::ArrayType>();
        (*header).ndim = 1;
        (*header).elemtype = element_type;
        // Size and lower bound of the dimension.
        header
            .add(1)
            .cast::<[i32; 2]>()
            .write([n_elements as i32, 1]);
        fill(core::slice::from_raw_parts_mut(
            array.add(HEADER_BYTES_1D).cast(),
            n_elements,
        ))?;
        Ok(header)
    }
}

/// Type and elements of an array of whatever type. Errors: more than one dimension, or an element that is NULL.
pub(crate) fn elements_of(array: &AnyArray) -> Result<(pg_sys::Oid, Vec<pg_sys::Datum>)> {
    // SAFETY: an array is a varlena that lives as long as the call it is an argument of, as what was detoasted does.
    let array = ArrayRef::new(unsafe { Detoasted::new(array.datum()) });
    array.check_list()?;
    let element_type = array.element_type();
    let (mut length, mut by_value, mut alignment) = (0, false, 0);
    // SAFETY: a type of the catalog, and places for its properties.
    unsafe {
        pg_sys::get_typlenbyvalalign(element_type, &mut length, &mut by_value, &mut alignment);
    }
    let datums = array.datums_of(length, by_value, alignment);
    // The datums point into it.
    core::mem::forget(array);
    Ok((element_type, datums))
}
