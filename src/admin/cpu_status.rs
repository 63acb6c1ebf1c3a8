//! `omen_cpu_status()`: the instructions that searches on the CPU use.

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::threads;

/// One row.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn omen_cpu_status() -> TableIterator<
    'static,
    (
        name!(simd, String),
        name!(available, String),
        name!(threads, i32),
        name!(note, Option<String>),
    ),
> {
    let mut available: Vec<&str> = omen_distance::variants()
        .iter()
        .map(|variant| variant.isa().name())
        .collect();
    available.dedup();
    TableIterator::once((
        omen_distance::isa().name().to_owned(),
        available.join(", "),
        threads::count() as i32,
        omen_distance::isa_note(),
    ))
}
