//! `omen_search()`: the nearest rows of many queries in one call.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | the SQL function: arguments and checks |
//! | `rounds.rs` | rounds of a batch, until every query has its rows |
//! | `item.rs` | a candidate: bounds of its distance, its row |
//! | `visible.rs` | which row versions the index's entries stand for |
//! | `heap_pages.rs` | the same for a heap, a page at a time |
//! | `neighbours.rs` | what was found |
//! | `result.rs` | the rows of the function |
//!
//! A scan hands its candidates to the executor, which looks for their rows, computes the operator and orders by it. Here the
//! order is that of the index's own bounds, so that no vector is fetched from the table, and rows are looked up for all
//! queries together, in the order of the table's pages.
#![allow(unsafe_code)]

mod heap_pages;
mod item;
mod neighbours;
mod result;
mod rounds;
mod visible;

use omen_ivf::VectorKind;
use omen_ivf::index::Index;
use omen_ivf::params::MAX_LISTS;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::am::OpClass;
use crate::compat;
use crate::datatype::vector::{VectorArray, VectorRef};
use crate::engine::stats::{self, ScanRecord};
use crate::error::{PgError, Result};
use crate::guc::{self, Effort};
use crate::named_index::NamedIndex;
use crate::privilege;
use crate::storage::open_index;
use result::Rows;
use rounds::{Batch, most_queries};
use visible::VisibleRows;

/// Most rows a query may ask for.
const MAX_K: i32 = 100_000;
/// Bytes of queries that are worked on at a time, and queries at most.
const CHUNK_BYTES: usize = 64 << 20;
const CHUNK_QUERIES: usize = 16_384;

/// `omen_search(index regclass, queries vector[], k integer, probes integer)`: rows (query_no, ctid, distance). None if an argument
/// other than `probes` is NULL.
#[pg_extern(sql = false)]
fn omen_search(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: Postgres passes the four arguments of the declaration, and what a set-returning function gets.
    let outcome = unsafe {
        let argument = |i: usize| {
            let argument = &*(*fcinfo).args.as_ptr().add(i);
            (!argument.isnull).then_some(argument.value)
        };
        Rows::begin(fcinfo).and_then(|mut rows| {
            let (Some(index), Some(queries), Some(k)) = (argument(0), argument(1), argument(2))
            else {
                return Ok(());
            };
            let index = pg_sys::Oid::from(index.value() as u32);
            let k = checked_k(k.value() as i32)?;
            let probes = checked_probes(argument(3).map(|probes| probes.value() as i32))?;
            let queries = VectorArray::from_datum(queries)?;
            search(index, &queries, k, probes, &mut rows)
        })
    };
    if let Err(error) = outcome {
        error.raise();
    }
}

/// Errors: a k that no search takes.
pub(crate) fn checked_k(k: i32) -> Result<usize> {
    if (1..=MAX_K).contains(&k) {
        return Ok(k as usize);
    }
    Err(PgError::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("k must be from 1 to {MAX_K}, not {k}"),
    )
    .with_hint("ORDER BY with LIMIT returns as many rows as there are, for one query at a time."))
}

fn checked_probes(probes: Option<i32>) -> Result<Option<u32>> {
    match probes {
        None => Ok(None),
        Some(probes) if probes >= 1 => Ok(Some((probes as u32).min(MAX_LISTS))),
        Some(probes) => Err(PgError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("probes must be at least 1, not {probes}"),
        )
        .with_hint("NULL visits as many lists as omen.probes or omen.recall say.")),
    }
}

