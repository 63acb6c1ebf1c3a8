//! List locks in memory, and the rules that page changes must keep.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::layout::directory::{ENTRIES_PER_PAGE, ListEntry, entry_position, get_entry};
use crate::layout::page::{self, NO_LIST, PageKind, PageTail};
use crate::store::ListLock;

thread_local! {
    /// Whether this thread is inside a store call.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// List locks of this thread. (A test thread works on one store at a time.)
    static HELD: RefCell<Vec<(u32, ListLock)>> = const { RefCell::new(Vec::new()) };
}

/// Marks this thread as inside a store call until dropped.
pub(super) struct Inside;

/// Panics if this thread is inside a store call already: a closure has called the store.
pub(super) fn enter() -> Inside {
    INSIDE.with(|inside| assert!(!inside.replace(true), "a closure called the store"));
    Inside
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(false));
    }
}

/// How often a list is locked: shared, exclusive.
type Counts = HashMap<u32, (u32, u32)>;

/// The locks of all lists.
#[derive(Debug, Default)]
pub(super) struct ListLocks {
    counts: Mutex<Counts>,
    released: Condvar,
}

impl ListLocks {
    /// Waits for a lock. Panics if this thread holds one already: two lists are never locked at once.
    pub(super) fn lock(&self, list: u32, mode: ListLock) {
        HELD.with_borrow(|held| {
            assert!(
                held.is_empty(),
                "lock of list {list} while {held:?} are held"
            )
        });
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        while !take(&mut counts, list, mode) {
            counts = self
                .released
                .wait(counts)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes a lock that is free.
    pub(super) fn try_lock(&self, list: u32, mode: ListLock) -> bool {
        HELD.with_borrow(|held| {
            assert!(
                held.is_empty(),
                "lock of list {list} while {held:?} are held"
            )
        });
        take(
            &mut self.counts.lock().unwrap_or_else(PoisonError::into_inner),
            list,
            mode,
        )
    }

    /// Releases a lock of this thread.
    pub(super) fn unlock(&self, list: u32, mode: ListLock) {
        HELD.with_borrow_mut(|held| {
            let i = held
                .iter()
                .position(|&h| h == (list, mode))
                .expect("unlock of a list that is not locked");
            held.swap_remove(i);
        });
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((shared, exclusive)) = counts.get_mut(&list) {
            match mode {
                ListLock::Shared => *shared -= 1,
                ListLock::Exclusive => *exclusive -= 1,
            }
        }
        self.released.notify_all();
    }

    /// Locks held by any thread.
    pub(super) fn n_held(&self) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .values()
            .map(|(shared, exclusive)| (shared + exclusive) as usize)
            .sum()
    }

    /// Panics unless this thread has locked `list` (which may be no list).
    pub(super) fn assert_held(&self, list: u32) {
        HELD.with_borrow(|held| {
            assert!(
                list == NO_LIST || held.iter().any(|h| h.0 == list),
                "list {list} is changed but not locked"
            );
        });
    }
}

fn take(counts: &mut Counts, list: u32, mode: ListLock) -> bool {
    let (shared, exclusive) = counts.entry(list).or_default();
    let free = *exclusive == 0 && (mode == ListLock::Shared || *shared == 0);
    if free {
        match mode {
            ListLock::Shared => *shared += 1,
            ListLock::Exclusive => *exclusive += 1,
        }
        HELD.with_borrow_mut(|held| held.push((list, mode)));
    }
    free
}

/// Panics unless the pages of a record come in lock order: metapage, directory, then data pages in stream order.
pub(super) fn assert_order(pages: &[&mut [u8]]) {
    let rank = |tail: &PageTail| {
        let kind = match PageKind::from_u16(tail.kind).expect("page kind") {
            PageKind::Meta => 0,
            PageKind::Directory => 1,
            PageKind::Map => 2,
            PageKind::Code => 3,
            PageKind::Vector => 4,
            PageKind::Append => 5,
            PageKind::Overflow => 6,
            PageKind::Free => 7,
        };
        (kind, tail.seq)
    };
    let ranks: Vec<_> = pages.iter().map(|page| rank(&page::tail(page))).collect();
    assert!(
        ranks.is_sorted_by(|a, b| a < b),
        "pages locked out of order: {ranks:?}"
    );
}

/// Panics if a page was changed without the lock of the list concerned.
pub(super) fn assert_change(locks: &ListLocks, old: &[u8], new: &[u8]) {
    let (before, after) = (page::tail(old), page::tail(new));
    assert_eq!(
        (before.kind, before.list, before.stamp),
        (after.kind, after.list, after.stamp),
        "a page changed hands"
    );
    if after.kind != PageKind::Directory as u16 {
        locks.assert_held(after.list);
        return;
    }
    let n_entries = page::content_bytes(new) / size_of::<ListEntry>();
    for i in 0..n_entries as u32 {
        let offset = entry_position(i).1;
        let (before, after_entry) = (get_entry(old, offset), get_entry(new, offset));
        if bytemuck::bytes_of(&before) == bytemuck::bytes_of(&after_entry) {
            continue;
        }
        let list = after.seq * ENTRIES_PER_PAGE as u32 + i;
        locks.assert_held(list);
        if before.layout_gen != after_entry.layout_gen {
            let exclusive = HELD.with_borrow(|held| held.contains(&(list, ListLock::Exclusive)));
            assert!(
                exclusive,
                "layout of list {list} replaced without its exclusive lock"
            );
        }
        // Generations wrap around, at once where a page is damaged.
        let raised = after_entry.delete_gen.wrapping_sub(before.delete_gen);
        assert!(
            raised as i32 >= 0,
            "deletion generation of list {list} fell"
        );
    }
}
