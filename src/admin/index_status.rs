//! `omen_index_status(regclass)`: what an index holds, on disk and on this session's GPU.

use omen_ivf::index::{Index, read_entries};
use omen_ivf::layout::group::Filter;
use omen_ivf::store::{PAGE_BYTES, PageStore};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::engine::service_tiers::{Serving, key_of, who_serves};
use crate::engine::status;
use crate::error::Result;
use crate::named_index::NamedIndex;
use crate::options::{self, Hot};
use crate::storage::{IndexPages, open_index};

type Row = (
    i64,
    i32,
    i32,
    String,
    i32,
    i32,
    i64,
    i64,
    i64,
    String,
    Option<TimestampWithTimeZone>,
    i64,
    Option<f64>,
    i32,
    i64,
    String,
    String,
);

/// Microseconds from the Unix epoch to that of Postgres, 2000-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// One row. Raises an error if `index` is no omen index, is damaged, or may not be read by the caller.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn omen_index_status(
    index: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(rows, i64),
        name!(lists, i32),
        name!(dimension, i32),
        name!(metric, String),
        name!(format_version, i32),
        name!(default_probes, i32),
        name!(appended_rows, i64),
        name!(dead_rows, i64),
        name!(bytes, i64),
        name!(codes, String),
        name!(built_at, Option<TimestampWithTimeZone>),
        name!(rows_at_build, i64),
        name!(drift, Option<f64>),
        name!(calibration_queries, i32),
        name!(hot_tier_bytes, i64),
        name!(hot_tier_state, String),
        name!(stored_as, String),
    ),
> {
    let row = NamedIndex::open(index).and_then(|named| {
        let row = read(&named);
        named.close();
        row
    });
    match row {
        Ok(row) => TableIterator::once(row),
        Err(error) => error.raise(),
    }
}

/// Bytes and state of the index's tier in the shared service, if that serves this session and has one.
fn shared_tier(pages: &IndexPages, index: &Index) -> Option<(u64, String)> {
    let Serving::Service(service) = who_serves() else {
        return None;
    };
    let key = key_of(pages, index);
    let bytes = service.control.tier_bytes(&key)?;
    let codes_alone = service.control.has_codes_alone(&key);
    let kind = if codes_alone { ", codes alone" } else { "" };
    Some((bytes, format!("loaded, shared{kind}")))
}

fn read(named: &NamedIndex) -> Result<Row> {
    let pages = named.pages();
    let index = open_index(&pages)?;
    let counts = omen_ivf::count::count(&pages, &index)?;
    let (tier_bytes, tier_state) = match status::status_of(pages.file(), &index) {
        None if options::hot_of(&pages) == Hot::Off => (0, "off".to_owned()),
        None => match index.cpu_only() {
            Some(why) => (0, format!("none, {why}")),
            None => shared_tier(&pages, &index).unwrap_or((0, "not loaded".to_owned())),
        },
        Some(tier) => {
            let lists: Vec<u32> = (0..index.n_lists()).collect();
            let entries = read_entries(&pages, &index, &lists)?;
            let current = entries
                .iter()
                .zip(&tier.lists)
                .filter(|(e, l)| **l == Some((e.layout_gen, e.delete_gen)))
                .count();
            let mut state = "loaded".to_owned();
            if !tier.kind.is_empty() {
                state += &format!(", {}", tier.kind);
            }
            if current < entries.len() {
                state += &format!(", {current} of {} lists current", entries.len());
            }
            (tier.bytes, state)
        }
    };
    let built = index.meta.built_rows;
    Ok((
        counts.live() as i64,
        index.n_lists() as i32,
        index.dim() as i32,
        index.metric().name().to_owned(),
        index.meta.version as i32,
        index.reach_for(crate::guc::recall(), 10).probes as i32,
        counts.appended as i64,
        counts.frozen_dead as i64,
        i64::from(pages.n_blocks()?) * PAGE_BYTES as i64,
        codes_of(&index).to_owned(),
        built_at(&index),
        built as i64,
        (built > 0).then(|| (counts.live() as f64 - built as f64) / built as f64),
        index.meta.calibration_queries as i32,
        tier_bytes as i64,
        tier_state,
        index.form.kind().name().to_owned(),
    ))
}

/// When the index was built; `None` if its metapage has no time that Postgres could show.
fn built_at(index: &Index) -> Option<TimestampWithTimeZone> {
    let micros = index.meta.built_at.checked_sub(POSTGRES_EPOCH)?;
    TimestampWithTimeZone::try_from(micros).ok()
}

/// What the filter reads.
fn codes_of(index: &Index) -> &'static str {
    match index.meta.shape().filter {
        Filter::None => "none",
        Filter::OneBit => "1 bit",
        Filter::FourBit => "4 bits",
    }
}