/// Searches, and puts what is found to `rows`. `probes`: lists to visit, where the settings are not to say.
fn search(
    index: pg_sys::Oid,
    queries: &VectorArray,
    k: usize,
    probes: Option<u32>,
    rows: &mut Rows,
) -> Result<()> {
    let named = NamedIndex::open(index)?;
    check_searchable(&named)?;
    // SAFETY: the index is open and of our access method.
    let class = unsafe { OpClass::of(named.index()) }?;
    check_kind(&named, class)?;
    let metric = class.metric;
    let pages = named.pages();
    let open = open_index(&pages)?;
    check_dims(&open, queries)?;

    let effort = probes.map_or_else(|| guc::effort(open.meta.built_rows), Effort::Lists);
    let vectors = queries.vectors();
    let mut record = ScanRecord {
        // SAFETY: the index is open.
        relation: unsafe { (*named.index()).rd_id.to_u32() },
        queries: vectors.len() as u64,
        lists: open.n_lists(),
        ..ScanRecord::default()
    };
    let mut visible = VisibleRows::begin(&named, metric)?;
    // SAFETY: the index is open, the snapshot that of `begin`.
    unsafe {
        compat::count_index_scans(named.index(), vectors.len() as i64);
        compat::predicate_lock_relation(named.index(), visible.snapshot());
    }
    let chunk = (CHUNK_BYTES / (4 * open.dim())).min(most_queries(k));
    let chunk = chunk.clamp(1, CHUNK_QUERIES);
    let mut query_no = queries.first_subscript();
    for vectors in vectors.chunks(chunk) {
        let batch = Batch::new(&pages, &open, vectors, k, effort);
        for neighbours in batch.search(&mut visible, &mut record)?.by_query() {
            for neighbour in neighbours {
                rows.put(query_no, neighbour.row, neighbour.distance);
            }
            record.rows += neighbours.len() as u64;
            query_no = query_no.wrapping_add(1);
        }
    }
    visible.end();
    stats::finish_batch(&record);
    named.close_locked();
    Ok(())
}

/// Errors: what keeps the planner from using the index, and policies that hide rows from the user.
fn check_searchable(named: &NamedIndex) -> Result<()> {
    // SAFETY: index and table are open; the catalog row has the index's creator as xmin.
    unsafe {
        let (index, table, name) = (named.index(), named.table(), named.name());
        let form = &*(*index).rd_index;
        if !form.indisvalid {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("index \"{name}\" is not valid"),
            )
            .with_hint("REINDEX it, or wait until it is built."));
        }
        if form.indcheckxmin && !is_old_enough(index) {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("index \"{name}\" lacks rows that this transaction can see"),
            )
            .with_hint("Search in a transaction that began after the index was built."));
        }
        if privilege::hides_rows((*table).rd_id) {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("row-level security hides rows of the table of index \"{name}\""),
            )
            .with_hint(
                "Use ORDER BY with LIMIT, which obeys its policies, or a role that bypasses them.",
            ));
        }
    }
    Ok(())
}

/// Whether all rows that this transaction may see are in an index with `indcheckxmin`, as the planner finds out.
///
/// # Safety
/// `index` is an open index.
unsafe fn is_old_enough(index: pg_sys::Relation) -> bool {
    // SAFETY: by this function's contract.
    unsafe {
        let row = (*(*index).rd_indextuple).t_data;
        let frozen = pg_sys::HEAP_XMIN_FROZEN as u16;
        if (*row).t_infomask & frozen == frozen {
            return true;
        }
        let xmin = (*row).t_choice.t_heap.t_xmin;
        pg_sys::TransactionIdPrecedes(xmin, pg_sys::TransactionXmin)
    }
}

/// Errors: an index whose queries are no vectors.
fn check_kind(named: &NamedIndex, class: OpClass) -> Result<()> {
    if class.kind() == VectorKind::Half {
        return Ok(());
    }
    Err(PgError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!(
            "omen_search() searches for vectors, and index \"{}\" has {}",
            named.name(),
            class.kind().name()
        ),
    )
    .with_hint("Use ORDER BY with LIMIT."))
}

fn check_dims(index: &Index, queries: &VectorArray) -> Result<()> {
    let wrong = |&(_, vector): &(usize, &VectorRef)| vector.dim() != index.dim();
    match queries.vectors().iter().enumerate().find(wrong) {
        None => Ok(()),
        Some((i, vector)) => Err(PgError::new(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!(
                "different vector dimensions {} and {}",
                index.dim(),
                vector.dim()
            ),
        )
        .with_detail(format!(
            "That is query {}.",
            i64::from(queries.first_subscript()) + i as i64
        ))
        .with_hint("All queries need the dimension of the index.")),
    }
}
