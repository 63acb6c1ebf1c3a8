//! What the planner is told. Never raises an error because of an index: one that cannot be read is costed by guesses,
//! and the scan then says what is wrong with it.
//!
//! The planner takes the cost of a `LIMIT k` from the line between `startup` (no row) and `total` (all rows), at k's share
//! of the rows that pass the filter: a filter that keeps one row in a hundred makes each row returned cost a hundred
//! rows pulled. What Postgres itself adds is the visit of the table's pages, at `random_page_cost`, and the filter.
//!
//! * `startup`: preparing the query, choosing lists, and a first round over the probed ones: all their codes, the vectors
//!   of few entries (of all when every list is probed).
//! * Each row pulled: `ordered` keeps one row handed out to `WIDENED_SHARE` entries visited, and searches as deep as that
//!   read nearly all vectors of the entries; and rounds go over the probed lists again. The first hundred rows come
//!   with the first round, so for those it is too much: harmless, since a sort of the whole table is far dearer.
//! * `total` is at least twice what a sort of all rows would cost. Who wants all of them should sort: the iterative scan
//!   leaves rows out that come too late for their place.
//!
//! Pages count like those of a sequential scan, entries one operator each. Measured on pages in memory, such a unit is
//! 0.4 to 4 microseconds, in Postgres's own estimates as in these (docs/benchmarks.md).
//!
//! **Vectors out of line.** The cost of a sequential scan counts the table's pages, not those of its TOAST table nor the work
//! of fetching from it, which takes many times as long as the rest of the row. An index scan costed truthfully would
//! lose to a plan that reads every vector of the table. pgvector counts at most as many pages of its index as the table
//! has. That cannot tell a search of 10 rows from one of 10,000, so here the index's cost is true, and shrunk
//! by the ratio of what Postgres counts for reading and sorting the rows that pass the filter to what this takes.
//! (Those rows alone: a filter on other columns is evaluated before the distance.) Comparisons with the sort are then
//! right at every selectivity; comparisons between tables were wrong before.
#![allow(unsafe_code)]

use omen_ivf::coarse::default_lists;
use omen_ivf::layout::group::{Filter, GROUP, GroupShape};
use omen_ivf::layout::streams::row_bytes;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::opclass::OpClass;
use crate::engine::lists::{WIDENED_SHARE, recall_wanted};
use crate::engine::stats::{Expectation, note_plan};
use crate::storage::{IndexPages, open_index};
use crate::{compat, guc};

/// Preparing the query, in sequential page reads.
const SETUP_PAGES: f64 = 10.0;
/// Entries whose vectors the first round reads.
const RERANKED: f64 = 100.0;
/// Rows pulled after which the probed lists are gone over once more: at first for more of their entries, then with others.
const ROWS_OF_ROUND: f64 = 256.0;
/// A path that must not be taken: worse than Postgres's own `disable_cost`, and finite, so that differences are numbers.
const NEVER: f64 = 1e15;
/// Dimension of an index that does not say.
const GUESSED_DIM: u32 = 256;
/// Fetching a value out of line, in tuples: finding it, and each of its chunks of so many bytes.
const FETCH_TUPLES: f64 = 100.0;
const CHUNK_TUPLES: f64 = 25.0;
const CHUNK_BYTES: f64 = 1996.0;
/// Rows kept by the sort that the scan is measured against, in comparisons a row: some dozens.
const SORT_COMPARISONS: f64 = 5.0;
/// Standard deviations of the number of rows that a filter makes a scan pull.
const FILTER_SPREAD: f64 = 1.5;
/// Rows that a scan below a join is taken to pull for each row of the LIMIT: what the join keeps of them is not known yet.
const JOIN_ROWS: f64 = 3.0;

const PAGE: f64 = pg_sys::BLCKSZ as f64;

/// The estimates that go back to the planner.
struct Estimate {
    startup: f64,
    total: f64,
    selectivity: f64,
    pages: f64,
}

/// The planner's settings.
struct Units {
    page: f64,
    operator: f64,
    tuple: f64,
}

impl Units {
    /// Looking at `entries` of so many bytes.
    fn entries(&self, entries: f64, bytes: f64) -> f64 {
        entries * (bytes / PAGE * self.page + self.operator)
    }
}

/// What the index says of itself, or guesses.
struct Facts {
    lists: f64,
    probes: f64,
    shape: GroupShape,
    /// Bytes of a row, and of a centroid.
    row_bytes: f64,
    centroid_bytes: f64,
    /// Bytes of a value in the table; `None`: not known.
    value_bytes: Option<f64>,
}

