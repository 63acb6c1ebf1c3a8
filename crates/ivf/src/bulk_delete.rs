//! VACUUM, first half: marks entries of dead heap rows as dead, so that their tids may be used again.
//!
//! List by list, under the shared lock of the list, which keeps its layout (no fold moves entries past us) but lets
//! inserts go on: the rows they add are not dead. The caller's test runs while no page is locked.

use std::ops::ControlFlow;

use crate::index::{Index, check_directory_page, read_entry};
use crate::layout::append;
use crate::layout::directory::{ListEntry, get_entry, put_entry};
use crate::layout::group::{GROUP, LIVE_LINE, LIVE_OFFSET};
use crate::layout::page::{self, CONTENT_START, LINE_BYTES, PageKind};
use crate::layout::streams;
use crate::list_lock::with_list_lock;
use crate::list_reader::{ChainPlace, ListReader, Visit};
use crate::store::{ListLock, MAX_UPDATE_PAGES, PageStoreMut};
use crate::{IvfError, Result, Tid};

/// Groups whose tids are held in memory at once.
const GROUPS_AT_ONCE: u32 = 4096;

/// What [`bulk_delete`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeleteStats {
    /// Entries marked dead by this call.
    pub removed: u64,
    /// Live entries left.
    pub remaining: u64,
}

