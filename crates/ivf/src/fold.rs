//! VACUUM, second half, and what keeps appendable parts short: rewrites a list with all its live entries frozen.
//!
//! Under the exclusive lock of the list (no insert, no deletion; scans go on):
//! 1. the live entries are read, encoded anew, and written to new pages that carry the next layout generation;
//! 2. one record replaces the directory entry: from here on scans read the new pages;
//! 3. the old pages are freed. Scans still on their way to them see a foreign stamp and start the list again.
//!
//! A crash before 2 leaves unlinked new pages, a crash before the end of 3 unlinked old ones; see `reclaim.rs`.

use crate::frozen_writer::write_frozen;
use crate::index::{Index, check_directory_page, read_entry};
use crate::layout::append;
use crate::layout::directory::{ListEntry, get_entry, put_entry};
use crate::layout::page::{self, PageKind};
use crate::list_lock::{try_with_list_lock, with_list_lock};
use crate::list_reader::{ChainPlace, Visit};
use crate::runs::StreamMap;
use crate::store::{ListLock, PageStoreMut};
use crate::{IvfError, Result};

/// VACUUM folds a list with at least so many appended records (live or dead), and ...
const FOLD_APPENDED: u64 = 32;
/// ... at least this share of its frozen entries, one in so many. (A fold writes the whole list to the WAL and makes
/// the hot tier load it again; scanning a few appended entries more costs less.)
const FOLD_APPENDED_SHARE: u64 = 16;
/// VACUUM folds a list of which more than one entry in so many is dead.
const FOLD_DEAD_SHARE: u64 = 5;
/// An insert folds the list when its appendable part has at least so many records on full pages, ...
const INSERT_FOLD_APPENDED: u64 = 64;
/// ... more than one for so many frozen entries (an appended entry costs a search as much as several frozen ones, whose codes
/// rule most of them out; the fold's cost, spread over the inserts, is a fraction of an insert's) ...
const INSERT_FOLD_SHARE: u64 = 4;
/// ... unless that would rewrite more than so many pages (16 MiB), which no INSERT should have to wait for: a statement
/// that is cancelled in the middle leaves as many unlinked pages behind.
const FOLD_MOST_PAGES: u64 = 2048;

/// What folding did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FoldStats {
    /// Lists rewritten.
    pub lists: u64,
    /// Entries in them afterwards.
    pub entries: u64,
    /// Pages given back.
    pub freed_pages: u64,
}

/// Folds every list where it pays. Called at the end of VACUUM.
pub fn vacuum_fold<S: PageStoreMut>(s: &S, index: &Index) -> Result<FoldStats> {
    let mut stats = FoldStats::default();
    for list in 0..index.n_lists() {
        s.check_interrupts()?;
        // A look without the lock: whatever others add or delete meanwhile only makes folding pay later or more.
        let entry = read_entry(s, index, list)?;
        let frozen = u64::from(entry.frozen_count);
        let many_dead = u64::from(entry.frozen_dead) * FOLD_DEAD_SHARE > frozen;
        let least = u64::from(entry.append_pages.saturating_sub(1))
            * u64::from(append::records_per_page(index.row_words(list)));
        let many_appended = || -> Result<bool> {
            let enough = FOLD_APPENDED.max(frozen / FOLD_APPENDED_SHARE);
            Ok(least >= enough
                || (entry.append_pages > 0
                    && least + tail_records(s, index, list, &entry)? >= enough))
        };
        if many_dead || many_appended()? {
            add(&mut stats, fold_list(s, index, list)?);
        }
    }
    Ok(stats)
}

/// Folds `list`; waits for its lock.
pub fn fold_list<S: PageStoreMut>(s: &S, index: &Index, list: u32) -> Result<FoldStats> {
    with_list_lock(s, list, ListLock::Exclusive, || fold_locked(s, index, list))
}

/// Folds `list` if its appendable part has grown long and nobody else works on it. `entry`: its state after an insert.
pub(crate) fn fold_if_long<S: PageStoreMut>(
    s: &S,
    index: &Index,
    list: u32,
    entry: &ListEntry,
) -> Result<()> {
    let words = index.row_words(list);
    let long = |entry: &ListEntry| {
        let full_pages = u64::from(entry.append_pages.saturating_sub(1));
        let per_page = u64::from(append::records_per_page(words));
        let overflow_pages = full_pages * per_page * append::overflow_pages(words) as u64;
        let appended_pages = u64::from(entry.append_pages) + overflow_pages;
        let frozen_pages = frozen_pages(index, list, entry);
        let frozen = u64::from(entry.n_live());
        full_pages * per_page >= INSERT_FOLD_APPENDED.max(frozen / INSERT_FOLD_SHARE)
            && appended_pages + frozen_pages <= FOLD_MOST_PAGES
    };
    if long(entry) {
        try_with_list_lock(s, list, ListLock::Exclusive, || {
            // Another insert may have folded it just now.
            if long(&read_entry(s, index, list)?) {
                fold_locked(s, index, list).map(|_| ())
            } else {
                Ok(())
            }
        })?;
    }
    Ok(())
}

