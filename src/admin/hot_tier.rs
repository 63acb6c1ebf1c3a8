//! `omen_load(regclass)` and `omen_evict(regclass)`: this session's hot tiers by hand.

use pgrx::prelude::*;

use crate::engine::residence;
use crate::error::Result;
use crate::named_index::NamedIndex;
use crate::storage::open_index;

/// Loads the hot tier of an index into this session's device; its bytes there.
#[pg_extern(sql = false)]
fn omen_load(index: pg_sys::Oid) -> i64 {
    or_raise(load(index)) as i64
}

/// Frees the hot tier of an index, or with NULL all of the session; the bytes freed.
#[pg_extern(sql = false)]
fn omen_evict(index: Option<pg_sys::Oid>) -> i64 {
    or_raise(evict(index)) as i64
}

fn load(index: pg_sys::Oid) -> Result<u64> {
    let named = NamedIndex::open(index)?;
    let pages = named.pages();
    let open = open_index(&pages)?;
    let bytes = residence::load(&pages, &open, &named.name())?;
    named.close();
    Ok(bytes)
}

fn evict(index: Option<pg_sys::Oid>) -> Result<u64> {
    let Some(index) = index else {
        return Ok(residence::evict(None));
    };
    let named = NamedIndex::open(index)?;
    let bytes = residence::evict(Some(named.pages().file()));
    named.close();
    Ok(bytes)
}

fn or_raise<T>(outcome: Result<T>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => error.raise(),
    }
}
