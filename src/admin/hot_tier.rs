//! `omen_load(regclass)` and `omen_evict(regclass)`: hot tiers by hand, this session's or the shared service's.
#![allow(unsafe_code)]

use pgrx::prelude::*;

use crate::engine::residence;
use crate::engine::service_tiers::{Serving, key_of, who_serves};
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
    let bytes = residence::load(&pages, &open, &named.name(), named.is_owned())?;
    named.close();
    Ok(bytes)
}

fn evict(index: Option<pg_sys::Oid>) -> Result<u64> {
    let Some(index) = index else {
        let own = residence::evict(None);
        return match who_serves() {
            Serving::Service(service) if is_superuser() => {
                Ok(own + residence::evict_shared(service, None)?)
            }
            _ => Ok(own),
        };
    };
    let named = NamedIndex::open(index)?;
    let pages = named.pages();
    let mut bytes = residence::evict(Some(pages.file()));
    if let Serving::Service(service) = who_serves() {
        let open = open_index(&pages)?;
        let key = key_of(&pages, &open);
        // One's own is anybody's to give up.
        if bytes == 0 {
            named.check_owner()?;
        }
        if named.is_owned() {
            bytes += residence::evict_shared(service, Some(&key))?;
        }
    }
    named.close();
    Ok(bytes)
}

fn is_superuser() -> bool {
    // SAFETY: asks for the current user's rights, inside a transaction.
    unsafe { pg_sys::superuser() }
}

fn or_raise<T>(outcome: Result<T>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => error.raise(),
    }
}
