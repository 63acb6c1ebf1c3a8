//! A process that stops between two changes of an index's pages, so that tests can act, or crash the server, just there (test builds only).
//!
//! No page is locked then; the list's lock is held where the change is made under it.
#![allow(unsafe_code)]

use std::cell::Cell;

use pgrx::pg_sys;

use crate::guc;

thread_local! {
    /// When the statement began, and how many changes it has made.
    static CHANGES: Cell<(pg_sys::TimestampTz, i32)> = const { Cell::new((0, 0)) };
}

/// Called before each change. Stops the process if this is the one of its statement that `omen.stop_before` names.
pub(super) fn before_change() {
    // SAFETY: reads a variable, on the main thread.
    let statement = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    let (last, n) = CHANGES.get();
    let change = if statement == last { n + 1 } else { 1 };
    CHANGES.set((statement, change));
    if change == guc::stop_before() {
        // SAFETY: has no arguments that could be wrong. Returns when somebody sends SIGCONT.
        unsafe { libc::raise(libc::SIGSTOP) };
    }
}
