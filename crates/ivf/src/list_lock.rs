//! The lock of a list around a piece of work.

use crate::Result;
use crate::store::{ListLock, PageStoreMut};

/// Runs `f` with the list locked, and unlocks also if `f` fails. (If the host unwinds instead, it releases the lock at
/// the end of the transaction.)
pub(crate) fn with_list_lock<S: PageStoreMut, R>(
    s: &S,
    list: u32,
    mode: ListLock,
    f: impl FnOnce() -> Result<R>,
) -> Result<R> {
    s.lock_list(list, mode)?;
    unlock_after(s, list, mode, f)
}

/// As [`with_list_lock`], if the lock can be had at once; else `None`.
pub(crate) fn try_with_list_lock<S: PageStoreMut, R>(
    s: &S,
    list: u32,
    mode: ListLock,
    f: impl FnOnce() -> Result<R>,
) -> Result<Option<R>> {
    if s.try_lock_list(list, mode)? {
        unlock_after(s, list, mode, f).map(Some)
    } else {
        Ok(None)
    }
}

fn unlock_after<S: PageStoreMut, R>(
    s: &S,
    list: u32,
    mode: ListLock,
    f: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let result = f();
    let unlocked = s.unlock_list(list, mode);
    let value = result?;
    unlocked?;
    Ok(value)
}
