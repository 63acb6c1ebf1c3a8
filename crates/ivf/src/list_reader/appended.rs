//! Reading the appendable part.

use half::f16;

use super::{ListReader, Visit, emit_row};
use crate::index::Index;
use crate::layout::append;
use crate::layout::directory::ListEntry;
use crate::layout::page::{self, CONTENT_BYTES, PageKind, PageTail};
use crate::layout::streams;
use crate::store::{NO_BLOCK, PageStore};
use crate::{IvfError, Result, Tid};

impl ListReader {
    /// Calls `f(tid, err, row)` for each live entry of the appendable part, in insertion order.
    pub fn for_each_appended<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        mut f: impl FnMut(Tid, f32, &[f16]),
    ) -> Result<Visit> {
        let mut place = ChainPlace::head(entry);
        while let Some(at) = place {
            match self.appended_page(s, index, list, entry, at, &mut f)? {
                PageVisit::Changed => return Ok(Visit::Changed),
                PageVisit::Next(next) => place = next,
            }
        }
        Ok(Visit::Done)
    }

    /// As [`Self::for_each_appended`], of one page of the chain.
    pub(crate) fn appended_page<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        at: ChainPlace,
        mut f: impl FnMut(Tid, f32, &[f16]),
    ) -> Result<PageVisit> {
        let dim = index.meta.dim;
        let n_overflow = append::overflow_pages(dim);
        let scratch = self.staging.bytes(streams::row_bytes(dim));
        let pending = &mut self.pending;
        pending.clear();
        index.check_block(s, at.from, "appendable part", at.block)?;
        s.check_interrupts()?;
        let ours = |tail: &PageTail| tail.is(PageKind::Append, list, entry.layout_gen, at.seq);
        let tail = s.read(at.block, |bytes| {
            let tail = page::tail(bytes);
            if !ours(&tail) || tail.n_records > append::records_per_page(dim) {
                return tail;
            }
            for i in 0..tail.n_records {
                let offset = append::record_offset(i, dim);
                let header = append::get_header(bytes, offset);
                if header.live == 0 {
                    continue;
                }
                let payload = append::payload(bytes, offset, dim);
                if n_overflow == 0 {
                    emit_row(header.tid(), payload, scratch, |tid, row| {
                        f(tid, header.err, row)
                    });
                } else {
                    pending.push((header, append::overflow_blocks(payload)));
                }
            }
            tail
        })?;
        if !ours(&tail) {
            return Ok(PageVisit::Changed);
        }
        if tail.n_records > append::records_per_page(dim) {
            return Err(IvfError::corrupt(
                at.block,
                format!("{} records in an append page", tail.n_records),
            ));
        }
        if tail.next < index.known_blocks() {
            s.prefetch(tail.next);
        }
        for (header, blocks) in pending.iter() {
            if header.n_overflow as usize != n_overflow {
                return Err(IvfError::corrupt(
                    at.block,
                    format!("{} overflow pages", header.n_overflow),
                ));
            }
            for (i, (&block, part)) in blocks
                .iter()
                .zip(scratch.chunks_mut(CONTENT_BYTES))
                .enumerate()
            {
                index.check_block(s, at.block, "overflow", block)?;
                let ours = s.read(block, |bytes| {
                    part.copy_from_slice(&page::content(bytes)[..part.len()]);
                    page::tail(bytes).is(PageKind::Overflow, list, entry.layout_gen, i as u32)
                })?;
                if !ours {
                    return Ok(PageVisit::Changed);
                }
            }
            f(header.tid(), header.err, bytemuck::cast_slice(scratch));
        }
        Ok(PageVisit::Next(at.next(tail.next)))
    }
}

/// A page of a list's append chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChainPlace {
    /// The page.
    pub block: u32,
    /// Its index in the chain.
    pub seq: u32,
    /// The page that named it, for messages.
    pub from: u32,
}

impl ChainPlace {
    /// The first page of the chain, if there is any.
    pub(crate) fn head(entry: &ListEntry) -> Option<Self> {
        (entry.append_head != NO_BLOCK).then_some(Self {
            block: entry.append_head,
            seq: 0,
            from: 0,
        })
    }

    /// The page after this one, given its `next` field. Chains cannot loop: every page carries its own `seq`.
    pub(crate) fn next(self, next: u32) -> Option<Self> {
        (next != NO_BLOCK).then(|| Self {
            block: next,
            seq: self.seq + 1,
            from: self.block,
        })
    }
}

/// How the visit of one page of a chain ended.
pub(crate) enum PageVisit {
    /// The page was visited; the one after it.
    Next(Option<ChainPlace>),
    /// The list was rewritten meanwhile.
    Changed,
}