#[pg_guard]
#[allow(clippy::too_many_arguments)] // Postgres's signature
pub(super) unsafe extern "C-unwind" fn amcostestimate(
    root: *mut pg_sys::PlannerInfo,
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
            let expected = expectation(&*root, &*path);
            note_plan((*(*path).indexinfo).indexoid.to_u32(), expected);
            estimate(&*path, expected.filtered)
        } else {
            compat::disable_path(path);
            Estimate {
                startup: NEVER,
                total: NEVER,
                selectivity: 1.0,
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

/// What a scan of this path would hand out, a hint for the scan, which is not told: how many rows, if the query says how many it
/// wants, and whether all of them will do.
///
/// # Safety
/// `root` is planning, `path` is being costed.
unsafe fn expectation(root: &pg_sys::PlannerInfo, path: &pg_sys::IndexPath) -> Expectation {
    // SAFETY: by this function's contract; a path has its index.
    let (entries, clauses, joins) = unsafe {
        let info = &*path.indexinfo;
        // Without those that a partial index's predicate implies.
        let clauses = !info.indrestrictinfo.is_null();
        let joins = pg_sys::bms_num_members(root.all_baserels) > 1;
        (info.tuples.max(1.0), clauses, joins)
    };
    let rows = if root.limit_tuples >= 0.0 {
        // Rows that do not pass the filter are handed out too; more than the mean of them, since many a query has to look farther.
        let kept = (path.path.rows / entries).clamp(1.0 / entries, 1.0);
        let wanted = root.limit_tuples * if joins { JOIN_ROWS } else { 1.0 };
        let spread = FILTER_SPREAD * (wanted * (1.0 - kept)).sqrt();
        Some(((wanted + spread) / kept).min(entries).ceil() as u64)
    } else {
        // 0: all rows will be fetched. Other values are Postgres's guesses about a cursor or a LIMIT it cannot see.
        (root.tuple_fraction == 0.0).then_some(entries as u64)
    };
    Expectation {
        rows,
        filtered: clauses || joins,
    }
}

/// # Safety
/// `path` is being costed; the planner holds a lock on its index, or that is a hypothetical one.
unsafe fn estimate(path: &pg_sys::IndexPath, filtered: bool) -> Estimate {
    // SAFETY: by this function's contract; a path has its index, and that its table.
    let (info, table, units) = unsafe {
        let info = &*path.indexinfo;
        let mut page = 0.0;
        pg_sys::get_tablespace_page_costs(info.reltablespace, core::ptr::null_mut(), &mut page);
        let units = Units {
            page,
            operator: pg_sys::cpu_operator_cost,
            tuple: pg_sys::cpu_tuple_cost,
        };
        (info, &*info.rel, units)
    };
    // SAFETY: by this function's contract.
    let facts = unsafe { facts(info, filtered) };
    let entries = info.tuples.max(1.0);
    let table_rows = table.tuples.max(1.0);
    // Rows that pass the filter, as the planner sees it.
    let wanted = path.path.rows.clamp(1.0, table_rows);

    let filter = facts.shape.filter;
    let code_bytes = facts.shape.bytes() as f64 / GROUP as f64;
    let vector_bytes = facts.row_bytes;
    let share = facts.probes / facts.lists;
    let exact = facts.probes >= facts.lists;
    let first_bytes = |row_bytes: f64| {
        if exact || filter == Filter::None {
            code_bytes + row_bytes
        } else {
            code_bytes
        }
    };
    let round = units.entries(share * entries, first_bytes(vector_bytes));
    let startup = SETUP_PAGES * units.page
        + units.entries(facts.lists, first_bytes(facts.centroid_bytes))
        + round
        + units.entries(RERANKED.min(share * entries), vector_bytes);
    let pulled_row =
        units.entries(WIDENED_SHARE as f64, code_bytes + vector_bytes) + round / ROWS_OF_ROUND;

    let read = f64::from(table.pages) * units.page + table_rows * units.tuple;
    let shrink = match facts.value_bytes {
        Some(bytes) if f64::from(table.pages) * PAGE < table_rows * bytes => {
            let counted = read + wanted * SORT_COMPARISONS * 2.0 * units.operator;
            let chunks = (bytes / CHUNK_BYTES).ceil();
            let fetch = (FETCH_TUPLES + CHUNK_TUPLES * chunks) * units.tuple;
            counted / (counted + wanted * fetch)
        }
        _ => 1.0,
    };
    let sort_all = read + 2.0 * units.operator * wanted * (wanted + 1.0).log2();
    let startup = startup * shrink;
    Estimate {
        startup,
        total: (startup + entries * pulled_row * shrink).max(2.0 * sort_all),
        // A partial index has fewer entries than the table rows.
        selectivity: (entries / table_rows).min(1.0),
        pages: (f64::from(info.pages) * share).ceil(),
    }
}

/// # Safety
/// As [`estimate`].
unsafe fn facts(info: &pg_sys::IndexOptInfo, filtered: bool) -> Facts {
    let guess = default_lists(info.tuples.max(0.0) as u64);
    let mut known = None;
    if !info.hypothetical {
        // SAFETY: the planner holds a lock, so the index exists; it is closed in the same breath.
        unsafe {
            let rel = pg_sys::index_open(info.indexoid, pg_sys::NoLock as pg_sys::LOCKMODE);
            known = open_index(&IndexPages::new(rel)).ok().map(|index| {
                let class = OpClass::of(rel).ok();
                let value_bytes = class.map(|class| class.value_bytes(index.meta.dim) as f64);
                (index, value_bytes)
            });
            pg_sys::index_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }
    let rows = known
        .as_ref()
        .map_or(info.tuples.max(0.0) as u64, |(index, _)| {
            index.meta.built_rows
        });
    let effort = guc::effort(rows);
    let lists = known.as_ref().map_or(guess, |(index, _)| index.n_lists());
    let probes = effort.probes(lists).unwrap_or_else(|| match &known {
        Some((index, _)) => {
            index
                .reach_for(recall_wanted(effort.recall(), filtered), 10)
                .probes
        }
        None => (guess / 16).max(1),
    });
    let (shape, words, coarse_dim) = match &known {
        Some((index, _)) => {
            let form = &index.form;
            (index.meta.shape(), form.row_words(), form.coarse_dim())
        }
        None => {
            let shape = GroupShape::new(Filter::for_dim(GUESSED_DIM), GUESSED_DIM);
            (shape, GUESSED_DIM, GUESSED_DIM)
        }
    };
    Facts {
        lists: f64::from(lists),
        probes: f64::from(probes.min(lists)),
        shape,
        row_bytes: row_bytes(words) as f64,
        centroid_bytes: row_bytes(coarse_dim) as f64,
        value_bytes: known.and_then(|(_, bytes)| bytes),
    }
}
