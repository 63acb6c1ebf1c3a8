//! Reading the appendable part.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::{ListReader, Visit, emit_row};
use crate::index::{Index, SeenList};
use crate::layout::append::{self, AppendHeader};
use crate::layout::directory::ListEntry;
use crate::layout::page::{self, CONTENT_BYTES, PageKind, PageTail};
use crate::layout::streams;
use crate::store::{NO_BLOCK, PageStore};
use crate::{IvfError, Result, Tid};

impl ListReader {
    /// Calls `f(tid, err, row)` for each live entry of the appendable part beyond `known`, in insertion order. `known` is of the layout of
    /// `entry`.
    pub fn for_each_appended<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        known: &AppendedTo,
        mut f: impl FnMut(Tid, f32, &[f16]),
    ) -> Result<Visit> {
        let mut place = known.next_place(entry);
        while let Some(at) = place {
            match self.appended_page(s, index, list, entry, at, &mut f)? {
                PageVisit::Changed => return Ok(Visit::Changed),
                PageVisit::Next { next, .. } => place = next,
            }
        }
        Ok(Visit::Done)
    }

    /// Calls `f(tid, live, err, row)` for the entries of the appendable part, dead ones included, in insertion order, until `f` has been given
    /// `most`, or a few more; the first `n_rowless` of them without a row. Returns up to where that is; `None` if the list was rewritten meanwhile.
    /// `seen` was read before: what is deleted later raises its generations.
    #[allow(clippy::too_many_arguments)]
    pub fn appended_up_to<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        seen: &SeenList,
        most: usize,
        n_rowless: usize,
        f: impl FnMut(Tid, bool, f32, &[f16]),
    ) -> Result<Option<AppendedTo>> {
        let nothing = AppendedTo::NOTHING;
        self.appended_beyond(s, index, list, seen, nothing, most, n_rowless, f)
    }

    /// As [`Self::appended_up_to`], for the entries beyond `known`, which is of the layout of `seen`, and of which none was deleted since.
    #[allow(clippy::too_many_arguments)]
    pub fn appended_beyond<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        seen: &SeenList,
        mut known: AppendedTo,
        most: usize,
        n_rowless: usize,
        mut f: impl FnMut(Tid, bool, f32, &[f16]),
    ) -> Result<Option<AppendedTo>> {
        let entry = &seen.entry;
        let mut n = 0;
        let mut place = known.next_place(entry);
        while let Some(at) = place.filter(|_| n < most) {
            let wanted = Wanted {
                dead_too: true,
                n_rowless: n_rowless.saturating_sub(n) as u32,
            };
            let visit = self.records(s, index, list, entry, at, wanted, |header, row| {
                n += 1;
                f(header.tid(), header.live != 0, header.err, row);
            })?;
            let PageVisit::Next { n_records, next } = visit else {
                return Ok(None);
            };
            known = AppendedTo {
                block: at.block,
                seq: at.seq,
                n_records,
                delete_gen: entry.append_delete_gen,
                version: 0,
            };
            place = next;
        }
        if place.is_none() {
            known.version = seen.version;
        }
        Ok(Some(known))
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
        self.records(
            s,
            index,
            list,
            entry,
            at,
            Wanted::default(),
            |header, row| {
                f(header.tid(), header.err, row);
            },
        )
    }

    /// Calls `f` with the records of a page of the chain and their rows, in order, as far as they are wanted.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn records<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        at: ChainPlace,
        wanted: Wanted,
        mut f: impl FnMut(&AppendHeader, &[f16]),
    ) -> Result<PageVisit> {
        let words = index.row_words(list);
        let n_overflow = append::overflow_pages(words);
        let scratch = self.staging.bytes(streams::row_bytes(words));
        let pending = &mut self.pending;
        pending.clear();
        index.check_block(s, at.from, "appendable part", at.block)?;
        s.check_interrupts()?;
        let ours = |tail: &PageTail| tail.is(PageKind::Append, list, entry.layout_gen, at.seq);
        let tail = s.read(at.block, |bytes| {
            let tail = page::tail(bytes);
            if !ours(&tail) || tail.n_records > append::records_per_page(words) {
                return tail;
            }
            for i in at.first..tail.n_records {
                let offset = append::record_offset(i, words);
                let header = append::get_header(bytes, offset);
                if header.live == 0 && !wanted.dead_too {
                    continue;
                }
                if i - at.first < wanted.n_rowless {
                    f(&header, &[]);
                    continue;
                }
                let payload = append::payload(bytes, offset, words);
                if n_overflow == 0 {
                    emit_row(&header, payload, scratch, &mut f);
                } else {
                    pending.push((header, append::overflow_blocks(payload)));
                }
            }
            tail
        })?;
        if !ours(&tail) {
            return Ok(PageVisit::Changed);
        }
        if tail.n_records > append::records_per_page(words) {
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
            f(header, bytemuck::cast_slice(scratch));
        }
        Ok(PageVisit::Next {
            n_records: tail.n_records,
            next: at.next(tail.next),
        })
    }
}

