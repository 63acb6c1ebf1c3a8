//! INSERT: one vector into the list with the nearest centroid.

use crate::append::append_entry;
use crate::coarse::nearest_list;
use crate::fold::fold_if_long;
use crate::index::Index;
use crate::store::PageStoreMut;
use crate::{Result, Tid};

/// Inserts the vector `v` (`[dim]`, the user's numbers, finite) of heap row `tid`. False if it is not indexed: the zero
/// vector under cosine has no direction. When this returns, every scan that begins finds the entry.
///
/// Now and then this rewrites the list (`fold.rs`), so that its appendable part stays short without VACUUM.
pub fn insert<S: PageStoreMut>(s: &S, index: &Index, v: &[f32], tid: Tid) -> Result<bool> {
    let Some(stored) = index.to_stored(v)? else {
        return Ok(false);
    };
    let list = nearest_list(s, index, &stored.row)?;
    let entry = append_entry(s, index, list, tid, &stored)?;
    s.note_change(list);
    fold_if_long(s, index, list, &entry)?;
    Ok(true)
}
