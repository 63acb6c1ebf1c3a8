//! Adds one entry to the appendable part of a list: usually one small WAL record.
//!
//! Under the shared lock of the list (its layout stays as it is, others may append too):
//! 1. a vector that does not fit a page is written to Overflow pages;
//! 2. the record goes to the tail page of the chain if there is room;
//! 3. else to a new page, which one record then links to the chain and to the directory entry. If another
//!    process extended the chain first, the new page is given back and step 2 tried again.
//!
//! A crash between the records leaves unlinked pages, which nothing ever reads.

use crate::index::{Index, check_directory_page, read_entry};
use crate::layout::append::{self, AppendHeader};
use crate::layout::directory::{ListEntry, get_entry, put_entry};
use crate::layout::page::{self, CONTENT_BYTES, CONTENT_START, PageKind};
use crate::list_lock::with_list_lock;
use crate::store::{ListLock, NO_BLOCK, PageStoreMut};
use crate::stored::StoredVector;
use crate::{IvfError, Result, Tid};

/// Appends an entry to `list`. Returns the list's directory entry as it was afterwards or, if others append at the same
/// time, shortly before.
pub fn append_entry<S: PageStoreMut>(
    s: &S,
    index: &Index,
    list: u32,
    tid: Tid,
    stored: &StoredVector,
) -> Result<ListEntry> {
    with_list_lock(s, list, ListLock::Shared, || {
        let record = Record::new(s, index, list, tid, stored)?;
        let mut not_tail = NO_BLOCK;
        loop {
            s.check_interrupts()?;
            let entry = read_entry(s, index, list)?;
            if entry.append_tail != NO_BLOCK {
                match add_to_tail(s, index, list, &entry, &record)? {
                    Added::Yes => return Ok(entry),
                    Added::Full => {}
                    // The entry and the page change together, so this is news only once.
                    Added::NotTail if entry.append_tail == not_tail => {
                        return Err(IvfError::corrupt(
                            not_tail,
                            format!("not the last append page of list {list}"),
                        ));
                    }
                    Added::NotTail => {
                        not_tail = entry.append_tail;
                        continue;
                    }
                }
            }
            let block = s.allocate(|page| {
                page::init_page(
                    page,
                    PageKind::Append,
                    list,
                    entry.layout_gen,
                    entry.append_pages,
                );
                record.put(page, 0);
            })?;
            if link(s, index, list, &entry, block)? {
                return read_entry(s, index, list);
            }
            s.free(block)?;
        }
    })
}

/// A record ready to be put on a page.
struct Record {
    header: AppendHeader,
    payload: Vec<u8>,
    bytes: usize,
}

impl Record {
    /// Makes the record, and writes the overflow pages if it needs any.
    fn new<S: PageStoreMut>(
        s: &S,
        index: &Index,
        list: u32,
        tid: Tid,
        stored: &StoredVector,
    ) -> Result<Self> {
        let words = index.row_words(list);
        if stored.row.len() != words as usize {
            return Err(IvfError::Dimension {
                expected: words,
                found: stored.row.len() as u32,
            });
        }
        let row: &[u8] = bytemuck::cast_slice(&stored.row);
        let n_overflow = append::overflow_pages(words);
        let mut payload = Vec::new();
        if n_overflow == 0 {
            payload.extend_from_slice(row);
        } else {
            let stamp = read_entry(s, index, list)?.layout_gen;
            for (seq, part) in row.chunks(CONTENT_BYTES).enumerate() {
                let block = s.allocate(|page| {
                    page::init_page(page, PageKind::Overflow, list, stamp, seq as u32);
                    page::content_mut(page)[..part.len()].copy_from_slice(part);
                    page::set_content_bytes(page, part.len());
                })?;
                payload.extend_from_slice(&block.to_ne_bytes());
            }
        }
        let header = AppendHeader {
            tid_block: tid.block,
            tid_offset: tid.offset as u16,
            live: 1,
            err: stored.err,
            n_overflow: n_overflow as u32,
        };
        Ok(Self {
            header,
            payload,
            bytes: append::record_bytes(words),
        })
    }

    /// Puts the record on an append page of `n` records.
    fn put(&self, page: &mut [u8], n: u32) {
        let start = n as usize * self.bytes;
        append::put_record(page, CONTENT_START + start, &self.header, &self.payload);
        page::set_content_bytes(page, start + self.bytes);
        let mut tail = page::tail(page);
        tail.n_records = n + 1;
        page::set_tail(page, &tail);
    }
}

enum Added {
    Yes,
    Full,
    NotTail,
}

fn add_to_tail<S: PageStoreMut>(
    s: &S,
    index: &Index,
    list: u32,
    entry: &ListEntry,
    record: &Record,
) -> Result<Added> {
    let block = entry.append_tail;
    let capacity = append::records_per_page(index.row_words(list));
    let mut added = Ok(Added::Yes);
    s.update(&[block], |pages| {
        let tail = page::tail(pages[0]);
        if !tail.is(
            PageKind::Append,
            list,
            entry.layout_gen,
            entry.append_pages - 1,
        ) || tail.n_records > capacity
        {
            added = Err(IvfError::corrupt(
                block,
                format!("not the last append page of list {list}"),
            ));
        } else if tail.next != NO_BLOCK {
            added = Ok(Added::NotTail);
        } else if tail.n_records == capacity {
            added = Ok(Added::Full);
        } else {
            record.put(pages[0], tail.n_records);
            return true;
        }
        false
    })?;
    added
}

/// Makes `block` the last page of the chain whose state was `entry`; false if the chain has grown meanwhile.
fn link<S: PageStoreMut>(
    s: &S,
    index: &Index,
    list: u32,
    entry: &ListEntry,
    block: u32,
) -> Result<bool> {
    let (directory, seq, offset) = index.entry_address(list);
    let last = entry.append_tail;
    let blocks = [directory, last];
    let mut checked = Ok(());
    let linked = s.update(&blocks[..if last == NO_BLOCK { 1 } else { 2 }], |pages| {
        checked = check_directory_page(pages[0], directory, seq);
        if checked.is_err() {
            return false;
        }
        let mut now = get_entry(pages[0], offset);
        if (now.layout_gen, now.append_tail) != (entry.layout_gen, last) {
            return false;
        }
        if last == NO_BLOCK {
            now.append_head = block;
        } else {
            let mut tail = page::tail(pages[1]);
            if !tail.is(
                PageKind::Append,
                list,
                entry.layout_gen,
                entry.append_pages - 1,
            ) || tail.next != NO_BLOCK
            {
                checked = Err(IvfError::corrupt(
                    last,
                    format!("not the last append page of list {list}"),
                ));
                return false;
            }
            tail.next = block;
            page::set_tail(pages[1], &tail);
        }
        now.append_tail = block;
        now.append_pages = entry.append_pages + 1;
        put_entry(pages[0], offset, &now);
        true
    })?;
    checked.map(|()| linked)
}