/// What is wanted of a page.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// Records of dead entries too.
    pub(super) dead_too: bool,
    /// So many records without their rows, the first.
    pub(super) n_rowless: u32,
}

/// Up to where somebody knows the appendable part of a list, in one of its layouts: such as a hot tier, which holds these entries too.
/// The default is [`Self::NOTHING`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct AppendedTo {
    /// The last page that is known.
    pub block: u32,
    /// Its index in the chain.
    pub seq: u32,
    /// Its records that are known; 0: nothing is, of no page.
    pub n_records: u32,
    /// [`ListEntry::append_delete_gen`] before the first of them was read.
    pub delete_gen: u32,
    /// The list's version ([`SeenList::version`]), if these are all that it had then; else 0.
    pub version: u32,
}

impl AppendedTo {
    /// Nothing is known.
    pub const NOTHING: Self = Self {
        block: 0,
        seq: 0,
        n_records: 0,
        delete_gen: 0,
        version: 0,
    };

    /// The same, of whatever version.
    pub fn without_version(self) -> Self {
        Self { version: 0, ..self }
    }

    /// Whether nothing of `list` has changed since it was read up to there.
    pub fn is_all<S: PageStore>(&self, s: &S, list: u32) -> bool {
        self.version != 0 && self.version == s.list_version(list)
    }

    /// Whether none of these entries was deleted since, by the directory entry as just read.
    pub fn is_current(&self, entry: &ListEntry) -> bool {
        self.n_records == 0 || self.delete_gen == entry.append_delete_gen
    }

    /// Whether there may be entries of `list` beyond these, in the layout of `entry`.
    pub fn may_lack<S: PageStore>(
        &self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
    ) -> bool {
        if self.is_all(s, list) {
            return false;
        }
        let is_full = self.n_records == append::records_per_page(index.form.row_words());
        let ends_here = self.block == entry.append_tail && is_full;
        entry.append_head != NO_BLOCK && !ends_here
    }

    /// How many entries are beyond these at least, in the layout of `entry`: all pages but the last are full.
    pub fn n_lacking(&self, index: &Index, entry: &ListEntry) -> u32 {
        let per_page = append::records_per_page(index.form.row_words());
        let full = entry
            .append_pages
            .saturating_sub(1)
            .saturating_mul(per_page);
        let known = match self.n_records {
            0 => 0,
            n => self.seq * per_page + n,
        };
        full.saturating_sub(known)
    }

    /// The page with the first entry that is not known.
    fn next_place(&self, entry: &ListEntry) -> Option<ChainPlace> {
        if self.n_records == 0 {
            return ChainPlace::head(entry);
        }
        Some(ChainPlace {
            block: self.block,
            seq: self.seq,
            from: self.block,
            first: self.n_records,
        })
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
    /// The first record that is wanted.
    pub first: u32,
}

impl ChainPlace {
    /// The first page of the chain, if there is any.
    pub(crate) fn head(entry: &ListEntry) -> Option<Self> {
        (entry.append_head != NO_BLOCK).then_some(Self {
            block: entry.append_head,
            seq: 0,
            from: 0,
            first: 0,
        })
    }

    /// The page after this one, given its `next` field. Chains cannot loop: every page carries its own `seq`.
    pub(crate) fn next(self, next: u32) -> Option<Self> {
        (next != NO_BLOCK).then(|| Self {
            block: next,
            seq: self.seq + 1,
            from: self.block,
            first: 0,
        })
    }
}

/// How the visit of one page of a chain ended.
pub(crate) enum PageVisit {
    /// The page was visited, and had so many records; the one after it.
    Next {
        n_records: u32,
        next: Option<ChainPlace>,
    },
    /// The list was rewritten meanwhile.
    Changed,
}
