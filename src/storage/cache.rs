//! Open indexes of this session: the metapage is frozen at the build, so it is read once per file.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use omen_ivf::index::Index;
use pgrx::pg_sys;

use super::{IndexPages, catalog};
use crate::compat::{self, FileId};
use crate::error::Result;

/// More than this many are forgotten at once; each is a few kB, and once searched has its centroids, which `omen_ivf`
/// keeps within a limit for all indexes together.
const MAX_INDEXES: usize = 256;

struct Cached {
    relation: pg_sys::Oid,
    index: Rc<Index>,
}

#[derive(Default)]
struct Cache {
    listening: bool,
    indexes: HashMap<FileId, Cached>,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// Counts what Postgres says about changed relations, from the first [`open_index`] on: while it stays the same, every
/// relation has its file.
pub(crate) fn relation_changes() -> u64 {
    CHANGES.get()
}

/// The index in `pages`. Errors: no index of ours, damaged, not of the column's dimension and metric, or of another format version.
pub(crate) fn open_index(pages: &IndexPages) -> Result<Rc<Index>> {
    let (file, relation) = (pages.file(), pages.relation());
    let cached = CACHE.with_borrow(|cache| cache.indexes.get(&file).map(|c| c.index.clone()));
    if let Some(index) = cached {
        return Ok(index);
    }
    let index = Rc::new(Index::open(pages)?);
    // SAFETY: `pages` are those of an open index of ours.
    unsafe { catalog::check(pages.rel(), &index)? };
    CACHE.with_borrow_mut(|cache| {
        if !cache.listening {
            // SAFETY: main thread; the callback lives as long as the process.
            unsafe {
                pg_sys::CacheRegisterRelcacheCallback(
                    Some(forget_relation),
                    pg_sys::Datum::from(0),
                );
            }
            cache.listening = true;
        }
        if cache.indexes.len() >= MAX_INDEXES {
            cache.indexes.clear();
        }
        cache.indexes.insert(
            file,
            Cached {
                relation,
                index: index.clone(),
            },
        );
    });
    Ok(index)
}

/// Forgets the index in `rel`'s file: it is about to be built there again (TRUNCATE of a table made in the same
/// transaction, or at commit of a temporary one, keeps the file).
///
/// # Safety
/// `rel` is open.
pub(crate) unsafe fn forget_index(rel: pg_sys::Relation) {
    // SAFETY: by this function's contract.
    let file = unsafe { compat::file_id(rel) };
    CACHE.with_borrow_mut(|cache| cache.indexes.remove(&file));
}

/// Postgres says that `relation` (or, if invalid, any) has changed. Called anywhere: touches our memory alone.
unsafe extern "C-unwind" fn forget_relation(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    CHANGES.set(CHANGES.get() + 1);
    CACHE.with(|cache| {
        if let Ok(mut cache) = cache.try_borrow_mut() {
            if relation == pg_sys::InvalidOid {
                cache.indexes.clear();
            } else {
                cache.indexes.retain(|_, c| c.relation != relation);
            }
        }
    });
}
