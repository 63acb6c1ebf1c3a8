//! Counts of what is appended to lists, where the library was preloaded: see `omen_service::appends`.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicPtr, Ordering};

use omen_service::appends::AppendCounts;
use pgrx::pg_sys;

use crate::compat::FileId;

/// Set in the postmaster; the processes it forks have it.
static COUNTS: AtomicPtr<AppendCounts> = AtomicPtr::new(core::ptr::null_mut());

/// These are the counts from now on.
///
/// # Safety
/// They stay where they are for as long as the process lives and those it forks.
pub(crate) unsafe fn share(counts: *mut AppendCounts) {
    COUNTS.store(counts, Ordering::Release);
}

fn counts() -> Option<&'static AppendCounts> {
    // SAFETY: null, or as [`share`] promises.
    unsafe { COUNTS.load(Ordering::Acquire).as_ref() }
}

fn word(file: FileId) -> u64 {
    u64::from(file.database) << 32 | u64::from(file.number)
}

/// An entry was appended to a list of the index with this file.
pub(super) fn note(file: FileId, list: u32) {
    if let Some(counts) = counts() {
        counts.note(word(file), list);
    }
}

/// The version of what is appended to a list; 0 where nobody counts: without preloading, and for what is replayed.
pub(super) fn version(file: FileId, list: u32) -> u32 {
    match counts() {
        // SAFETY: on the main thread of a process of the server.
        Some(counts) if !unsafe { pg_sys::RecoveryInProgress() } => {
            counts.version(word(file), list)
        }
        _ => 0,
    }
}
