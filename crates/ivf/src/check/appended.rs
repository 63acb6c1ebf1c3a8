//! The appendable part of a list: its chain, its records, and the overflow pages of all of them.

use half::f16;

use super::entry::EntryCheck;
use super::one_list::ListCheck;
use super::pages::Place;
use crate::index::Index;
use crate::layout::append::{self, AppendHeader};
use crate::layout::directory::ListEntry;
use crate::layout::page::{self, CONTENT_BYTES, PageKind};
use crate::list_reader::ChainPlace;
use crate::store::{NO_BLOCK, PAGE_BYTES, PageStore};
use crate::{IvfError, Result, Tid};

impl ListCheck {
    /// Checks the chain from its head to its end.
    pub(super) fn chain<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        entry: &ListEntry,
        entries: &EntryCheck<S>,
        has_place: &mut dyn FnMut(Tid) -> bool,
    ) -> Result<()> {
        let mut place = ChainPlace::head(entry);
        let (mut n_pages, mut last) = (0, NO_BLOCK);
        // As it was at one moment.
        let mut image = vec![0u8; PAGE_BYTES];
        while let Some(at) = place {
            index.check_block(s, at.from, "appendable part", at.block)?;
            let at_page = Place {
                kind: PageKind::Append,
                list: self.list,
                stamp: entry.layout_gen,
                seq: at.seq,
                n_bytes: 0,
            };
            if !self.page(s, at.block, &at_page)? {
                self.is_complete = false;
                return Ok(());
            }
            s.read(at.block, |bytes| image.copy_from_slice(bytes))?;
            self.blocks.push(at.block);
            self.records(s, index, entry, entries, at.block, &image, has_place)?;
            n_pages += 1;
            last = at.block;
            place = at.next(page::tail(&image).next);
        }
        if (n_pages, last) != (entry.append_pages, entry.append_tail) {
            let (pages, tail) = (entry.append_pages, entry.append_tail);
            self.found(format!(
                "append chain of {n_pages} pages to {last}, but {pages} to {tail} in the directory"
            ));
        }
        if self.appended_dead > 0 && entry.append_delete_gen == 0 {
            let dead = self.appended_dead;
            self.found(format!(
                "{dead} appended entries died, but their deletion generation is 0"
            ));
        }
        Ok(())
    }

    /// Checks the records of a page.
    #[allow(clippy::too_many_arguments)]
    fn records<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        entry: &ListEntry,
        entries: &EntryCheck<S>,
        block: u32,
        image: &[u8],
        has_place: &mut dyn FnMut(Tid) -> bool,
    ) -> Result<()> {
        let words = index.row_words(self.list);
        let n = page::tail(image).n_records;
        let bytes = page::content_bytes(image);
        if n == 0 || bytes != n as usize * append::record_bytes(words) {
            self.found_on(block, format!("{n} records in {bytes} bytes"));
        }
        if n > append::records_per_page(words) {
            return Err(IvfError::corrupt(
                block,
                format!("{n} records in an append page"),
            ));
        }
        for i in 0..n {
            let offset = append::record_offset(i, words);
            let header = append::get_header(image, offset);
            let payload = append::payload(image, offset, words);
            if header.live > 1 {
                self.found_on(block, format!("record {i} is live {} times", header.live));
            }
            let Some(row) = self.row(s, index, entry, (block, i), &header, payload)? else {
                // A dead one is nobody's loss.
                self.is_complete &= header.live == 0;
                continue;
            };
            let is_live = header.live != 0;
            self.appended += u64::from(is_live);
            self.appended_dead += u64::from(!is_live);
            let what = (header.tid(), header.err, row.as_slice());
            self.entry(entries, what, is_live, has_place, &|| {
                format!("record {i} of page {block}")
            })?;
        }
        Ok(())
    }

    /// The row of record `i` of a page, be it on overflow pages; `None` if these are not the record's.
    fn row<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        entry: &ListEntry,
        (block, i): (u32, u32),
        header: &AppendHeader,
        payload: &[u8],
    ) -> Result<Option<Vec<f16>>> {
        let words = index.row_words(self.list);
        let n_overflow = append::overflow_pages(words);
        if header.n_overflow as usize != n_overflow {
            let n = header.n_overflow;
            self.found_on(block, format!("record {i} has {n} overflow pages"));
            return Ok(None);
        }
        let mut row = vec![f16::ZERO; words as usize];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut row);
        if n_overflow == 0 {
            bytes.copy_from_slice(payload);
            return Ok(Some(row));
        }
        let blocks = append::overflow_blocks(payload);
        let mut is_whole = true;
        for (seq, (&overflow, part)) in blocks
            .iter()
            .zip(bytes.chunks_mut(CONTENT_BYTES))
            .enumerate()
        {
            if let Err(error) = index.check_block(s, block, "overflow", overflow) {
                let IvfError::Corrupt { block, what } = error else {
                    return Err(error);
                };
                self.found_on(block, what);
                return Ok(None);
            }
            let place = Place {
                kind: PageKind::Overflow,
                list: self.list,
                stamp: entry.layout_gen,
                seq: seq as u32,
                n_bytes: part.len(),
            };
            if !self.page(s, overflow, &place)? {
                is_whole = false;
                continue;
            }
            self.blocks.push(overflow);
            s.read(overflow, |bytes| {
                part.copy_from_slice(&page::content(bytes)[..part.len()]);
            })?;
        }
        Ok(is_whole.then_some(row))
    }
}
