//! Functions on Postgres' own type `bit`.
//!
//! Layout, as Postgres': `{ length word: i32, n_bits: i32, bytes }`, the first bit the highest of the first byte, unused bits of the last byte zero.

use super::function::{Args, Stored, pg_functions};
use super::varlena::{Detoasted, HEADER_BYTES, fill_varlena};
use crate::error::{PgError, Result};
use pgrx::{PgSqlErrorCode, pg_sys};

pg_functions! {
    /// Operator `<~>`: bits that differ.
    fn hamming_distance(args) -> f64 {
        let (a, b) = two_of_a_length(args)?;
        Ok(omen_distance::hamming(a.bytes(), b.bytes()) as f64)
    }

    /// Operator `<%>`: 1 less the share of the bits set in both among those set in either.
    fn jaccard_distance(args) -> f64 {
        let (a, b) = two_of_a_length(args)?;
        Ok(omen_distance::jaccard(a.bytes(), b.bytes()))
    }
}

/// The first two arguments. Errors: they differ in length.
fn two_of_a_length(args: &Args) -> Result<(BitRef, BitRef)> {
    let (a, b) = args.two::<BitRef>()?;
    if a.n_bits() != b.n_bits() {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("different bit lengths {} and {}", a.n_bits(), b.n_bits()),
        ));
    }
    Ok((a, b))
}

/// Bytes before the bits.
const HEAD_BYTES: usize = HEADER_BYTES + 4;

/// A bit string read from a datum; its length in bytes and in bits agree.
pub(crate) struct BitRef {
    value: Detoasted,
    n_bits: usize,
}

#[allow(unsafe_code)]
impl BitRef {
    /// Reads a datum of type bit or bit varying.
    ///
    /// Errors: the value's length does not fit its number of bits (damaged data).
    ///
    /// # Safety
    /// `datum` is not NULL, has that type, and outlives the result.
    pub(crate) unsafe fn from_datum(datum: pg_sys::Datum) -> Result<Self> {
        // SAFETY: a bit string is a varlena; lifetime by this function's contract.
        Self::read(unsafe { Detoasted::new(datum) })
    }

    /// Number of bits.
    #[inline]
    pub(crate) fn n_bits(&self) -> usize {
        self.n_bits
    }

    /// The bits, eight a byte, the first one the highest; those behind the last one are zero.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `read` checked that so many bytes follow the head; the value lives as long as `self`.
        unsafe {
            core::slice::from_raw_parts(
                self.value.as_ptr::<u8>().add(HEAD_BYTES),
                self.n_bits.div_ceil(8),
            )
        }
    }
}

impl Stored for BitRef {
    #[inline(always)]
    fn read(value: Detoasted) -> Result<Self> {
        let n_bytes = value.n_bytes();
        if n_bytes < HEAD_BYTES {
            return Err(damaged(n_bytes, 0));
        }
        #[allow(unsafe_code)]
        // SAFETY: the value is aligned to four bytes and, by the check above, as long as the head.
        let n_bits = unsafe { *value.as_ptr::<i32>().add(1) };
        match usize::try_from(n_bits) {
            Ok(n_bits) if n_bytes == HEAD_BYTES + n_bits.div_ceil(8) => Ok(Self { value, n_bits }),
            _ => Err(damaged(n_bytes, n_bits)),
        }
    }
}

/// A new bit string of `n_bits` in the current memory context, its bytes zero before `fill`, which leaves those behind the last bit zero.
pub(super) fn new_bits(n_bits: usize, fill: impl FnOnce(&mut [u8])) -> *mut u8 {
    fill_varlena(HEAD_BYTES + n_bits.div_ceil(8), |bytes| {
        let (head, bits) = bytes.split_at_mut(HEAD_BYTES - HEADER_BYTES);
        head.copy_from_slice(&(n_bits as i32).to_ne_bytes());
        fill(bits);
    })
}

#[cold]
fn damaged(n_bytes: usize, n_bits: i32) -> PgError {
    PgError::new(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("bit string of {n_bits} bits has {n_bytes} bytes"),
    )
}
