//! Binary input and output: a message of which a value takes its part, and the bytea that it is sent as.

use super::varlena::{HEADER_BYTES, fill_varlena};
use crate::error::PgError;
use core::ffi::c_int;
use omen_vector::InputError;
use pgrx::pg_sys;

/// The message argument of a binary input function.
#[derive(Clone, Copy)]
pub(super) struct Message(pg_sys::StringInfo);

#[allow(unsafe_code)]
impl Message {
    /// `message` is the argument that Postgres declares as a StringInfo.
    pub(super) fn new(message: pg_sys::StringInfo) -> Self {
        Self(message)
    }

    /// What has not been taken.
    pub(super) fn rest<'a>(self) -> &'a [u8] {
        // SAFETY: by `new` a StringInfo: `cursor` is at most `len`, the bytes outlive the call.
        unsafe {
            let (cursor, len) = ((*self.0).cursor as usize, (*self.0).len as usize);
            core::slice::from_raw_parts((*self.0).data.add(cursor).cast(), len - cursor)
        }
    }

    /// Takes `n_bytes`. Raises Postgres' error when it is too short.
    pub(super) fn take(self, n_bytes: usize) {
        // SAFETY: by `new` a StringInfo. All types' limits keep `n_bytes` far below 2 GB.
        unsafe { pg_sys::pq_getmsgbytes(self.0, n_bytes as c_int) };
    }

    /// Why no value was read. A message that is too short raises Postgres' own error, here.
    #[cold]
    pub(super) fn refused(self, error: InputError) -> PgError {
        if let InputError::Short { needed } = error {
            self.take(needed);
        }
        error.into()
    }
}

/// A bytea of `n_bytes`, zero before `fill`.
pub(super) fn new_bytea(n_bytes: usize, fill: impl FnOnce(&mut [u8])) -> *mut u8 {
    fill_varlena(HEADER_BYTES + n_bytes, fill)
}