fn frozen_pages(index: &Index, list: u32, entry: &ListEntry) -> u64 {
    use crate::layout::streams::{code_pages, vector_pages};
    code_pages(entry.frozen_count, index.meta.shape())
        + vector_pages(index.n_rows(list, entry), index.row_words(list))
}

fn tail_records<S: PageStoreMut>(
    s: &S,
    index: &Index,
    list: u32,
    entry: &ListEntry,
) -> Result<u64> {
    let tail = s.read(entry.append_tail, page::tail)?;
    let ours =
        tail.list == list && tail.stamp == entry.layout_gen && tail.kind == PageKind::Append as u16;
    Ok(if ours {
        u64::from(
            tail.n_records
                .min(append::records_per_page(index.row_words(list))),
        )
    } else {
        0
    })
}

fn add(total: &mut FoldStats, one: FoldStats) {
    total.lists += one.lists;
    total.entries += one.entries;
    total.freed_pages += one.freed_pages;
}

fn fold_locked<S: PageStoreMut>(s: &S, index: &Index, list: u32) -> Result<FoldStats> {
    let old = read_entry(s, index, list)?;
    let (directory, seq, offset) = index.entry_address(list);
    let layout_gen = old
        .layout_gen
        .checked_add(1)
        .ok_or_else(|| IvfError::corrupt(directory, "layout generation"))?;
    let old_pages = pages_of(s, index, list, &old)?;
    let frozen = write_frozen(s, index, list, &old, layout_gen)?;
    let new = ListEntry {
        delete_gen: old.delete_gen,
        append_delete_gen: old.append_delete_gen,
        frozen_count: frozen.count,
        code_run: frozen.code_run,
        vector_run: frozen.vector_run,
        map_head: frozen.map_head,
        radius: frozen.radius,
        ..ListEntry::empty(layout_gen)
    };
    let mut checked = Ok(());
    s.update(&[directory], |pages| {
        checked = check_directory_page(pages[0], directory, seq);
        if checked.is_ok()
            && bytemuck::bytes_of(&get_entry(pages[0], offset)) != bytemuck::bytes_of(&old)
        {
            checked = Err(IvfError::corrupt(
                directory,
                format!("list {list} changed while it was locked"),
            ));
        }
        if checked.is_ok() {
            put_entry(pages[0], offset, &new);
        }
        checked.is_ok()
    })?;
    s.note_change(list);
    checked?;
    for &block in &old_pages {
        s.check_interrupts()?;
        free_page(s, list, old.layout_gen, block)?;
    }
    Ok(FoldStats {
        lists: 1,
        entries: u64::from(frozen.count),
        freed_pages: old_pages.len() as u64,
    })
}

/// Frees a page of an old layout, after a look at its tail: a damaged list must not take pages from another.
fn free_page<S: PageStoreMut>(s: &S, list: u32, stamp: u32, block: u32) -> Result<()> {
    let tail = s.read(block, page::tail)?;
    if (tail.page_id, tail.list, tail.stamp) != (page::PAGE_ID, list, stamp) {
        return Err(IvfError::corrupt(
            block,
            format!("not a page of list {list}, which refers to it"),
        ));
    }
    s.free(block)
}

/// All pages of a list's layout. The list must be locked.
fn pages_of<S: PageStoreMut>(
    s: &S,
    index: &Index,
    list: u32,
    entry: &ListEntry,
) -> Result<Vec<u32>> {
    let foreign = |block| {
        IvfError::corrupt(
            block,
            format!("not a page of list {list}, which refers to it"),
        )
    };
    let mut map = StreamMap::default();
    if map.resolve(s, index, list, entry)? == Visit::Changed {
        return Err(foreign(entry.map_head));
    }
    let mut pages: Vec<u32> = map
        .code
        .blocks()
        .chain(map.vector.blocks())
        .chain(map.maps.iter().copied())
        .collect();
    let words = index.row_words(list);
    let mut place = ChainPlace::head(entry);
    while let Some(at) = place {
        index.check_block(s, at.from, "appendable part", at.block)?;
        s.check_interrupts()?;
        let n_overflow = append::overflow_pages(words);
        let start = pages.len() + 1;
        pages.push(at.block);
        let tail = s.read(at.block, |page| {
            let tail = page::tail(page);
            if n_overflow > 0 {
                for i in 0..tail.n_records.min(append::records_per_page(words)) {
                    let offset = append::record_offset(i, words);
                    let payload = append::payload(page, offset, words);
                    pages.extend_from_slice(&append::overflow_blocks(payload)[..n_overflow]);
                }
            }
            tail
        })?;
        if !tail.is(PageKind::Append, list, entry.layout_gen, at.seq) {
            return Err(foreign(at.block));
        }
        for &block in &pages[start..] {
            index.check_block(s, at.block, "overflow", block)?;
        }
        place = at.next(tail.next);
    }
    Ok(pages)
}
