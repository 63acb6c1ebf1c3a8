//! Pages of a list in memory, for many queries at once.

use std::cell::RefCell;

use crate::Result;
use crate::store::{PAGE_BYTES, PageStore};

/// A store that reads each page once, until it is told to forget them. For an index that nobody changes.
pub(super) struct PageCache<'a, S> {
    store: &'a S,
    pages: RefCell<Pages>,
}

#[derive(Default)]
struct Pages {
    /// Blocks in ascending order, each with its place in `images`.
    blocks: Vec<(u32, usize)>,
    /// `[n, PAGE_BYTES / 8]`; words, so that what is aligned on a page is aligned here.
    images: Vec<u64>,
}

const PAGE_WORDS: usize = PAGE_BYTES / 8;

impl<'a, S: PageStore> PageCache<'a, S> {
    pub(super) fn new(store: &'a S) -> Self {
        Self {
            store,
            pages: RefCell::default(),
        }
    }

    /// Forgets all pages.
    pub(super) fn clear(&self) {
        let mut pages = self.pages.borrow_mut();
        pages.blocks.clear();
        pages.images.clear();
    }
}

impl<S: PageStore> PageStore for PageCache<'_, S> {
    fn n_blocks(&self) -> Result<u32> {
        self.store.n_blocks()
    }

    fn read<R>(&self, block: u32, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let found = self
            .pages
            .borrow()
            .blocks
            .binary_search_by_key(&block, |&(block, _)| block);
        let place = match found {
            Ok(at) => self.pages.borrow().blocks[at].1,
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
        let pages = self.pages.borrow();
        Ok(f(bytemuck::cast_slice(
            &pages.images[place * PAGE_WORDS..][..PAGE_WORDS],
        )))
    }

    fn prefetch(&self, block: u32) {
        self.store.prefetch(block);
    }

    fn wants_announcements(&self) -> bool {
        false
    }

    fn announce(&self, _blocks: Vec<u32>) {}

    /// Between lists, by whoever holds the cache: once a page would cost more than the page.
    fn check_interrupts(&self) -> Result<()> {
        Ok(())
    }
}
