//! Locks of lists: page locks of Postgres's lock manager, with the list's number in place of the block's.
//!
//! Released at the end of the transaction at the latest. Postgres does not look for deadlocks among page locks: a
//! process holds one at a time and, while it does, waits for nothing but page contents and file extension.
#![allow(unsafe_code)]

use omen_ivf::store::ListLock;
use pgrx::pg_sys;

use super::IndexPages;

fn lock_mode(mode: ListLock) -> pg_sys::LOCKMODE {
    match mode {
        ListLock::Shared => pg_sys::ShareLock as pg_sys::LOCKMODE,
        ListLock::Exclusive => pg_sys::ExclusiveLock as pg_sys::LOCKMODE,
    }
}

/// Waits for the lock.
pub(super) fn lock(pages: &IndexPages, list: u32, mode: ListLock) {
    // SAFETY: `IndexPages` holds an open relation.
    unsafe { pg_sys::LockPage(pages.rel(), list, lock_mode(mode)) }
    count(pages, mode, 1);
}

/// Takes the lock if that needs no waiting.
pub(super) fn try_lock(pages: &IndexPages, list: u32, mode: ListLock) -> bool {
    // SAFETY: `IndexPages` holds an open relation.
    let locked = unsafe { pg_sys::ConditionalLockPage(pages.rel(), list, lock_mode(mode)) };
    if locked {
        count(pages, mode, 1);
    }
    locked
}

/// Gives the lock back.
pub(super) fn unlock(pages: &IndexPages, list: u32, mode: ListLock) {
    // SAFETY: `IndexPages` holds an open relation; Postgres warns if the lock is not held.
    unsafe { pg_sys::UnlockPage(pages.rel(), list, lock_mode(mode)) }
    count(pages, mode, -1);
}

fn count(pages: &IndexPages, mode: ListLock, change: i32) {
    if mode == ListLock::Exclusive {
        let n = pages.n_exclusive.get().saturating_add_signed(change);
        pages.n_exclusive.set(n);
    }
}
