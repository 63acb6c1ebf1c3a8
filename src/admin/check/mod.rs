//! `omen_check(index, heap_all_indexed)` and `omen_check_findings(index, heap_all_indexed)`: whether an index is sound.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | the SQL functions: an error or a row of figures; a row a finding |
//! | `run.rs` | locks, snapshot, the check itself |
//! | `table.rs` | the table's rows against the index |

mod run;
mod table;

use omen_ivf::check::{CheckReport, Finding};
use omen_ivf::layout::page::ROOT_LIST;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::error::{PgError, Result};
use run::{Checked, check};

/// Findings that the error tells, after the first.
const TOLD: usize = 10;

/// One row of figures. Raises an error if anything is wrong with the index.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn omen_check(
    index: pg_sys::Oid,
    heap_all_indexed: bool,
) -> TableIterator<
    'static,
    (
        name!(pages, i64),
        name!(free_pages, i64),
        name!(leaked_pages, i64),
        name!(entries, i64),
        name!(appended_entries, i64),
        name!(dead_entries, i64),
        name!(rows_checked, Option<i64>),
        name!(complete, bool),
    ),
> {
    let checked = match check(index, heap_all_indexed).and_then(sound) {
        Ok(checked) => checked,
        Err(error) => error.raise(),
    };
    let report = &checked.report;
    TableIterator::once((
        i64::from(checked.n_blocks),
        report.free_pages as i64,
        report.leaked_pages as i64,
        (report.frozen + report.appended) as i64,
        report.appended as i64,
        (report.frozen_dead + report.appended_dead) as i64,
        heap_all_indexed.then_some(report.rows_checked as i64),
        is_complete(report),
    ))
}

/// A row for each finding; none of a sound index.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn omen_check_findings(
    index: pg_sys::Oid,
    heap_all_indexed: bool,
) -> TableIterator<
    'static,
    (
        name!(severity, String),
        name!(list, Option<i32>),
        name!(block, Option<i64>),
        name!(what, String),
    ),
> {
    let report = match check(index, heap_all_indexed) {
        Ok(checked) => checked.report,
        Err(error) => error.raise(),
    };
    let notes = notes(&report);
    let findings = report.problems.into_iter().map(|finding| {
        let (list, what) = match finding.list {
            Some(ROOT_LIST) => (None, format!("list of centroids: {}", finding.what)),
            list => (list.map(|list| list as i32), finding.what),
        };
        ("error".to_owned(), list, finding.block.map(i64::from), what)
    });
    let notes = notes
        .into_iter()
        .map(|note| ("note".to_owned(), None, None, note));
    TableIterator::new(findings.chain(notes))
}

/// Errors: there are findings.
fn sound(checked: Checked) -> Result<Checked> {
    let report = &checked.report;
    let Some(first) = report.problems.first() else {
        return Ok(checked);
    };
    let error = PgError::new(
        PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
        format!("index \"{}\" is damaged: {first}", checked.name),
    )
    .with_hint("REINDEX the index. omen_check_findings() gives a row for each finding.");
    if report.n_findings == 1 {
        return Err(error);
    }
    let next = report.problems.iter().skip(1).take(TOLD);
    let next: Vec<String> = next.map(Finding::to_string).collect();
    let n = report.n_findings;
    Err(error.with_detail(format!("{n} findings. Next:\n{}", next.join("\n"))))
}

/// Whether all was checked that was to be.
fn is_complete(report: &CheckReport) -> bool {
    !report.has_changed && report.unsettled_lists == 0
}

/// What is worth knowing, and no damage.
fn notes(report: &CheckReport) -> Vec<String> {
    let mut notes = Vec::new();
    let n_more = report.n_findings - report.problems.len() as u64;
    if n_more > 0 {
        notes.push(format!("{n_more} more findings"));
    }
    if report.leaked_pages > 0 {
        notes.push(format!(
            "{} pages are left over from a crash or a cancelled statement; VACUUM gives them back when there are many",
            report.leaked_pages
        ));
    }
    if report.unsettled_lists > 0 {
        notes.push(format!(
            "{} lists changed each time they were read, and were not checked",
            report.unsettled_lists
        ));
    }
    if !is_complete(report) {
        notes.push(
            "lists changed meanwhile: that no page and no heap row occurs twice was not checked"
                .into(),
        );
    }
    notes
}
