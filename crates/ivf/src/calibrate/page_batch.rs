//! Pages of some lists in memory, for many queries and threads at once.

use std::cell::RefCell;

use half::f16;

use crate::centroids::unchanged;
use crate::index::{Index, read_entry};
use crate::layout::directory::ListEntry;
use crate::layout::group::GroupHeader;
use crate::layout::page::ROOT_LIST;
use crate::layout::streams;
use crate::list_reader::{AppendedTo, GroupVisitor, ListReader, Visit};
use crate::store::{PAGE_BYTES, PageStore};
use crate::{IvfError, Result};

/// Pages of a batch, about: 8 MB.
const BATCH_PAGES: usize = 1024;
/// A list of more pages is met by one query after the other.
const MAX_LIST_PAGES: u64 = 1024;

/// What queries meet at a time.
pub(super) enum Batch {
    /// Some lists, by any threads.
    Lists(Lists),
    /// One that takes too much memory, or changes: through the store.
    Single(List),
}

/// A list as of its entry.
pub(super) struct List {
    /// Its number.
    pub list: u32,
    /// Where its pages are.
    pub entry: ListEntry,
    /// `[dim]`
    pub centroid: Vec<f16>,
}

/// Consecutive lists with all their pages.
#[derive(Default)]
pub(super) struct Lists {
    /// Ascending.
    pub lists: Vec<List>,
    pages: Pages,
}

/// Reads all lists of an index, in order.
pub(super) struct BatchReader<'a, S> {
    s: &'a S,
    index: &'a Index,
    next: u32,
    single: Option<List>,
    centroids: ListReader,
    reader: ListReader,
}

impl<'a, S: PageStore> BatchReader<'a, S> {
    pub(super) fn new(s: &'a S, index: &'a Index) -> Self {
        Self {
            s,
            index,
            next: 0,
            single: None,
            centroids: ListReader::new(),
            reader: ListReader::new(),
        }
    }

    /// The next lists; `None` after the last. Checks for interrupts between lists.
    pub(super) fn next(&mut self) -> Result<Option<Batch>> {
        if let Some(list) = self.single.take() {
            return Ok(Some(Batch::Single(list)));
        }
        let recorder = Recorder {
            store: self.s,
            pages: RefCell::default(),
        };
        let mut lists = Vec::new();
        while self.next < self.index.n_lists() && recorder.n_pages() < BATCH_PAGES {
            self.s.check_interrupts()?;
            let list = self.list(self.next)?;
            self.next += 1;
            let entry = &list.entry;
            let fits = n_pages(self.index, entry) <= MAX_LIST_PAGES;
            if !fits || self.record(&recorder, &list)? == Visit::Changed {
                self.single = Some(list);
                break;
            }
            lists.push(list);
        }
        if lists.is_empty() {
            return Ok(self.single.take().map(Batch::Single));
        }
        let pages = recorder.pages.into_inner();
        Ok(Some(Batch::Lists(Lists { lists, pages })))
    }

    fn list(&mut self, list: u32) -> Result<List> {
        let (s, index) = (self.s, self.index);
        let mut centroid = Vec::with_capacity(index.coarse_dim());
        let root = &index.meta.root;
        let take = |_, row: &[f16]| centroid.extend_from_slice(row);
        let visit = self
            .centroids
            .read_rows(s, index, ROOT_LIST, root, &[list], take)?;
        unchanged(visit)?;
        Ok(List {
            list,
            entry: read_entry(s, index, list)?,
            centroid,
        })
    }

    /// Reads all that a scan of the list may.
    fn record(&mut self, recorder: &Recorder<S>, list: &List) -> Result<Visit> {
        let List { list, entry, .. } = list;
        let (index, reader) = (self.index, &mut self.reader);
        if reader.visit_groups(recorder, index, *list, entry, &mut Nothing)? == Visit::Changed {
            return Ok(Visit::Changed);
        }
        let slots = 0..entry.frozen_count;
        if reader.rows(recorder, index, *list, entry, slots, |_, _| {})? == Visit::Changed {
            return Ok(Visit::Changed);
        }
        reader.for_each_appended(
            recorder,
            index,
            *list,
            entry,
            &AppendedTo::NOTHING,
            |_, _, _| {},
        )
    }
}

