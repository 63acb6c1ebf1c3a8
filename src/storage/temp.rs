//! [`TempFile`]: a temporary file of Postgres (counted against temp_file_limit, deleted at the latest by abort).
#![allow(unsafe_code)]

use core::ffi::c_int;

use pgrx::pg_sys;

use crate::error::{PgError, Result};

/// A file written from start to end, then read anywhere.
pub(crate) struct TempFile {
    file: *mut pg_sys::BufFile,
    n_bytes: u64,
}

impl TempFile {
    /// An empty file. It belongs to the current resource owner.
    pub(crate) fn create() -> Self {
        // SAFETY: main thread, inside a transaction. Postgres closes the file if the transaction aborts.
        let file = unsafe { pg_sys::BufFileCreateTemp(false) };
        Self { file, n_bytes: 0 }
    }

    /// Appends `bytes`. Not after the first `read_at`.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        // SAFETY: `file` is open until `close`; Postgres only reads `bytes`.
        unsafe { pg_sys::BufFileWrite(self.file, bytes.as_ptr().cast_mut().cast(), bytes.len()) }
        self.n_bytes += bytes.len() as u64;
    }

    /// Fills `out` from offset `at`. Errors: the file is shorter.
    pub(crate) fn read_at(&mut self, at: u64, out: &mut [u8]) -> Result<()> {
        // SAFETY: `file` is open until `close`; `out` has the length given. SEEK_SET (0) from file segment 0.
        let n = unsafe {
            let failed = pg_sys::BufFileSeek(self.file, 0, at as pg_sys::off_t, 0 as c_int);
            if failed != 0 {
                0
            } else {
                pg_sys::BufFileRead(self.file, out.as_mut_ptr().cast(), out.len())
            }
        };
        if n == out.len() {
            return Ok(());
        }
        Err(PgError::new(
            pgrx::PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!(
                "could not read {} bytes at {at} of a temporary file of {} bytes",
                out.len(),
                self.n_bytes
            ),
        ))
    }

    /// Closes and deletes the file.
    pub(crate) fn close(self) {
        // SAFETY: `file` is open, and `self` is gone afterwards.
        unsafe { pg_sys::BufFileClose(self.file) }
    }
}
