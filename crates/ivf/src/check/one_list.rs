//! One list: its pages, its frozen part with all codes anew, its appendable part (`appended.rs`).

use std::ops::ControlFlow;

use super::entry::{EntryCheck, fingerprint};
use super::pages::{Place, check_place};
use super::report::{Finding, Findings};
use crate::frozen_writer::{Batch, ListEncoder, read_centroid};
use crate::index::Index;
use crate::layout::directory::ListEntry;
use crate::layout::group::{GROUP, GroupHeader, HEADER_LINES};
use crate::layout::map::MapRecord;
use crate::layout::page::{CONTENT_BYTES, LINE_BYTES, PageKind, ROOT_LIST};
use crate::layout::streams;
use crate::list_reader::{GroupVisitor, ListReader, Visit};
use crate::rabitq::Encoder;
use crate::store::PageStore;
use crate::{IvfError, Result, Tid};

/// Relative allowance for a mean that was summed up in another order, and rounded.
const RADIUS_SLACK: f64 = 1e-5;

/// What a list turned out to be.
pub(super) struct ListCheck {
    pub list: u32,
    /// The directory entry it was checked by.
    pub entry: Option<ListEntry>,
    pub findings: Findings,
    /// Pages it refers to.
    pub blocks: Vec<u32>,
    /// Heap rows and fingerprints of its live entries.
    pub rows: Vec<(Tid, u64)>,
    /// Whether all entries could be read.
    pub is_complete: bool,
    /// Of the frozen part.
    pub live: u64,
    pub dead: u64,
    pub appended: u64,
    pub appended_dead: u64,
    reader: ListReader,
}

impl ListCheck {
    pub(super) fn new(list: u32) -> Self {
        Self {
            list,
            entry: None,
            findings: Findings::default(),
            blocks: Vec::new(),
            rows: Vec::new(),
            is_complete: true,
            live: 0,
            dead: 0,
            appended: 0,
            appended_dead: 0,
            reader: ListReader::new(),
        }
    }

    pub(super) fn found(&mut self, what: impl Into<String>) {
        self.findings.add(Finding::of_list(self.list, what));
    }

    pub(super) fn found_on(&mut self, block: u32, what: impl Into<String>) {
        self.findings
            .add(Finding::of_page(Some(self.list), block, what));
    }

