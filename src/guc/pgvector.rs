//! What applications set for pgvector's indexes: read, never defined, as their names are pgvector's.
//!
//! They count while the corresponding setting of ours has its default value. `GetConfigOption` finds them whether pgvector's
//! library is loaded, which checks them, or not: then they are text that nobody has checked.
#![allow(unsafe_code)]

use core::ffi::CStr;

use pgrx::pg_sys;

use super::IterativeScan;

/// Default of `hnsw.ef_search`, and the values that pgvector takes.
const EF_SEARCH: (i32, core::ops::RangeInclusive<i32>) = (40, 1..=1000);
/// Default of `ivfflat.probes`, and the values that pgvector takes.
const PROBES: (i32, core::ops::RangeInclusive<i32>) = (1, 1..=32768);
/// The least share of the nearest rows that is aimed at, however small `hnsw.ef_search` is.
const LEAST_RECALL: f32 = 0.5;

/// The recall to aim at by `hnsw.ef_search`, if that is not at its default.
///
/// `1 - 2/ef_search`: a graph search that keeps so many candidates misses about that share of the ten nearest rows on data
/// of ordinary difficulty. pgvector's default, 40, corresponds to that of `omen.recall`, 0.95.
pub(super) fn recall() -> Option<f32> {
    let ef_search = number(c"hnsw.ef_search", &EF_SEARCH)?;
    Some((1.0 - 2.0 / ef_search as f32).max(LEAST_RECALL))
}

/// The share of a table of `rows` rows that `ivfflat.probes`, if that is not at its default, has searched in an index with as many lists as pgvector's
/// documentation advises: a thousandth of the rows up to a million, their square root beyond.
pub(super) fn share(rows: u64) -> Option<f64> {
    let probes = number(c"ivfflat.probes", &PROBES)?;
    let rows = rows as f64;
    let lists = if rows <= 1e6 { rows / 1e3 } else { rows.sqrt() };
    Some((f64::from(probes) / lists.max(1.0)).min(1.0))
}

/// What `hnsw.iterative_scan`, or else `ivfflat.iterative_scan`, says, if one is not `off`, which is their default.
pub(super) fn iterative_scan() -> Option<IterativeScan> {
    [c"hnsw.iterative_scan", c"ivfflat.iterative_scan"]
        .into_iter()
        .find_map(|name| match value(name)?.to_bytes() {
            b"strict_order" => Some(IterativeScan::StrictOrder),
            b"relaxed_order" => Some(IterativeScan::RelaxedOrder),
            _ => None,
        })
}

/// A number that is not the default; `None` for what pgvector would not take either.
fn number(name: &CStr, (default, range): &(i32, core::ops::RangeInclusive<i32>)) -> Option<i32> {
    let number = value(name)?.to_str().ok()?.trim().parse().ok()?;
    (number != *default && range.contains(&number)).then_some(number)
}

/// The value of a setting; `None` if nobody has defined or set it.
fn value(name: &CStr) -> Option<&CStr> {
    // SAFETY: on the main thread; the result is null or a string that lives until the setting changes, and is read at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value))
    }
}
