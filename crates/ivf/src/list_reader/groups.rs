//! Reading the groups of the frozen part where they lie: of one that spans pages the header is copied, never the codes.

use std::ops::{ControlFlow, Range};

use super::{ListReader, PREFETCH_PAGES, Visit};
use crate::index::Index;
use crate::layout::directory::ListEntry;
use crate::layout::group::{GROUP, GroupHeader};
use crate::layout::page::{self, CONTENT_BYTES, PageKind};
use crate::layout::streams;
use crate::store::PageStore;
use crate::{IvfError, Result};

/// Sees the groups of a list in order: of each the codes, in parts, then the header.
///
/// Runs while a page is locked: must be short and must not call the store. A visit may end within a group, whose codes
/// were then seen in vain.
pub trait GroupVisitor {
    /// The codes of the group from byte `first` on: whole lines, in order, without gaps. Not called where there are
    /// no codes.
    fn codes(&mut self, first: usize, bytes: &[u8]);

    /// All codes of group `group` have been seen. Dead entries are included, see [`GroupHeader::live`]. Entry `i` has slot
    /// `32 * group + i`.
    fn group(&mut self, group: u32, header: &GroupHeader) -> ControlFlow<()>;
}

/// For those whom the codes do not concern.
struct Headers<F>(F);

impl<F: FnMut(u32, &GroupHeader) -> ControlFlow<()>> GroupVisitor for Headers<F> {
    fn codes(&mut self, _first: usize, _bytes: &[u8]) {}

    fn group(&mut self, group: u32, header: &GroupHeader) -> ControlFlow<()> {
        (self.0)(group, header)
    }
}

impl ListReader {
    /// Calls `f(group number, header)` for each group of the frozen part, as a [`GroupVisitor`].
    pub fn for_each_group<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        f: impl FnMut(u32, &GroupHeader) -> ControlFlow<()>,
    ) -> Result<Visit> {
        self.visit_groups(s, index, list, entry, &mut Headers(f))
    }

    /// As [`Self::for_each_group`], of the groups in `range` only.
    pub fn headers<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        range: Range<u32>,
        f: impl FnMut(u32, &GroupHeader) -> ControlFlow<()>,
    ) -> Result<Visit> {
        self.groups(s, index, list, entry, range, &mut Headers(f))
    }

    /// Shows the groups of the frozen part to `visitor`, in order.
    pub fn visit_groups<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        visitor: &mut impl GroupVisitor,
    ) -> Result<Visit> {
        let all = 0..streams::n_groups(entry.frozen_count);
        self.groups(s, index, list, entry, all, visitor)
    }

    /// As [`Self::visit_groups`], of the groups in `range` only.
    pub(crate) fn groups<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        range: Range<u32>,
        visitor: &mut impl GroupVisitor,
    ) -> Result<Visit> {
        if self.map.resolve(s, index, list, entry)? == Visit::Changed {
            return Ok(Visit::Changed);
        }
        if range.is_empty() || range.end > streams::n_groups(entry.frozen_count) {
            return Ok(Visit::Done);
        }
        let group_bytes = index.meta.shape().bytes();
        let (first_page, mut skip) =
            streams::byte_position(u64::from(range.start) * group_bytes as u64);
        let first_page = first_page as u32;
        let end_page = streams::code_pages(range.end * GROUP as u32, index.meta.shape()) as u32;
        let mut left = (range.end - range.start) as usize * group_bytes;
        let runs = &self.map.code;
        let mut walk = Walk {
            visitor,
            frozen_count: entry.frozen_count,
            group_bytes,
            group: range.start,
            header: bytemuck::Zeroable::zeroed(),
            taken: 0,
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
            let seen = s.read(block, |bytes| {
                if !page::tail(bytes).is(PageKind::Code, list, entry.layout_gen, page_no) {
                    return Err(End::Changed);
                }
                let content = &page::content(bytes)[skip..CONTENT_BYTES.min(skip + left)];
                left -= content.len();
                skip = 0;
                walk.page(content)
            })?;
            match seen {
                Ok(()) => {}
                Err(End::Stop) => return Ok(Visit::Done),
                Err(End::Changed) => return Ok(Visit::Changed),
                Err(End::Corrupt(what)) => {
                    return Err(IvfError::corrupt(block, format!("list {list}: {what}")));
                }
            }
        }
        Ok(Visit::Done)
    }
}

/// Why a visit ends before the last group.
enum End {
    Stop,
    Changed,
    Corrupt(&'static str),
}

const HEADER_BYTES: usize = size_of::<GroupHeader>();

/// Cuts the pages of a stream into groups.
struct Walk<'a, V> {
    visitor: &'a mut V,
    frozen_count: u32,
    group_bytes: usize,
    /// The next group to be complete.
    group: u32,
    /// Its header, as far as taken, if it began on an earlier page.
    header: GroupHeader,
    /// Bytes of it on earlier pages.
    taken: usize,
}

impl<V: GroupVisitor> Walk<'_, V> {
    #[inline]
    fn page(&mut self, content: &[u8]) -> std::result::Result<(), End> {
        let mut rest = content;
        if self.taken > 0 {
            rest = self.part(rest)?;
        }
        let mut whole = rest.chunks_exact(self.group_bytes);
        for bytes in &mut whole {
            self.whole(bytes)?;
        }
        self.part(whole.remainder())?;
        Ok(())
    }

    #[inline]
    fn whole(&mut self, bytes: &[u8]) -> std::result::Result<(), End> {
        let (head, codes) = bytes.split_at(HEADER_BYTES);
        let copy;
        let header = match bytemuck::try_from_bytes::<GroupHeader>(head) {
            Ok(header) => header,
            Err(_) => {
                copy = bytemuck::pod_read_unaligned(head);
                &copy
            }
        };
        self.check(header)?;
        if !codes.is_empty() {
            self.visitor.codes(0, codes);
        }
        self.group += 1;
        go_on(self.visitor.group(self.group - 1, header))
    }

    /// Takes of `bytes` what belongs to a group that spans pages; gives what does not.
    fn part<'b>(&mut self, bytes: &'b [u8]) -> std::result::Result<&'b [u8], End> {
        let wanted = HEADER_BYTES.saturating_sub(self.taken);
        let (head, rest) = bytes.split_at(wanted.min(bytes.len()));
        if !head.is_empty() {
            let header = bytemuck::bytes_of_mut(&mut self.header);
            header[self.taken..][..head.len()].copy_from_slice(head);
            self.taken += head.len();
            if self.taken == HEADER_BYTES {
                self.check(&self.header)?;
            }
        }
        let (codes, rest) = rest.split_at((self.group_bytes - self.taken).min(rest.len()));
        if !codes.is_empty() {
            self.visitor.codes(self.taken - HEADER_BYTES, codes);
            self.taken += codes.len();
        }
        if self.taken == self.group_bytes {
            self.taken = 0;
            self.group += 1;
            go_on(self.visitor.group(self.group - 1, &self.header))?;
        }
        Ok(rest)
    }

    /// The last group of a list may be short: bits of entries past the end must not be set.
    #[inline]
    fn check(&self, header: &GroupHeader) -> std::result::Result<(), End> {
        let used = self.frozen_count - self.group * GROUP as u32;
        if used < GROUP as u32 && header.live >> used != 0 {
            return Err(End::Corrupt("live entries past the end"));
        }
        Ok(())
    }
}

#[inline]
fn go_on(flow: ControlFlow<()>) -> std::result::Result<(), End> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(End::Stop),
    }
}

#[cfg(test)]
mod tests;
