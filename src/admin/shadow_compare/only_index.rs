//! Plans that have one index of a table to choose from, or none: what the planner is told of the table has no other.
#![allow(unsafe_code)]

use core::cell::Cell;

use pgrx::pg_sys;
use pgrx::prelude::*;

thread_local! {
    /// The table, and the only index of it that plans may use; Postgres plans on the main thread alone.
    static ONLY: Cell<Option<(pg_sys::Oid, Option<pg_sys::Oid>)>> = const { Cell::new(None) };
    /// What was hooked in before us.
    static NEXT: Cell<pg_sys::get_relation_info_hook_type> = const { Cell::new(None) };
}

/// Hooks in; called once, from `_PG_init`.
pub(crate) fn define() {
    // SAFETY: on the main thread, while the library is loaded.
    unsafe {
        NEXT.set(pg_sys::get_relation_info_hook);
        pg_sys::get_relation_info_hook = Some(relation_info);
    }
}

/// While this lives, plans see one index of a table, or none. Nothing of Postgres is called when it goes.
pub(super) struct OnlyIndex(());

impl OnlyIndex {
    /// Of `table`, `index` alone.
    pub(super) fn new(table: pg_sys::Oid, index: Option<pg_sys::Oid>) -> Self {
        ONLY.set(Some((table, index)));
        Self(())
    }
}

impl Drop for OnlyIndex {
    fn drop(&mut self) {
        ONLY.set(None);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_info(
    root: *mut pg_sys::PlannerInfo,
    table: pg_sys::Oid,
    is_parent: bool,
    info: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: the planner passes what it passes to us; the list has `IndexOptInfo`s and is the planner's own.
    unsafe {
        if let Some(next) = NEXT.get() {
            pg_sys::ffi::pg_guard_ffi_boundary(|| next(root, table, is_parent, info));
        }
        let Some((_, only)) = ONLY.get().filter(|(of, _)| *of == table) else {
            return;
        };
        let list = (*info).indexlist;
        let n = if list.is_null() { 0 } else { (*list).length };
        let mut kept = core::ptr::null_mut();
        for at in 0..n {
            let cell = &*(*list).elements.add(at as usize);
            let index = cell.ptr_value.cast::<pg_sys::IndexOptInfo>();
            if Some((*index).indexoid) == only {
                kept = pg_sys::lappend(kept, index.cast());
            }
        }
        (*info).indexlist = kept;
    }
}
