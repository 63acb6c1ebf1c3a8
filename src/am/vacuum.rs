//! VACUUM: marks entries of dead rows (`ambulkdelete`), then tidies up (`amvacuumcleanup`).
#![allow(unsafe_code)]

use core::ffi::c_void;

use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::fold::vacuum_fold;
use omen_ivf::index::{Index, read_entries};
use omen_ivf::layout::append::{overflow_pages, records_per_page};
use omen_ivf::layout::streams::{code_pages, vector_pages};
use omen_ivf::reclaim::reclaim;
use omen_ivf::store::{NO_BLOCK, PageStore};
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::Result;
use crate::storage::{IndexPages, open_index};

/// VACUUM looks for lost pages (reading the whole index) when it misses more than so many, and more than one in
/// `LOST_SHARE`.
const LOST_PAGES: u64 = 128;
const LOST_SHARE: u64 = 20;

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambulkdelete(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    callback_state: *mut c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: Postgres passes an open index in `info`, its own callback and that callback's state.
    let result = unsafe { delete(&*info, stats, callback, callback_state) };
    match result {
        Ok(stats) => stats,
        Err(error) => error.raise(),
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amvacuumcleanup(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: Postgres passes an open index in `info`.
    let result = unsafe {
        if (*info).analyze_only {
            return stats;
        }
        cleanup(&*info, stats)
    };
    match result {
        Ok(stats) => stats,
        Err(error) => error.raise(),
    }
}

/// Every live entry goes through `callback`: CREATE INDEX CONCURRENTLY uses it to learn which rows are indexed.
///
/// # Safety
/// The arguments are those of `ambulkdelete`.
unsafe fn delete(
    info: &pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    callback_state: *mut c_void,
) -> Result<*mut pg_sys::IndexBulkDeleteResult> {
    // SAFETY: by this function's contract. The callback may raise an error (it may write to a file), so it runs behind
    // a guard that turns that into unwinding.
    unsafe {
        let pages = IndexPages::for_vacuum(info.index, info.strategy);
        let index = open_index(&pages)?;
        let is_dead = callback.expect("Postgres passes a callback");
        let counts = bulk_delete(&pages, &index, &mut |tid| {
            let mut tid = super::tid_of(tid);
            pg_sys::ffi::pg_guard_ffi_boundary(|| is_dead(&mut tid, callback_state))
        })?;
        let stats = or_new(stats);
        (*stats).estimated_count = false;
        (*stats).num_index_tuples = counts.remaining as f64;
        (*stats).tuples_removed += counts.removed as f64;
        (*stats).num_pages = pages.n_blocks()?;
        Ok(stats)
    }
}

/// Folds lists where it pays, gives back what a crash left behind, makes free pages findable, and counts.
///
/// # Safety
/// The arguments are those of `amvacuumcleanup`.
unsafe fn cleanup(
    info: &pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
) -> Result<*mut pg_sys::IndexBulkDeleteResult> {
    // SAFETY: by this function's contract.
    unsafe {
        let pages = IndexPages::for_vacuum(info.index, info.strategy);
        let index = open_index(&pages)?;
        let folded = vacuum_fold(&pages, &index)?;
        if stats.is_null() && folded.lists == 0 {
            // Nothing was done: the statistics of the last time hold.
            return Ok(stats);
        }
        let n_pages = pages.n_blocks()?;
        let mut n_free = count_free(info.index, n_pages);
        let n_lost = u64::from(n_pages)
            .saturating_sub(pages_used(&pages, &index)?)
            .saturating_sub(u64::from(n_free));
        if n_lost > LOST_PAGES.max(u64::from(n_pages) / LOST_SHARE) {
            reclaim(&pages, &index, &mut |block| {
                pg_sys::RecordFreeIndexPage(info.index, block);
            })?;
            n_free = count_free(info.index, n_pages);
        }
        pg_sys::IndexFreeSpaceMapVacuum(info.index);
        let had_count = !stats.is_null();
        let stats = or_new(stats);
        if !had_count {
            (*stats).estimated_count = true;
            (*stats).num_index_tuples = info.num_heap_tuples;
        }
        (*stats).num_pages = n_pages;
        (*stats).pages_free = n_free;
        Ok(stats)
    }
}

/// Pages that the free space map knows as free.
///
/// # Safety
/// `rel` is open.
unsafe fn count_free(rel: pg_sys::Relation, n_blocks: u32) -> u32 {
    let mut n_free = 0;
    for block in 0..n_blocks {
        if block % 4096 == 0 {
            crate::compat::vacuum_delay_point();
        }
        // SAFETY: by this function's contract. The map of an index says 0 or a whole page.
        if unsafe { pg_sys::GetRecordedFreeSpace(rel, block) } > 0 {
            n_free += 1;
        }
    }
    n_free
}

/// About how many pages the lists refer to: what is far beyond and not known as free was lost in a crash.
fn pages_used(pages: &IndexPages, index: &Index) -> Result<u64> {
    let (meta, words) = (&index.meta, index.form.row_words());
    let lists: Vec<u32> = (0..index.n_lists()).collect();
    let per_append_page = 1 + u64::from(records_per_page(words)) * overflow_pages(words) as u64;
    let streams = |count: u32, rows: u64, words: u32| {
        code_pages(count, meta.shape()) + vector_pages(rows, words)
    };
    let coarse_dim = index.form.coarse_dim();
    let root = streams(meta.lists, u64::from(meta.lists) + 1, coarse_dim);
    let used = read_entries(pages, index, &lists)?
        .iter()
        .fold(0, |used, entry| {
            let maps = u64::from(entry.map_head != NO_BLOCK);
            used + streams(entry.frozen_count, u64::from(entry.frozen_count), words)
                + u64::from(entry.append_pages) * per_append_page
                + maps
        });
    Ok(1 + u64::from(meta.directory.len) + root + used)
}

fn or_new(stats: *mut pg_sys::IndexBulkDeleteResult) -> *mut pg_sys::IndexBulkDeleteResult {
    if !stats.is_null() {
        return stats;
    }
    // SAFETY: palloc0 returns zeroed memory of the size asked for or raises an error; zero is valid for all members.
    unsafe { pg_sys::palloc0(size_of::<pg_sys::IndexBulkDeleteResult>()).cast() }
}
