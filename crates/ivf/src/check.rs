//! Walks every page of an index and says what is wrong with it. Reads only; meant for an index that nobody changes
//! meanwhile (else a list in motion may be reported).

use std::ops::ControlFlow;

use half::f16;

use crate::frozen_writer::{Batch, read_centroid};
use crate::index::{Index, read_entry};
use crate::layout::append;
use crate::layout::directory::ListEntry;
use crate::layout::group::{GROUP, GroupHeader, HEADER_LINES};
use crate::layout::page::{self, LINE_BYTES, PageKind, ROOT_LIST};
use crate::layout::streams;
use crate::list_reader::{ChainPlace, GroupVisitor, ListReader, Visit};
use crate::rabitq::Encoder;
use crate::store::PageStore;
use crate::{IvfError, Result, Tid};

/// Problems are listed up to this number.
const MAX_PROBLEMS: usize = 100;

/// What [`check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What is wrong, in words; empty for a sound index.
    pub problems: Vec<String>,
    /// Live entries of frozen parts.
    pub frozen: u64,
    /// Dead entries of frozen parts.
    pub frozen_dead: u64,
    /// Live entries of appendable parts.
    pub appended: u64,
    /// Dead entries of appendable parts.
    pub appended_dead: u64,
    /// Pages in use.
    pub used_pages: u64,
    /// Free pages.
    pub free_pages: u64,
    /// Pages that nothing refers to and that are not free: left over from a crash (see `reclaim.rs`).
    pub leaked_pages: u64,
}

/// Checks structure, counts, stamps, that every page has one owner, that no tid occurs twice, and that all codes are
/// those of the stored vectors. Fails only if the store does.
pub fn check<S: PageStore>(s: &S, index: &Index) -> Result<CheckReport> {
    let n_blocks = s.n_blocks()?;
    let mut checker = Checker {
        s,
        index,
        report: CheckReport::default(),
        owned: vec![false; n_blocks as usize],
        tids: Vec::new(),
        reader: ListReader::new(),
        list: ROOT_LIST,
    };
    checker.own(0);
    for page_no in 0..index.meta.directory.len {
        checker.own(index.meta.directory.start + page_no);
    }
    for list in std::iter::once(ROOT_LIST).chain(0..index.n_lists()) {
        s.check_interrupts()?;
        checker.list = list;
        match checker.check_list() {
            Err(IvfError::Store(what)) => return Err(IvfError::Store(what)),
            Err(error) => checker.problem(error.to_string()),
            Ok(()) => {}
        }
    }
    checker.check_tids();
    checker.check_unowned()?;
    Ok(checker.report)
}

/// Copies a group.
struct GroupCopy<'a> {
    header: GroupHeader,
    codes: &'a mut [u8],
}

impl GroupVisitor for GroupCopy<'_> {
    fn codes(&mut self, first: usize, bytes: &[u8]) {
        self.codes[first..][..bytes.len()].copy_from_slice(bytes);
    }

    fn group(&mut self, _group: u32, header: &GroupHeader) -> ControlFlow<()> {
        self.header = *header;
        ControlFlow::Continue(())
    }
}

struct Checker<'a, S> {
    s: &'a S,
    index: &'a Index,
    report: CheckReport,
    owned: Vec<bool>,
    tids: Vec<u64>,
    reader: ListReader,
    list: u32,
}

