//! Build: pages of a part of a list, made by any thread from some of its entries.
//!
//! What a page holds depends on the list and on where in its streams the part lies, not on the block it is written to. A part
//! begins and ends within pages: whoever writes the parts, in order, joins those ([`Joined`]).

use std::io::{self, Read};

use half::f16;

use crate::build_entries::EntryBlock;
use crate::form::RowForm;
use crate::frozen_writer::ListEncoder;
use crate::layout::directory::Run;
use crate::layout::group::{GROUP, GroupShape};
use crate::layout::page::{self, CONTENT_BYTES, PageKind, ROOT_LIST};
use crate::layout::streams::{byte_position, row_bytes};
use crate::rabitq::Encoder;
use crate::rotation::Rotation;
use crate::store::{BulkWriter, PAGE_BYTES};
use crate::write_index::{IndexSpec, misuse};
use crate::{Result, VectorKind};

/// Layout generation of a list as built.
pub(crate) const FIRST_LAYOUT: u32 = 1;
/// About as many bytes of rows make a piece, and at most so many groups.
const PIECE_BYTES: usize = 512 << 10;
const MAX_GROUPS: usize = 64;

/// Entries of a full piece, whole groups, of rows of so many words.
pub(crate) fn piece_entries(words: usize) -> usize {
    (PIECE_BYTES / (2 * words * GROUP)).clamp(1, MAX_GROUPS) * GROUP
}

/// The most bytes of vector pages that a piece of such rows has; of the root list one row more.
pub(crate) fn piece_bytes(words: usize) -> usize {
    let rows = (piece_entries(words) + 1) * row_bytes(words as u32);
    // It begins within a page.
    (1 + rows.div_ceil(CONTENT_BYTES)) * PAGE_BYTES
}

/// What a piece is made of.
pub(crate) struct Job {
    /// The list, or `ROOT_LIST`.
    pub list: u32,
    /// Entries of the list before these, whole groups.
    pub first: u64,
    pub block: EntryBlock,
    /// So many at the end are no entries, but rows of the vector stream alone.
    pub n_extra: usize,
    /// Memory of the vector pages of a piece that is written, to be used again.
    pub memory: Vec<u8>,
}

impl Job {
    /// Bytes of memory that it and its piece take, roughly.
    pub(crate) fn n_bytes(&self, words: usize) -> usize {
        let rows = self.block.len() * row_bytes(words as u32);
        rows + rows.max(self.memory.capacity()) + 2 * PAGE_BYTES
    }
}

/// A part of a list, made and not yet written.
pub struct Piece {
    /// Its list.
    pub list: u32,
    /// Entries of the list before it, whole groups.
    pub first: u64,
    /// Entries in it.
    pub n_entries: u32,
    /// Of each group, the sum of the squared distances to the centroid.
    pub(crate) sums: Vec<f64>,
    pub(crate) vectors: Part,
    pub(crate) codes: Part,
}

impl Piece {
    /// The rows (`[n_entries, row_words]` words of 16 bits), as they lie on pages.
    pub fn rows(&self) -> Contents<'_> {
        self.vectors.contents()
    }

    /// The groups (`[ceil(n_entries / 32), GroupShape::bytes]`), as they lie on pages.
    pub fn groups(&self) -> Contents<'_> {
        self.codes.contents()
    }
}

/// Reads the bytes of a part of a stream.
pub struct Contents<'a> {
    part: &'a Part,
    /// Pages from here on are to be read, and what is left of the one before.
    page: usize,
    rest: &'a [u8],
}

impl Contents<'_> {
    /// Leaves out so many bytes, or what is left.
    pub fn skip(&mut self, mut n: usize) {
        while n > 0 && self.fill() {
            let now = n.min(self.rest.len());
            self.rest = &self.rest[now..];
            n -= now;
        }
    }

    /// Whether there is something left, which is at hand then.
    fn fill(&mut self) -> bool {
        while self.rest.is_empty() {
            let Some(content) = self.part.content(self.page) else {
                return false;
            };
            self.rest = content;
            self.page += 1;
        }
        true
    }
}

impl Read for Contents<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if !self.fill() {
            return Ok(0);
        }
        let n = to.len().min(self.rest.len());
        let (now, later) = self.rest.split_at(n);
        to[..n].copy_from_slice(now);
        self.rest = later;
        Ok(n)
    }
}

/// Pages of a part of a stream.
pub(crate) struct Part {
    kind: PageKind,
    list: u32,
    /// Of the first page.
    seq: u32,
    /// `[n, PAGE_BYTES]`
    images: Vec<u8>,
    /// Content of the first page that belongs to the part before.
    start: usize,
    /// Content of the last page that is in use.
    end: usize,
}

impl Part {
    /// An empty part from byte `first` of a stream on, for `n_bytes`, in memory that may have been used before.
    fn new(kind: PageKind, list: u32, first: u64, n_bytes: usize, mut memory: Vec<u8>) -> Self {
        memory.clear();
        let (seq, start) = byte_position(first);
        memory.reserve_exact((start + n_bytes).div_ceil(CONTENT_BYTES) * PAGE_BYTES);
        Self {
            kind,
            list,
            seq: seq as u32,
            images: memory,
            start,
            end: CONTENT_BYTES,
        }
    }