    /// Checks both parts by `entry`. Damage to one does not keep the other from being checked.
    pub(super) fn run<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        entry: &ListEntry,
        assigns: bool,
        has_place: &mut dyn FnMut(Tid) -> bool,
    ) -> Result<()> {
        self.entry = Some(*entry);
        if entry.frozen_dead > 0 && entry.delete_gen == 0 {
            self.found(format!(
                "{} entries died, but its deletion generation is 0",
                entry.frozen_dead
            ));
        }
        let centroid = read_centroid(s, index, self.list)?;
        let entries = EntryCheck::new(s, index, self.list, &centroid, assigns)?;
        if self.streams(s, index, entry)? {
            let frozen = self.frozen(s, index, entry, &centroid, &entries, has_place);
            self.note(frozen)?;
        } else {
            self.is_complete = false;
        }
        let appended = self.chain(s, index, entry, &entries, has_place);
        self.note(appended)
    }

    /// Damage that ended a part is a finding.
    fn note(&mut self, outcome: Result<()>) -> Result<()> {
        let Err(IvfError::Corrupt { block, what }) = outcome else {
            return outcome;
        };
        self.found_on(block, what);
        self.is_complete = false;
        Ok(())
    }

    /// Checks the pages of both streams. False if they cannot be read as such.
    fn streams<S: PageStore>(&mut self, s: &S, index: &Index, entry: &ListEntry) -> Result<bool> {
        let resolved = match self.reader.map.resolve(s, index, self.list, entry) {
            Err(error) => return self.note(Err(error)).map(|()| false),
            Ok(visit) => visit,
        };
        if resolved == Visit::Changed {
            self.found_on(entry.map_head, "the map pages are not the list's own");
            return Ok(false);
        }
        let shape = index.meta.shape();
        let code_bytes = streams::n_groups(entry.frozen_count) as usize * shape.bytes();
        let vector_bytes =
            index.n_rows(self.list, entry) * streams::row_bytes(index.row_words(self.list)) as u64;
        let map = &self.reader.map;
        let parts = [
            (
                PageKind::Code,
                code_bytes as u64,
                map.code.blocks().collect::<Vec<u32>>(),
            ),
            (
                PageKind::Vector,
                vector_bytes,
                map.vector.blocks().collect(),
            ),
            (PageKind::Map, 0, map.maps.clone()),
        ];
        let mut are_ours = true;
        for (kind, bytes, blocks) in parts {
            for (seq, &block) in blocks.iter().enumerate() {
                let before = seq as u64 * CONTENT_BYTES as u64;
                let place = Place {
                    kind,
                    list: self.list,
                    stamp: entry.layout_gen,
                    seq: seq as u32,
                    n_bytes: bytes.saturating_sub(before).min(CONTENT_BYTES as u64) as usize,
                };
                are_ours &= self.page(s, block, &place)?;
                if kind == PageKind::Map {
                    self.map_bytes(s, block)?;
                }
            }
            self.blocks.extend(blocks);
        }
        Ok(are_ours)
    }

    /// Checks header and tail of a page. False if it is another, or cannot be read.
    pub(super) fn page<S: PageStore>(&mut self, s: &S, block: u32, place: &Place) -> Result<bool> {
        match check_place(s, block, place, &mut self.findings) {
            Err(IvfError::Corrupt { block, what }) => {
                self.found_on(block, what);
                Ok(false)
            }
            other => other,
        }
    }

    fn map_bytes<S: PageStore>(&mut self, s: &S, block: u32) -> Result<()> {
        use crate::layout::page;
        let (n_records, n_bytes) = s.read(block, |bytes| {
            (page::tail(bytes).n_records, page::content_bytes(bytes))
        })?;
        if n_bytes != n_records as usize * size_of::<MapRecord>() {
            self.found_on(block, format!("{n_records} map records in {n_bytes} bytes"));
        }
        Ok(())
    }

    /// Encodes the frozen part anew, group by group.
    fn frozen<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        entry: &ListEntry,
        centroid: &[half::f16],
        entries: &EntryCheck<S>,
        has_place: &mut dyn FnMut(Tid) -> bool,
    ) -> Result<()> {
        let (list, shape) = (self.list, index.meta.shape());
        let words = index.row_words(list) as usize;
        let encoder = Encoder::new(index.metric(), shape.filter, &index.rotation, centroid);
        let encoder = ListEncoder::new(encoder, centroid, index.coarser(list));
        let mut reader = std::mem::take(&mut self.reader);
        let (mut found, mut expected) = (vec![0u8; shape.bytes()], vec![0u8; shape.bytes()]);
        let (mut live, mut sum_sq) = (0, 0f64);
        for group in 0..streams::n_groups(entry.frozen_count) {
            s.check_interrupts()?;
            let (header, batch) =
                read_group(s, index, list, entry, group, &mut reader, &mut found)?;
            live += header.live.count_ones();
            let first = group * GROUP as u32;
            for (i, (&tid, &err)) in batch.tids.iter().zip(&batch.errs).enumerate() {
                let row = &batch.rows[i * words..][..words];
                let is_live = header.live & (1 << i) != 0;
                let slot = first + i as u32;
                self.entry(entries, (tid, err, row), is_live, has_place, &|| {
                    format!("entry {slot}")
                })?;
                if list == ROOT_LIST && tid != Tid::new(slot, 1) {
                    self.found(format!("centroid {slot} has tid {tid:?}"));
                }
            }
            sum_sq += batch.encode(0..batch.tids.len(), words, &encoder, &mut expected);
            self.compare(group, header, &mut found, &expected);
        }
        self.reader = reader;
        let (count, dead) = (entry.frozen_count, entry.frozen_dead);
        if live != count - dead {
            self.found(format!("{live} live entries, but {dead} of {count} dead"));
        }
        let radius = (sum_sq / f64::from(count.max(1))).sqrt();
        let off = (f64::from(entry.radius) - radius).abs();
        if radius.is_finite() && (off.is_nan() || off > radius * RADIUS_SLACK) {
            self.found(format!("radius {}, but it is {radius}", entry.radius));
        }
        (self.live, self.dead) = (u64::from(live), u64::from(dead));
        Ok(())
    }

    /// Compares a group as read with what it is made of. `found`: the whole group, but for its header.
    fn compare(&mut self, group: u32, header: GroupHeader, found: &mut [u8], expected: &[u8]) {
        const HEAD: usize = HEADER_LINES * LINE_BYTES;
        let all_live = bytemuck::pod_read_unaligned::<GroupHeader>(&expected[..HEAD]).live;
        if header.live & !all_live != 0 {
            self.found(format!(
                "group {group} has live bits {:#x} of {all_live:#x}",
                header.live
            ));
        }
        let header = GroupHeader {
            live: all_live,
            ..header
        };
        found[..HEAD].copy_from_slice(bytemuck::bytes_of(&header));
        if found != expected {
            self.found(format!(
                "the codes of group {group} are not those of its vectors"
            ));
        }
    }

    /// Checks an entry, and takes note of a live one. `name` says which it is.
    pub(super) fn entry<S: PageStore>(
        &mut self,
        entries: &EntryCheck<S>,
        (tid, err, row): (Tid, f32, &[half::f16]),
        is_live: bool,
        has_place: &mut dyn FnMut(Tid) -> bool,
        name: &dyn Fn() -> String,
    ) -> Result<()> {
        let is_sound = match entries.numbers(row, err) {
            Some(what) => {
                self.found(format!("{}: {what}", name()));
                false
            }
            None => true,
        };
        if !is_live || self.list == ROOT_LIST {
            return Ok(());
        }
        if is_sound && let Some(other) = entries.other_list(row)? {
            self.found(format!("{} belongs to list {other}", name()));
        }
        if tid.offset == 0 || !has_place(tid) {
            let (block, offset) = (tid.block, tid.offset);
            self.found(format!(
                "{} is of heap row ({block},{offset}), for which the table has no place",
                name()
            ));
        }
        self.rows.push((tid, fingerprint(row, err)));
        Ok(())
    }
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

/// A group's header and entries; its codes go to `found`, behind the place of the header.
fn read_group<S: PageStore>(
    s: &S,
    index: &Index,
    list: u32,
    entry: &ListEntry,
    group: u32,
    reader: &mut ListReader,
    found: &mut [u8],
) -> Result<(GroupHeader, Batch)> {
    let mut copy = GroupCopy {
        header: bytemuck::Zeroable::zeroed(),
        codes: &mut found[HEADER_LINES * LINE_BYTES..],
    };
    let groups = reader.groups(s, index, list, entry, group..group + 1, &mut copy)?;
    let header = copy.header;
    let slots = group * GROUP as u32..entry.frozen_count.min((group + 1) * GROUP as u32);
    let mut batch = Batch::default();
    let rows = reader.rows(s, index, list, entry, slots, |slot, row| {
        let i = slot as usize % GROUP;
        let tid = Tid::new(header.tid_block[i], header.tid_offset[i]);
        batch.push(tid, header.err[i], row);
    })?;
    if groups == Visit::Changed || rows == Visit::Changed {
        let block = reader.map.code.blocks().next().unwrap_or(0);
        return Err(IvfError::corrupt(block, "its pages are not the list's own"));
    }
    Ok((header, batch))
}
