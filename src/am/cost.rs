//! What the planner is told. Never raises an error because of an index: one that cannot be read is costed by guesses,
//! and the scan then says what is wrong with it.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::storage::{IndexPages, open_index};
use crate::{compat, guc};

/// Preparing the query and choosing lists, in sequential page reads: below some hundred rows a sort is as good.
const SETUP_PAGES: f64 = 10.0;

/// The estimates that go back to the planner.
struct Estimate {
    startup: f64,
    total: f64,
    selectivity: f64,
    pages: f64,
}

#[pg_guard]
#[allow(clippy::too_many_arguments)] // Postgres's signature
pub(super) unsafe extern "C-unwind" fn amcostestimate(
    _root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    _loop_count: f64,
    startup_cost: *mut pg_sys::Cost,
    total_cost: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: Postgres passes a path with its index, and places for the results.
    unsafe {
        // Only for ORDER BY column <operator> query.
        let usable = !(*path).indexorderbys.is_null() && guc::enable_scan();
        let estimate = if usable {
            estimate(&*(*path).indexinfo)
        } else {
            compat::disable_path(path);
            let never = f64::INFINITY;
            Estimate {
                startup: never,
                total: never,
                selectivity: 0.0,
                pages: 0.0,
            }
        };
        *startup_cost = estimate.startup;
        *total_cost = estimate.total;
        *selectivity = estimate.selectivity;
        *correlation = 0.0;
        *pages = estimate.pages;
    }
}

/// # Safety
/// `info` describes an index that the planner holds a lock on (or a hypothetical one).
unsafe fn estimate(info: &pg_sys::IndexOptInfo) -> Estimate {
    // SAFETY: by this function's contract.
    let (share, heap_pages, page_cost, operator_cost, tuple_cost) = unsafe {
        let mut page_cost = 0.0;
        pg_sys::get_tablespace_page_costs(
            info.reltablespace,
            core::ptr::null_mut(),
            &mut page_cost,
        );
        (
            share_of_lists(info),
            f64::from((*info.rel).pages),
            page_cost,
            pg_sys::cpu_operator_cost,
            pg_sys::cpu_index_tuple_cost,
        )
    };
    let rows = info.tuples.max(1.0);
    // The cost of a sequential scan leaves vectors out that are stored out of line; so that both are measured alike,
    // neither are the index's pages counted beyond the table's.
    let all_pages = f64::from(info.pages).min(heap_pages.max(1.0));
    let visit = |share: f64| share * (all_pages * page_cost + rows * operator_cost);
    let startup = SETUP_PAGES * page_cost + visit(share);
    // Who wants all rows in order should sort them: the scan searches again and again for more.
    let all_rows = 4.0 * operator_cost * rows * (rows + 1.0).log2();
    let total = startup + visit(1.0 - share) + rows * tuple_cost + all_rows;
    Estimate {
        startup,
        total,
        selectivity: 1.0,
        pages: (f64::from(info.pages) * share).ceil(),
    }
}

/// Share of the lists that a search visits first.
///
/// # Safety
/// As [`estimate`].
unsafe fn share_of_lists(info: &pg_sys::IndexOptInfo) -> f64 {
    let guess = omen_ivf::coarse::default_lists(info.tuples.max(0.0) as u64);
    let (lists, automatic) = if info.hypothetical {
        (guess, (guess / 16).max(1))
    } else {
        // SAFETY: the planner holds a lock, so the index exists; it is closed in the same breath.
        unsafe {
            let rel = pg_sys::index_open(info.indexoid, pg_sys::NoLock as pg_sys::LOCKMODE);
            let facts = open_index(&IndexPages::new(rel))
                .map(|index| (index.n_lists(), index.reach_for(guc::recall(), 10).probes));
            pg_sys::index_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
            facts.unwrap_or((guess, (guess / 16).max(1)))
        }
    };
    let probes = if guc::probes() > 0 {
        guc::probes()
    } else {
        automatic
    };
    f64::from(probes.min(lists)) / f64::from(lists)
}
