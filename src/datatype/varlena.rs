//! Values of variable length: [`Detoasted`] reads one however it is stored, [`new_varlena`] makes a new one.
#![allow(unsafe_code)]

use core::ptr::NonNull;
use pgrx::pg_sys;

/// Bytes of the length word that a plain value starts with.
pub(super) const HEADER_BYTES: usize = 4;

/// A value in plain form: four-byte length word, aligned, not compressed, not out of line.
///
/// Values stored in another form (short header, compressed, TOAST table) are copied; the copy is freed on drop, as
/// comparison functions are called many times in one memory context.
pub(crate) struct Detoasted {
    ptr: NonNull<pg_sys::varlena>,
    is_copy: bool,
}

impl Detoasted {
    /// Reads `datum`.
    ///
    /// # Safety
    /// `datum` points to a varlena, which outlives the result.
    #[inline(always)]
    pub(crate) unsafe fn new(datum: pg_sys::Datum) -> Self {
        let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: `stored` is a varlena by this function's contract.
        let plain = unsafe {
            if pgrx::varlena::varatt_is_4b_u(stored) {
                stored
            } else {
                pg_sys::pg_detoast_datum(stored)
            }
        };
        Self {
            ptr: NonNull::new(plain).expect("a varlena datum is not null"),
            is_copy: plain != stored,
        }
    }

    /// Whole length in bytes, the length word included.
    #[inline]
    pub(super) fn n_bytes(&self) -> usize {
        // SAFETY: `ptr` is a plain varlena.
        unsafe { pgrx::varlena::varsize_4b(self.ptr.as_ptr()) }
    }

    /// Address of the length word; valid for [`Self::n_bytes`] while `self` lives.
    #[inline]
    pub(super) fn as_ptr<T>(&self) -> *mut T {
        self.ptr.as_ptr().cast()
    }

    /// Gives the value to the caller: a copy is no longer freed.
    #[inline]
    pub(super) fn into_ptr<T>(self) -> *mut T {
        let ptr = self.as_ptr();
        core::mem::forget(self);
        ptr
    }
}

impl Drop for Detoasted {
    #[inline]
    fn drop(&mut self) {
        // While an error unwinds, the transaction's abort frees the copy; Postgres must not be called then.
        if self.is_copy && !std::thread::panicking() {
            // SAFETY: `pg_detoast_datum` allocated the copy, and nothing else refers to it.
            unsafe { pg_sys::pfree(self.as_ptr()) }
        }
    }
}

/// Allocates a zeroed varlena of `n_bytes` (the length word included) in the current memory context.
///
/// # Panics
/// Raises Postgres' own error when memory is short or `n_bytes` is 1 GB or more.
pub(super) fn new_varlena(n_bytes: usize) -> *mut u8 {
    // SAFETY: palloc0 returns at least `n_bytes` writable bytes or raises an error; the length word fits.
    unsafe {
        let ptr = pg_sys::palloc0(n_bytes).cast::<u8>();
        set_n_bytes(ptr, n_bytes);
        ptr
    }
}

/// A varlena of `n_bytes` (the length word included) in the current memory context, what follows the length word zero before `fill`.
pub(super) fn fill_varlena(n_bytes: usize, fill: impl FnOnce(&mut [u8])) -> *mut u8 {
    let ptr = new_varlena(n_bytes);
    // SAFETY: `new_varlena` gave `n_bytes` initialised bytes that nothing else refers to.
    fill(unsafe { core::slice::from_raw_parts_mut(ptr.add(HEADER_BYTES), n_bytes - HEADER_BYTES) });
    ptr
}

/// Writes the length word of the varlena at `ptr`.
///
/// # Safety
/// `ptr` is aligned to four bytes and was allocated with at least `n_bytes`, which is below 1 GB.
pub(super) unsafe fn set_n_bytes(ptr: *mut u8, n_bytes: usize) {
    // SAFETY: by this function's contract; palloc refuses sizes that do not fit an i32.
    unsafe { pgrx::varlena::set_varsize_4b(ptr.cast(), n_bytes as i32) }
}
