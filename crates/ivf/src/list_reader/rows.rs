//! Reading vectors of the frozen part.

use half::f16;

use super::{ListReader, PREFETCH_PAGES, Visit};
use crate::index::Index;
use crate::layout::directory::ListEntry;
use crate::layout::page::{self, CONTENT_BYTES, PageKind};
use crate::layout::streams;
use crate::store::PageStore;
use crate::{IvfError, Result};

impl ListReader {
    /// Calls `f(slot, row)` for the rows of `slots` (ascending, all different).
    pub fn read_rows<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        slots: &[u32],
        f: impl FnMut(u32, &[f16]),
    ) -> Result<Visit> {
        self.rows(s, index, list, entry, slots.iter().copied(), f)
    }

    /// As [`Self::read_rows`], of any ascending sequence of slots.
    pub(crate) fn rows<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        slots: impl Iterator<Item = u32> + Clone,
        mut f: impl FnMut(u32, &[f16]),
    ) -> Result<Visit> {
        if self.map.resolve(s, index, list, entry)? == Visit::Changed {
            return Ok(Visit::Changed);
        }
        let row_bytes = streams::row_bytes(index.row_words(list));
        let n_rows = index.n_rows(list, entry);
        let runs = &self.map.vector;
        let scratch = self.staging.bytes(row_bytes);
        let mut ahead = Ahead {
            slots: slots.clone(),
            row_bytes: row_bytes as u64,
            next_page: 0,
            asked: 0,
        };
        let mut slots = slots.peekable();
        let mut staged = 0;
        while let Some(&slot) = slots.peek() {
            if u64::from(slot) >= n_rows {
                return Err(IvfError::corrupt(
                    0,
                    format!("list {list} has no row {slot}"),
                ));
            }
            let position = u64::from(slot) * row_bytes as u64 + staged as u64;
            let page_no = streams::byte_position(position).0;
            let page_start = page_no * CONTENT_BYTES as u64;
            ahead.prefetch(n_rows, |page_no| s.prefetch(runs.block(page_no)));
            s.check_interrupts()?;
            let ours = s.read(runs.block(page_no as u32), |bytes| {
                if !page::tail(bytes).is(PageKind::Vector, list, entry.layout_gen, page_no as u32) {
                    return false;
                }
                let content = page::content(bytes);
                // Per row: no division, and one call of `f`, so that it is inlined.
                while let Some(&slot) = slots.peek() {
                    let position = u64::from(slot) * row_bytes as u64 + staged as u64;
                    let offset = (position - page_start) as usize;
                    if offset >= CONTENT_BYTES || u64::from(slot) >= n_rows {
                        break;
                    }
                    let part = &content[offset..CONTENT_BYTES.min(offset + row_bytes - staged)];
                    let in_place = bytemuck::try_cast_slice::<u8, f16>(part);
                    let row = match in_place {
                        Ok(row) if part.len() == row_bytes => row,
                        _ => {
                            scratch[staged..staged + part.len()].copy_from_slice(part);
                            staged += part.len();
                            if staged < row_bytes {
                                break;
                            }
                            staged = 0;
                            bytemuck::cast_slice(scratch)
                        }
                    };
                    f(slot, row);
                    slots.next();
                }
                true
            })?;
            if !ours {
                return Ok(Visit::Changed);
            }
        }
        Ok(Visit::Done)
    }
}

/// Runs ahead of the rows and asks for their pages.
struct Ahead<I> {
    slots: I,
    row_bytes: u64,
    next_page: u64,
    asked: u32,
}

impl<I: Iterator<Item = u32>> Ahead<I> {
    /// One page is about to be read: tops the pages asked for up again.
    fn prefetch(&mut self, n_rows: u64, mut ask: impl FnMut(u32)) {
        self.asked = self.asked.saturating_sub(1);
        while self.asked < PREFETCH_PAGES {
            let Some(slot) = self.slots.next().filter(|&slot| u64::from(slot) < n_rows) else {
                return;
            };
            let first = u64::from(slot) * self.row_bytes;
            if first + self.row_bytes <= self.next_page * CONTENT_BYTES as u64 {
                continue;
            }
            let last = streams::byte_position(first + self.row_bytes - 1).0;
            for page_no in streams::byte_position(first).0.max(self.next_page)..=last {
                ask(page_no as u32);
                self.asked += 1;
            }
            self.next_page = self.next_page.max(last + 1);
        }
    }
}