/// Pages of a list.
fn n_pages(index: &Index, entry: &ListEntry) -> u64 {
    let codes = streams::code_pages(entry.frozen_count, index.meta.shape());
    let vectors = streams::vector_pages(entry.frozen_count.into(), index.form.row_words());
    codes + vectors + u64::from(entry.append_pages)
}

/// Looks at nothing.
struct Nothing;

impl GroupVisitor for Nothing {
    fn codes(&mut self, _first: usize, _bytes: &[u8]) {}

    fn group(&mut self, _group: u32, _header: &GroupHeader) -> std::ops::ControlFlow<()> {
        std::ops::ControlFlow::Continue(())
    }
}

#[derive(Default)]
struct Pages {
    /// Blocks in ascending order, each with its place in `images`.
    blocks: Vec<(u32, usize)>,
    /// `[n, PAGE_BYTES / 8]`; words, so that what is aligned on a page is aligned here.
    images: Vec<u64>,
}

const PAGE_WORDS: usize = PAGE_BYTES / 8;

impl Pages {
    /// The place of a block in `images`, or where it belongs in `blocks`.
    fn find(&self, block: u32) -> std::result::Result<usize, usize> {
        let at = self
            .blocks
            .binary_search_by_key(&block, |&(block, _)| block);
        at.map(|at| self.blocks[at].1)
    }

    fn page(&self, place: usize) -> &[u8] {
        bytemuck::cast_slice(&self.images[place * PAGE_WORDS..][..PAGE_WORDS])
    }
}

/// A store that keeps what is read.
struct Recorder<'a, S> {
    store: &'a S,
    pages: RefCell<Pages>,
}

impl<S> Recorder<'_, S> {
    fn n_pages(&self) -> usize {
        self.pages.borrow().blocks.len()
    }
}

impl<S: PageStore> PageStore for Recorder<'_, S> {
    fn n_blocks(&self) -> Result<u32> {
        self.store.n_blocks()
    }

    fn read<R>(&self, block: u32, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let found = self.pages.borrow().find(block);
        let place = match found {
            Ok(place) => place,
            Err(at) => {
                let mut pages = self.pages.borrow_mut();
                let place = pages.blocks.len();
                let images = &mut pages.images;
                self.store.read(block, |page| {
                    images.resize((place + 1) * PAGE_WORDS, 0);
                    bytemuck::cast_slice_mut(&mut images[place * PAGE_WORDS..])
                        .copy_from_slice(page);
                })?;
                pages.blocks.insert(at, (block, place));
                place
            }
        };
        Ok(f(self.pages.borrow().page(place)))
    }

    fn prefetch(&self, block: u32) {
        self.store.prefetch(block);
    }

    fn wants_announcements(&self) -> bool {
        false
    }

    fn announce(&self, _blocks: Vec<u32>) {}

    /// Between lists, by the reader: once a page would cost more than the page.
    fn check_interrupts(&self) -> Result<()> {
        Ok(())
    }
}

/// The pages as they were read, and no others. Interrupts are for the thread that reads.
impl PageStore for Lists {
    fn n_blocks(&self) -> Result<u32> {
        Err(not_read(0))
    }

    fn read<R>(&self, block: u32, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let place = self.pages.find(block).map_err(|_| not_read(block))?;
        Ok(f(self.pages.page(place)))
    }

    fn prefetch(&self, _block: u32) {}

    fn wants_announcements(&self) -> bool {
        false
    }

    fn announce(&self, _blocks: Vec<u32>) {}

    fn check_interrupts(&self) -> Result<()> {
        Ok(())
    }
}

#[cold]
fn not_read(block: u32) -> IvfError {
    IvfError::Store(format!("block {block} was not read for the calibration"))
}