    fn contents(&self) -> Contents<'_> {
        Contents {
            part: self,
            page: 0,
            rest: &[],
        }
    }

    /// What of page number `page` belongs to it.
    fn content(&self, page: usize) -> Option<&[u8]> {
        let (images, _) = self.images.as_chunks::<PAGE_BYTES>();
        let content = page::content(images.get(page)?);
        let start = if page == 0 { self.start } else { 0 };
        let end = if page + 1 == images.len() {
            self.end
        } else {
            CONTENT_BYTES
        };
        Some(&content[start..end])
    }

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let at = self.images.len();
            if self.end == CONTENT_BYTES {
                let seq = self.seq + (at / PAGE_BYTES) as u32;
                self.images.resize(at + PAGE_BYTES, 0);
                let image = &mut self.images[at..];
                page::init_page(image, self.kind, self.list, FIRST_LAYOUT, seq);
                page::set_content_bytes(image, CONTENT_BYTES);
                self.end = if at == 0 { self.start } else { 0 };
            }
            let last = self.images.len() - PAGE_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(CONTENT_BYTES - self.end));
            let content = page::content_mut(&mut self.images[last..]);
            content[self.end..self.end + now.len()].copy_from_slice(now);
            self.end += now.len();
            bytes = later;
        }
    }
}

/// Makes pieces.
pub(crate) struct Maker<'a> {
    pub spec: &'a IndexSpec,
    pub form: &'a RowForm,
    pub rotation: &'a Rotation,
    pub shape: GroupShape,
    /// The centroids' mean, which is the root list's centroid.
    pub mean: &'a [f16],
}

impl Maker<'_> {
    fn centroid(&self, list: u32) -> &[f16] {
        let dim = self.form.coarse_dim() as usize;
        let centroid = self.spec.centroids.get(list as usize * dim..);
        centroid.map_or(self.mean, |rest| &rest[..dim])
    }

    /// Words of a row of `list`.
    pub(crate) fn row_words(&self, list: u32) -> u32 {
        if list == ROOT_LIST {
            self.form.coarse_dim()
        } else {
            self.form.row_words()
        }
    }

    /// Makes the piece of a job.
    pub(crate) fn make(&self, job: Job) -> Piece {
        let Job {
            list,
            first,
            block,
            n_extra,
            memory,
        } = job;
        let n = block.len() - n_extra;
        let centroid = self.centroid(list);
        let (metric, filter) = (self.spec.metric, self.spec.filter);
        let encoder = Encoder::new(metric, filter, self.rotation, centroid);
        let is_row = list == ROOT_LIST || self.form.kind() == VectorKind::Half;
        let encoder = ListEncoder::new(encoder, centroid, (!is_row).then_some(self.form));
        let (row, group) = (row_bytes(self.row_words(list)), self.shape.bytes());
        let at = first * row as u64;
        let mut vectors = Part::new(PageKind::Vector, list, at, block.len() * row, memory);
        let at = first / GROUP as u64 * group as u64;
        let n_bytes = n.div_ceil(GROUP) * group;
        let mut codes = Part::new(PageKind::Code, list, at, n_bytes, Vec::new());
        let mut group = vec![0; group];
        let mut sums = Vec::with_capacity(n.div_ceil(GROUP));
        for start in (0..n).step_by(GROUP) {
            let range = start..n.min(start + GROUP);
            let rows: Vec<&[f16]> = range.clone().map(|i| block.row(i)).collect();
            let (tids, errs): (Vec<_>, Vec<_>) = range.map(|i| block.head(i)).unzip();
            sums.push(encoder.encode(&rows, &errs, &tids, &mut group));
            codes.push(&group);
            for row in rows {
                vectors.push(bytemuck::cast_slice(row));
            }
        }
        for i in n..block.len() {
            vectors.push(bytemuck::cast_slice(block.row(i)));
        }
        Piece {
            list,
            first,
            n_entries: n as u32,
            sums,
            vectors,
            codes,
        }
    }
}

/// The parts of one stream, joined as they are written.
#[derive(Default)]
pub(crate) struct Joined {
    /// The page that the next part goes on with, and its content in use.
    open: Option<(Vec<u8>, usize)>,
    run: Run,
}

impl Joined {
    /// Writes a part, all but an unfinished page at its end. Gives its memory back.
    pub(crate) fn add<W: BulkWriter>(&mut self, w: &mut W, part: Part) -> Result<Vec<u8>> {
        let mut images = part.images;
        if images.is_empty() {
            return Ok(images);
        }
        if let Some((open, used)) = self.open.take() {
            assert_eq!(used, part.start, "a part goes on where the last one ended");
            page::content_mut(&mut images[..PAGE_BYTES])[..used]
                .copy_from_slice(&page::content(&open)[..used]);
        }
        let n_last = if part.end < CONTENT_BYTES {
            PAGE_BYTES
        } else {
            0
        };
        let (full, last) = images.split_at(images.len() - n_last);
        self.append(w, full)?;
        if n_last > 0 {
            self.open = Some((last.to_vec(), part.end));
        }
        Ok(images)
    }

    /// Writes what is left; the pages it all went to.
    pub(crate) fn finish<W: BulkWriter>(mut self, w: &mut W) -> Result<Run> {
        if let Some((mut image, used)) = self.open.take() {
            page::set_content_bytes(&mut image, used);
            self.append(w, &image)?;
        }
        Ok(self.run)
    }

    fn append<W: BulkWriter>(&mut self, w: &mut W, pages: &[u8]) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        let start = w.append_all(pages)?;
        if self.run.len == 0 {
            self.run.start = start;
        } else if self.run.start + self.run.len != start {
            return Err(misuse("pages were not appended one after the other".into()));
        }
        self.run.len += (pages.len() / PAGE_BYTES) as u32;
        Ok(())
    }
}
