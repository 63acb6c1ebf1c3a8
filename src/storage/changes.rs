//! Counts of what is changed of lists, where the library was preloaded: see `omen_service::changes`.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use omen_service::changes::ChangeCounts;
use pgrx::pg_sys;

use crate::compat::FileId;

/// Set in the postmaster; the processes it forks have it.
static COUNTS: AtomicPtr<ChangeCounts> = AtomicPtr::new(core::ptr::null_mut());

/// These are the counts from now on.
///
/// # Safety
/// They stay where they are for as long as the process lives and those it forks.
pub(crate) unsafe fn share(counts: *mut ChangeCounts) {
    COUNTS.store(counts, Ordering::Release);
}

fn counts() -> Option<&'static ChangeCounts> {
    // SAFETY: null, or as [`share`] promises.
    unsafe { COUNTS.load(Ordering::Acquire).as_ref() }
}

fn word(file: FileId) -> u64 {
    u64::from(file.database) << 32 | u64::from(file.number)
}

/// A list of the index with this file was changed.
pub(super) fn note(file: FileId, list: u32) {
    if let Some(counts) = counts() {
        counts.note(word(file), list);
    }
}

/// The version of a list; 0 where nobody counts: without preloading, and for what is replayed.
pub(super) fn version(file: FileId, list: u32) -> u32 {
    match counts() {
        Some(counts) if !is_replaying() => counts.version(word(file), list),
        _ => 0,
    }
}

/// Whether the server replays what others wrote. Asked for each list of a search: once it does not, it never will again.
fn is_replaying() -> bool {
    static HAS_ENDED: AtomicBool = AtomicBool::new(false);
    if HAS_ENDED.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: on the main thread of a process of the server.
    let is_replaying = unsafe { pg_sys::RecoveryInProgress() };
    HAS_ENDED.store(!is_replaying, Ordering::Relaxed);
    is_replaying
}
