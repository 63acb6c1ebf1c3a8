//! `omen_shadow_compare(index, queries, k, exact)`: the same searches by an index, by those beside it, and by a sort of the table.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | the function: runs the searches in turns |
//! | `rivals.rs` | which indexes can answer them, from the catalog |
//! | `check_plan.rs` | whether the planner uses it |
//! | `statement.rs` | runs one search |
//! | `only_index.rs` | plans that have one index to choose from |
//! | `answers.rs` | recall, rows in common, times |
#![allow(unsafe_code)]

mod answers;
mod check_plan;
pub(crate) mod only_index;
mod rivals;
mod statement;

use std::time::Instant;

use pgrx::datum::AnyArray;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::batch::checked_k;
use crate::datatype::elements_of;
use crate::error::{PgError, Result};

use answers::Answers;
use check_plan::check_plan;
use only_index::OnlyIndex;
use rivals::Search;
use statement::Statement;

/// A row of the result. Times are milliseconds.
type Row = (
    Option<pg_sys::Oid>,
    Option<String>,
    i64,
    i64,
    Option<f64>,
    Option<f64>,
    f64,
    f64,
    f64,
    f64,
);

/// A row for `index`, one for each index that answers the same searches, and with `exact` one for a sort of the table.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn omen_shadow_compare(
    index: pg_sys::Oid,
    queries: AnyArray,
    k: i32,
    exact: bool,
) -> TableIterator<
    'static,
    (
        name!(index, Option<pg_sys::Oid>),
        name!(access_method, Option<String>),
        name!(queries, i64),
        name!(rows, i64),
        name!(recall, Option<f64>),
        name!(same_rows, Option<f64>),
        name!(mean_ms, f64),
        name!(median_ms, f64),
        name!(p95_ms, f64),
        name!(max_ms, f64),
    ),
> {
    match Spi::connect(|client| compare(client, index, &queries, k, exact)) {
        Ok(rows) => TableIterator::new(rows),
        Err(error) => error.raise(),
    }
}

fn compare(
    client: &SpiClient,
    index: pg_sys::Oid,
    queries: &AnyArray,
    k: i32,
    exact: bool,
) -> Result<Vec<Row>> {
    let search = Search::of(client, index, checked_k(k)?)?;
    let (element_type, queries) = elements_of(queries)?;
    if element_type != search.value_type {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            "the queries are not of the type that the index is for",
        )
        .with_hint("Cast them, as in ARRAY['[1,2,3]']::vector[], or take ARRAY(SELECT ...) from the column."));
    }
    let _settings = Settings::for_index_scans();
    // Of each index, and of the table.
    let mut contenders: Vec<(Option<pg_sys::Oid>, Answers)> = search
        .rivals
        .iter()
        .map(|rival| (Some(rival.index), Answers::default()))
        .collect();
    if exact {
        contenders.push((None, Answers::default()));
    }
    let mut prepared = Vec::new();
    for (only, _) in &contenders {
        let _only = OnlyIndex::new(search.table, *only);
        let statement = Statement::prepare(&search);
        if let (Some(only), Some(query)) = (only, queries.first()) {
            check_plan(&search, *only, *query)?;
            // What is read for the first time is not timed.
            statement.run(*query);
        }
        prepared.push(statement);
    }
    for query in &queries {
        for ((only, answers), statement) in contenders.iter_mut().zip(&prepared) {
            let _only = OnlyIndex::new(search.table, *only);
            let began = Instant::now();
            let answer = statement.run(*query);
            answers.push(answer, began.elapsed());
        }
    }
    let truth = contenders.iter().find(|(only, _)| only.is_none());
    let row = |(only, answers): &(Option<pg_sys::Oid>, Answers)| {
        let rival = search
            .rivals
            .iter()
            .find(|rival| Some(rival.index) == *only);
        (
            *only,
            rival.map(|rival| rival.access_method.clone()),
            answers.answers.len() as i64,
            answers.n_rows() as i64,
            truth.and_then(|(_, truth)| answers.recall(truth)),
            answers.same_rows(&contenders[0].1),
            answers.mean_ms(),
            answers.quantile_ms(0.5),
            answers.quantile_ms(0.95),
            answers.quantile_ms(1.0),
        )
    };
    Ok(contenders.iter().map(row).collect())
}

/// Settings of the planner until this goes; after an error the abort of the transaction sets them back.
struct Settings {
    level: i32,
}

impl Settings {
    /// An index that orders is always preferred.
    fn for_index_scans() -> Self {
        // SAFETY: on the main thread, in a transaction; names and values are constants.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in [
                (c"enable_seqscan", c"off"),
                (c"enable_sort", c"off"),
                (c"enable_bitmapscan", c"off"),
                (c"enable_indexscan", c"on"),
                (c"omen.enable_scan", c"on"),
                (c"max_parallel_workers_per_gather", c"0"),
                // Of a plan that is not wanted the cost is so high that it would be compiled.
                (c"jit", c"off"),
            ] {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Self { level }
        }
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: on the main thread; the level is ours, and the last one.
            unsafe { pg_sys::AtEOXact_GUC(true, self.level) }
        }
    }
}
