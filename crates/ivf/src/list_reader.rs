//! Reads one list without locking it: the frozen part group by group and row by row, the appendable part in order.
//!
//! Pages are read one at a time, each once; what lies within a page is handed out in place, what spans pages is staged.
//! Nothing is allocated a group. A page that does not belong to the layout of the given entry ends the visit with
//! [`Visit::Changed`]: the list was rewritten; drop what it contributed, take the new entry from
//! [`crate::index::reread_entry`] and start it again.
//!
//! The closures run while a page is locked: they must be short and must not call the store.

mod appended;
mod rows;

use std::ops::{ControlFlow, Range};

use half::f16;

use crate::index::Index;
use crate::layout::append::{AppendHeader, MAX_OVERFLOW};
use crate::layout::directory::ListEntry;
use crate::layout::group::{GROUP, GroupHeader, HEADER_LINES};
use crate::layout::page::{self, CONTENT_BYTES, LINE_BYTES, PageKind};
use crate::layout::streams;
use crate::runs::StreamMap;
use crate::store::PageStore;
use crate::{IvfError, Result};

/// Pages asked for ahead of the one being read.
const PREFETCH_PAGES: u32 = 8;

/// How a visit of a list ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Visit {
    /// Everything was visited (or the closure said stop).
    Done,
    /// The list was rewritten meanwhile.
    Changed,
}

pub(crate) use appended::{ChainPlace, PageVisit};

/// Scratch space for visiting lists of one index; keep it for a whole scan.
#[derive(Debug, Default)]
pub struct ListReader {
    pub(crate) map: StreamMap,
    staging: Staging,
    pending: Vec<(AppendHeader, [u32; MAX_OVERFLOW])>,
}

impl ListReader {
    /// A reader with empty scratch space.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `f(group number, header, codes)` for each group of the frozen part, in order, dead entries included
    /// (see [`GroupHeader::live`]). `codes` has the rest of the group ([`crate::layout::group::GroupShape`]). Entry `i` of group `g` has slot `32 * g + i`.
    pub fn for_each_group<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        f: impl FnMut(u32, &GroupHeader, &[u8]) -> ControlFlow<()>,
    ) -> Result<Visit> {
        self.groups(
            s,
            index,
            list,
            entry,
            0..streams::n_groups(entry.frozen_count),
            f,
        )
    }

    /// As [`Self::for_each_group`], of the groups in `range` only.
    pub(crate) fn groups<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        range: Range<u32>,
        mut f: impl FnMut(u32, &GroupHeader, &[u8]) -> ControlFlow<()>,
    ) -> Result<Visit> {
        if self.map.resolve(s, index, list, entry)? == Visit::Changed {
            return Ok(Visit::Changed);
        }
        let n_groups = streams::n_groups(entry.frozen_count);
        if range.is_empty() || range.end > n_groups {
            return Ok(Visit::Done);
        }
        let group_bytes = index.meta.shape().bytes();
        let (first_page, mut skip) =
            streams::byte_position(u64::from(range.start) * group_bytes as u64);
        let first_page = first_page as u32;
        let end_page = streams::code_pages(range.end * GROUP as u32, index.meta.shape()) as u32;
        let mut left = (range.end - range.start) as usize * group_bytes;
        let runs = &self.map.code;
        let scratch = self.staging.bytes(group_bytes);
        let (mut group, mut staged) = (range.start, 0);
        let mut emit = |group: u32, bytes: &[u8]| {
            if group + 1 == n_groups {
                emit_last(group, entry.frozen_count, bytes, &mut f)
            } else {
                emit(group, bytes, &mut f)
            }
        };
        for page_no in first_page..end_page.min(first_page + PREFETCH_PAGES) {
            s.prefetch(runs.block(page_no));
        }
        for page_no in first_page..end_page {
            if page_no + PREFETCH_PAGES < end_page {
                s.prefetch(runs.block(page_no + PREFETCH_PAGES));
            }
            s.check_interrupts()?;
            let block = runs.block(page_no);
            let step = s.read(block, |bytes| {
                if !page::tail(bytes).is(PageKind::Code, list, entry.layout_gen, page_no) {
                    return Step::Changed;
                }
                let mut rest = &page::content(bytes)[skip..CONTENT_BYTES.min(skip + left)];
                left -= rest.len();
                skip = 0;
                if staged > 0 {
                    let (head, tail) = rest.split_at(rest.len().min(group_bytes - staged));
                    scratch[staged..staged + head.len()].copy_from_slice(head);
                    staged += head.len();
                    rest = tail;
                    if staged < group_bytes {
                        return Step::Next;
                    }
                    staged = 0;
                    group += 1;
                    match emit(group - 1, scratch) {
                        Step::Next => {}
                        end => return end,
                    }
                }
                let mut whole = rest.chunks_exact(group_bytes);
                for bytes in &mut whole {
                    group += 1;
                    match emit(group - 1, bytes) {
                        Step::Next => {}
                        end => return end,
                    }
                }
                staged = whole.remainder().len();
                scratch[..staged].copy_from_slice(whole.remainder());
                Step::Next
            })?;
            match step {
                Step::Next => {}
                Step::Stop => return Ok(Visit::Done),
                Step::Changed => return Ok(Visit::Changed),
                Step::Corrupt(what) => {
                    return Err(IvfError::corrupt(block, format!("list {list}: {what}")));
                }
            }
        }
        Ok(Visit::Done)
    }
}

/// What follows a page or a group.
enum Step {
    Next,
    Stop,
    Changed,
    Corrupt(&'static str),
}

fn emit(
    group: u32,
    bytes: &[u8],
    f: &mut impl FnMut(u32, &GroupHeader, &[u8]) -> ControlFlow<()>,
) -> Step {
    let (head, codes) = bytes.split_at(HEADER_LINES * LINE_BYTES);
    let flow = match bytemuck::try_from_bytes::<GroupHeader>(head) {
        Ok(header) => f(group, header, codes),
        Err(_) => f(group, &bytemuck::pod_read_unaligned(head), codes),
    };
    if flow.is_break() {
        Step::Stop
    } else {
        Step::Next
    }
}

/// The last group of a list may be short: bits of entries past the end must not be set.
fn emit_last(
    group: u32,
    frozen_count: u32,
    bytes: &[u8],
    f: &mut impl FnMut(u32, &GroupHeader, &[u8]) -> ControlFlow<()>,
) -> Step {
    let used = frozen_count - group * GROUP as u32;
    let mut past_end = false;
    let step = emit(group, bytes, &mut |group, header, codes| {
        past_end = u64::from(header.live) >> used != 0;
        if past_end {
            ControlFlow::Break(())
        } else {
            f(group, header, codes)
        }
    });
    if past_end {
        Step::Corrupt("live entries past the end")
    } else {
        step
    }
}

/// Hands out a row in place if the page's bytes are aligned, else a copy.
#[inline]
fn emit_row<K>(key: K, bytes: &[u8], scratch: &mut [u8], mut f: impl FnMut(K, &[f16])) {
    match bytemuck::try_cast_slice::<u8, f16>(bytes) {
        Ok(row) => f(key, row),
        Err(_) => {
            scratch.copy_from_slice(bytes);
            f(key, bytemuck::cast_slice(scratch));
        }
    }
}

/// Byte buffer aligned for every type on pages.
#[derive(Debug, Default)]
struct Staging(Vec<u64>);

impl Staging {
    fn bytes(&mut self, n: usize) -> &mut [u8] {
        if self.0.len() * 8 < n {
            self.0.resize(n.div_ceil(8), 0);
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..n]
    }
}
