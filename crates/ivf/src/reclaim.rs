//! Gives back pages that a crash left unlinked: of a rewrite that was not completed, or whose old pages were not all freed.

use crate::Result;
use crate::index::{Index, read_entry};
use crate::layout::page;
use crate::list_lock::try_with_list_lock;
use crate::store::{ListLock, PageStoreMut};

/// Frees every page that carries the stamp of a layout its list does not have, and calls `free_page` for every page that
/// is free already (so that the host can rebuild its free space map, which is not crash safe). Reads every page of
/// the index; lists that are locked just now are passed over. Returns the number of pages given back.
///
/// A page that an interrupted insert left behind carries the current stamp and is given back after the list's next fold.
pub fn reclaim<S: PageStoreMut>(
    s: &S,
    index: &Index,
    free_page: &mut dyn FnMut(u32),
) -> Result<u64> {
    let mut n_reclaimed = 0;
    for block in 1..s.n_blocks()? {
        s.check_interrupts()?;
        let (tail, is_free) = s.read(block, |bytes| (page::tail(bytes), page::is_free(bytes)))?;
        if is_free {
            free_page(block);
            continue;
        }
        let list = tail.list;
        if tail.page_id != page::PAGE_ID || list >= index.n_lists() {
            continue;
        }
        if tail.stamp == read_entry(s, index, list)?.layout_gen {
            continue;
        }
        // Only whoever holds the list exclusively makes pages of another layout; so now they are nobody's.
        let freed = try_with_list_lock(s, list, ListLock::Exclusive, || {
            let now = s.read(block, page::tail)?;
            if (now.list, now.stamp) != (list, tail.stamp)
                || now.stamp == read_entry(s, index, list)?.layout_gen
            {
                return Ok(false);
            }
            s.free(block)?;
            Ok(true)
        })?;
        n_reclaimed += u64::from(freed == Some(true));
    }
    Ok(n_reclaimed)
}