/// Marks every entry whose tid `is_dead`. When it returns, no scan that begins finds any of them, and no hot tier
/// loaded earlier is valid for the lists concerned (`ListEntry::delete_gen`).
pub fn bulk_delete<S: PageStoreMut>(
    s: &S,
    index: &Index,
    is_dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<DeleteStats> {
    let mut stats = DeleteStats::default();
    let mut reader = ListReader::new();
    for list in 0..index.n_lists() {
        with_list_lock(s, list, ListLock::Shared, || {
            let entry = read_entry(s, index, list)?;
            let dead = delete_frozen(s, index, &mut reader, list, &entry, is_dead)?;
            stats.removed += u64::from(dead);
            stats.remaining += u64::from(entry.n_live()).saturating_sub(u64::from(dead));
            delete_appended(s, index, list, &entry, is_dead, &mut stats)
        })?;
    }
    Ok(stats)
}

/// Entries of a group to be marked dead.
struct Dead {
    group: u32,
    mask: u32,
}

fn delete_frozen<S: PageStoreMut>(
    s: &S,
    index: &Index,
    reader: &mut ListReader,
    list: u32,
    entry: &ListEntry,
    is_dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<u32> {
    let n_groups = streams::n_groups(entry.frozen_count);
    let (mut removed, mut first) = (0, 0);
    let mut tids: Vec<(u32, u32, Tid)> = Vec::new();
    while first < n_groups {
        let end = n_groups.min(first + GROUPS_AT_ONCE);
        tids.clear();
        let visit = reader.headers(s, index, list, entry, first..end, |group, header| {
            let live = (0..GROUP).filter(|i| header.live & (1 << i) != 0);
            tids.extend(live.map(|i| {
                (
                    group,
                    i as u32,
                    Tid::new(header.tid_block[i], header.tid_offset[i]),
                )
            }));
            ControlFlow::Continue(())
        })?;
        if visit == Visit::Changed {
            return Err(foreign_pages(index, list));
        }
        let mut dead: Vec<Dead> = Vec::new();
        for &(group, lane, tid) in &tids {
            if is_dead(tid) {
                match dead.last_mut() {
                    Some(last) if last.group == group => last.mask |= 1 << lane,
                    _ => dead.push(Dead {
                        group,
                        mask: 1 << lane,
                    }),
                }
            }
        }
        removed += clear_live(s, index, reader, list, entry, &dead)?;
        first = end;
    }
    Ok(removed)
}

/// Clears live bits, a few pages a record, each record with the directory page: whoever sees the bits cleared sees
/// the deletion generation raised too, also on a standby.
fn clear_live<S: PageStoreMut>(
    s: &S,
    index: &Index,
    reader: &ListReader,
    list: u32,
    entry: &ListEntry,
    dead: &[Dead],
) -> Result<u32> {
    let lines = index.meta.shape().lines() as u64;
    let position = |d: &Dead| streams::line_position(u64::from(d.group) * lines + LIVE_LINE as u64);
    let pages: Vec<&[Dead]> = dead
        .chunk_by(|a, b| position(a).0 == position(b).0)
        .collect();
    let (directory, seq, offset) = index.entry_address(list);
    let mut removed = 0;
    for record in pages.chunks(MAX_UPDATE_PAGES - 1) {
        s.check_interrupts()?;
        let page_nos: Vec<u32> = record
            .iter()
            .map(|page| position(&page[0]).0 as u32)
            .collect();
        let mut blocks = vec![directory];
        blocks.extend(
            page_nos
                .iter()
                .map(|&page_no| reader.map.code.block(page_no)),
        );
        let mut checked = Ok(());
        let mut cleared = 0;
        s.update(&blocks, |images| {
            let (head, code_pages) = images.split_at_mut(1);
            checked = check_directory_page(head[0], directory, seq);
            for ((image, page), &page_no) in code_pages.iter_mut().zip(record).zip(&page_nos) {
                if !page::tail(image).is(PageKind::Code, list, entry.layout_gen, page_no) {
                    checked = Err(foreign_pages(index, list));
                }
                for d in *page {
                    cleared += clear_mask(
                        image,
                        CONTENT_START + position(d).1 * LINE_BYTES + LIVE_OFFSET,
                        d.mask,
                    );
                }
            }
            let mut now = get_entry(head[0], offset);
            if checked.is_ok() && (now.layout_gen != entry.layout_gen || cleared > now.n_live()) {
                checked = Err(IvfError::corrupt(
                    directory,
                    format!("counts of list {list} are wrong"),
                ));
            }
            if checked.is_err() || cleared == 0 {
                return false;
            }
            now.frozen_dead += cleared;
            now.delete_gen = now.delete_gen.wrapping_add(1);
            put_entry(head[0], offset, &now);
            true
        })?;
        s.note_change(list);
        checked?;
        removed += cleared;
    }
    Ok(removed)
}

/// Clears the bits of `mask` in the live mask at byte `at`; returns how many were set.
fn clear_mask(page: &mut [u8], at: usize, mask: u32) -> u32 {
    let live: u32 = bytemuck::pod_read_unaligned(&page[at..at + 4]);
    page[at..at + 4].copy_from_slice(&(live & !mask).to_ne_bytes());
    (live & mask).count_ones()
}

fn delete_appended<S: PageStoreMut>(
    s: &S,
    index: &Index,
    list: u32,
    entry: &ListEntry,
    is_dead: &mut dyn FnMut(Tid) -> bool,
    stats: &mut DeleteStats,
) -> Result<()> {
    let words = index.row_words(list);
    let mut place = ChainPlace::head(entry);
    let mut live: Vec<(usize, Tid)> = Vec::new();
    while let Some(at) = place {
        index.check_block(s, at.from, "appendable part", at.block)?;
        s.check_interrupts()?;
        live.clear();
        let tail = s.read(at.block, |page| {
            let tail = page::tail(page);
            for i in 0..tail.n_records.min(append::records_per_page(words)) {
                let offset = append::record_offset(i, words);
                let header = append::get_header(page, offset);
                if header.live != 0 {
                    live.push((offset, header.tid()));
                }
            }
            tail
        })?;
        if !tail.is(PageKind::Append, list, entry.layout_gen, at.seq) {
            return Err(foreign_pages(index, list));
        }
        let n_live = live.len() as u64;
        live.retain(|&(_, tid)| is_dead(tid));
        mark_dead(s, index, list, entry, at, &live)?;
        stats.removed += live.len() as u64;
        stats.remaining += n_live - live.len() as u64;
        place = at.next(tail.next);
    }
    Ok(())
}

/// Marks the records at the given offsets of an append page dead; together with the directory page, as for the frozen part.
fn mark_dead<S: PageStoreMut>(
    s: &S,
    index: &Index,
    list: u32,
    entry: &ListEntry,
    at: ChainPlace,
    dead: &[(usize, Tid)],
) -> Result<()> {
    if dead.is_empty() {
        return Ok(());
    }
    let (directory, seq, offset) = index.entry_address(list);
    let mut checked = Ok(());
    s.update(&[directory, at.block], |pages| {
        checked = check_directory_page(pages[0], directory, seq);
        if checked.is_ok()
            && !page::tail(pages[1]).is(PageKind::Append, list, entry.layout_gen, at.seq)
        {
            checked = Err(foreign_pages(index, list));
        }
        if checked.is_err() {
            return false;
        }
        for &(offset, _) in dead {
            let mut header = append::get_header(pages[1], offset);
            header.live = 0;
            append::put_header(pages[1], offset, &header);
        }
        let mut now = get_entry(pages[0], offset);
        now.append_delete_gen = now.append_delete_gen.wrapping_add(1);
        put_entry(pages[0], offset, &now);
        true
    })?;
    s.note_change(list);
    checked
}

/// Under the list's lock its layout cannot change, so a page of another owner means damage.
pub(crate) fn foreign_pages(index: &Index, list: u32) -> IvfError {
    IvfError::corrupt(
        index.entry_address(list).0,
        format!("list {list} refers to pages that are not its own"),
    )
}