impl<S: PageStore> Checker<'_, S> {
    fn problem(&mut self, what: String) {
        if self.report.problems.len() < MAX_PROBLEMS {
            self.report
                .problems
                .push(format!("list {}: {what}", self.list));
        }
    }

    fn own(&mut self, block: u32) {
        match self.owned.get_mut(block as usize) {
            Some(owned) if !*owned => *owned = true,
            Some(_) => self.problem(format!("page {block} is used twice")),
            None => self.problem(format!("page {block} is past the end")),
        }
    }

    fn check_list(&mut self) -> Result<()> {
        let entry = read_entry(self.s, self.index, self.list)?;
        if self
            .reader
            .map
            .resolve(self.s, self.index, self.list, &entry)?
            == Visit::Changed
        {
            self.problem("its map pages are not its own".into());
            return Ok(());
        }
        let map = &self.reader.map;
        let blocks: Vec<u32> = map
            .code
            .blocks()
            .chain(map.vector.blocks())
            .chain(map.maps.iter().copied())
            .collect();
        for block in blocks {
            self.own(block);
        }
        self.check_frozen(&entry)?;
        self.check_appended(&entry)
    }

    /// Encodes the frozen part anew, group by group.
    fn check_frozen(&mut self, entry: &ListEntry) -> Result<()> {
        let (index, list, dim) = (self.index, self.list, self.index.dim());
        let centroid = read_centroid(self.s, index, list)?;
        let wide: Vec<f32> = centroid.iter().map(|x| x.to_f32()).collect();
        let shape = index.meta.shape();
        let encoder = Encoder::new(index.metric(), shape.filter, &index.rotation, &centroid);
        let group_bytes = shape.bytes();
        let (mut found, mut expected) = (vec![0u8; group_bytes], vec![0u8; group_bytes]);
        let mut live = 0;
        for group in 0..streams::n_groups(entry.frozen_count) {
            self.s.check_interrupts()?;
            let mut copy = GroupCopy {
                header: bytemuck::Zeroable::zeroed(),
                codes: &mut found[HEADER_LINES * LINE_BYTES..],
            };
            let this = group..group + 1;
            let visit = self
                .reader
                .groups(self.s, index, list, entry, this, &mut copy)?;
            let mut header = copy.header;
            let slots = group * GROUP as u32..entry.frozen_count.min((group + 1) * GROUP as u32);
            let mut batch = Batch::default();
            let visit_rows =
                self.reader
                    .rows(self.s, index, list, entry, slots.clone(), |slot, row| {
                        let i = slot as usize % GROUP;
                        batch.push(
                            Tid::new(header.tid_block[i], header.tid_offset[i]),
                            header.err[i],
                            row,
                        );
                    })?;
            if visit == Visit::Changed || visit_rows == Visit::Changed {
                self.problem("it refers to pages that are not its own".into());
                return Ok(());
            }
            live += header.live.count_ones();
            self.check_rows(&batch.rows, &batch.errs);
            for (i, &tid) in batch.tids.iter().enumerate() {
                if list == ROOT_LIST && tid != Tid::new(slots.start + i as u32, 1) {
                    self.problem(format!(
                        "centroid {} has tid {tid:?}",
                        slots.start + i as u32
                    ));
                } else if list != ROOT_LIST && header.live & (1 << i) != 0 {
                    self.tids.push(tid.as_u64());
                }
            }
            batch.encode(0..batch.tids.len(), dim, &encoder, &wide, &mut expected);
            let all_live =
                bytemuck::pod_read_unaligned::<GroupHeader>(&expected[..HEADER_LINES * LINE_BYTES])
                    .live;
            if header.live & !all_live != 0 {
                self.problem(format!(
                    "group {group} has live bits {:#x} of {all_live:#x}",
                    header.live
                ));
            }
            header.live = all_live;
            found[..HEADER_LINES * LINE_BYTES].copy_from_slice(bytemuck::bytes_of(&header));
            if found != expected {
                self.problem(format!(
                    "the codes of group {group} are not those of its vectors"
                ));
            }
        }
        if live != entry.frozen_count - entry.frozen_dead {
            let (count, dead) = (entry.frozen_count, entry.frozen_dead);
            self.problem(format!("{live} live entries, but {dead} of {count} dead"));
        }
        if list != ROOT_LIST {
            self.report.frozen += u64::from(live);
            self.report.frozen_dead += u64::from(entry.frozen_dead);
        }
        Ok(())
    }

    fn check_rows(&mut self, rows: &[f16], errs: &[f32]) {
        if rows.iter().any(|x| !x.is_finite()) {
            self.problem("a vector that is not finite".into());
        }
        if errs.iter().any(|err| err.is_nan() || *err < 0.0) {
            self.problem("an error radius that is no radius".into());
        }
    }

    fn check_appended(&mut self, entry: &ListEntry) -> Result<()> {
        let (s, index, list, dim) = (self.s, self.index, self.list, self.index.meta.dim);
        let n_overflow = append::overflow_pages(dim);
        let mut place = ChainPlace::head(entry);
        let (mut n_pages, mut last) = (0, crate::store::NO_BLOCK);
        while let Some(at) = place {
            // Validates the page and the overflow pages of live entries.
            let (mut tids, mut rows, mut errs) = (Vec::new(), Vec::new(), Vec::new());
            let visit = self
                .reader
                .appended_page(s, index, list, entry, at, |tid, err, row| {
                    tids.push(tid.as_u64());
                    errs.push(err);
                    rows.extend_from_slice(row);
                })?;
            let crate::list_reader::PageVisit::Next { next, .. } = visit else {
                self.problem(format!(
                    "append page {} or an overflow page of it is not its own",
                    at.block
                ));
                return Ok(());
            };
            self.check_rows(&rows, &errs);
            self.own(at.block);
            let (tail, bytes, overflow) = s.read(at.block, |page| {
                let n = page::tail(page)
                    .n_records
                    .min(append::records_per_page(dim));
                let payload = |i| append::payload(page, append::record_offset(i, dim), dim);
                let overflow = (0..n)
                    .map(|i| append::overflow_blocks(payload(i)))
                    .take_while(|_| n_overflow > 0);
                (
                    page::tail(page),
                    page::content_bytes(page),
                    overflow.collect::<Vec<_>>(),
                )
            })?;
            for block in overflow.iter().flat_map(|blocks| &blocks[..n_overflow]) {
                self.own(*block);
            }
            if bytes != tail.n_records as usize * append::record_bytes(dim) || tail.n_records == 0 {
                self.problem(format!(
                    "append page {}: {} records in {bytes} bytes",
                    at.block, tail.n_records
                ));
            }
            self.report.appended += tids.len() as u64;
            self.report.appended_dead += u64::from(tail.n_records) - tids.len() as u64;
            self.tids.append(&mut tids);
            n_pages += 1;
            last = at.block;
            place = next;
        }
        if (n_pages, last) != (entry.append_pages, entry.append_tail) {
            let (pages, tail) = (entry.append_pages, entry.append_tail);
            self.problem(format!(
                "append chain of {n_pages} pages to {last}, but {pages} to {tail} in the directory"
            ));
        }
        Ok(())
    }

    fn check_tids(&mut self) {
        self.tids.sort_unstable();
        let twice: Vec<u64> = self
            .tids
            .windows(2)
            .filter(|w| w[0] == w[1])
            .map(|w| w[0])
            .collect();
        for tid in twice {
            self.problem(format!(
                "heap row ({},{}) occurs twice",
                tid >> 16,
                tid & 0xFFFF
            ));
        }
    }

    /// Counts pages, and tells free ones from leaked ones.
    fn check_unowned(&mut self) -> Result<()> {
        for block in 0..self.owned.len() {
            if self.owned[block] {
                self.report.used_pages += 1;
                continue;
            }
            self.s.check_interrupts()?;
            if self.s.read(block as u32, page::is_free)? {
                self.report.free_pages += 1;
            } else {
                self.report.leaked_pages += 1;
                let kind = self.s.read(block as u32, |page| page::tail(page).kind)?;
                if PageKind::from_u16(kind).is_none() {
                    self.problem(format!("page {block} is of no known kind"));
                }
            }
        }
        Ok(())
    }
}
