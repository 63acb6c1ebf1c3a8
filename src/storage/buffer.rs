//! Pins, content locks and bytes of buffers.
#![allow(unsafe_code)]

use core::ffi::c_int;

use omen_ivf::store::PAGE_BYTES;
use pgrx::pg_sys;

/// Brings a block into memory and pins it. With `P_NEW` as block, extends the file by one page.
///
/// # Safety
/// `rel` is open; `strategy` is null or valid.
pub(super) unsafe fn pin(
    rel: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    block: u32,
    strategy: pg_sys::BufferAccessStrategy,
) -> pg_sys::Buffer {
    // SAFETY: by this function's contract.
    unsafe {
        pg_sys::ReadBufferExtended(
            rel,
            fork,
            block,
            pg_sys::ReadBufferMode::RBM_NORMAL,
            strategy,
        )
    }
}

/// P_NEW.
pub(super) const NEW_BLOCK: u32 = u32::MAX;

/// Locks a pinned page for reading.
///
/// # Safety
/// This process pins `buffer` and does not lock it.
pub(super) unsafe fn lock_shared(buffer: pg_sys::Buffer) {
    // SAFETY: by this function's contract.
    unsafe { pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as c_int) }
}

/// Locks a pinned page for writing.
///
/// # Safety
/// This process pins `buffer` and does not lock it.
pub(super) unsafe fn lock_exclusive(buffer: pg_sys::Buffer) {
    // SAFETY: by this function's contract.
    unsafe { pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as c_int) }
}

/// Unlocks a page and keeps its pin.
///
/// # Safety
/// This process pins and locks `buffer`.
pub(super) unsafe fn unlock(buffer: pg_sys::Buffer) {
    // SAFETY: by this function's contract.
    unsafe { pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as c_int) }
}

/// The bytes of a pinned page.
///
/// # Safety
/// `buffer` stays pinned and locked while the result is used.
pub(super) unsafe fn bytes<'a>(buffer: pg_sys::Buffer) -> &'a [u8] {
    // SAFETY: a pinned buffer has BLCKSZ (= PAGE_BYTES, asserted in `mod.rs`) bytes; the lock keeps writers away.
    unsafe { core::slice::from_raw_parts(pg_sys::BufferGetPage(buffer).cast::<u8>(), PAGE_BYTES) }
}

/// The bytes of a page that only this process may see, or a private image of one.
///
/// # Safety
/// `page` points to `PAGE_BYTES` bytes that nobody else reads or writes while the result is used.
pub(super) unsafe fn bytes_mut<'a>(page: pg_sys::Page) -> &'a mut [u8] {
    // SAFETY: by this function's contract.
    unsafe { core::slice::from_raw_parts_mut(page.cast::<u8>(), PAGE_BYTES) }
}
