//! Pages in memory, for tests: behaves as Postgres does where it matters, and is strict about what callers must do.
//!
//! - The hole of every logged page is zeroed, as GenericXLog does.
//! - A record covers at most `MAX_UPDATE_PAGES` pages, locked in the order list lock, directory, data pages in stream
//!   or chain order; what belongs to a list is changed only under its lock (`locks.rs`). Violations panic.
//! - Calling the store from within a closure panics.
//! - It keeps a journal of its records, so that a test can look at the state after any prefix of them, i.e. after a
//!   crash; and it hands out free pages in random order, so that streams get fragmented.
//! - It wants announcements (where tests check, or while it records them and the reads), of blocks that exist.
//! - A hook runs before reads, so that a test can change the index between two reads of a scan.
//!
//! It can be shared by threads; [`MemStore::read`] and `update` lock single pages, as Postgres's buffers are locked.

mod bulk;
mod control;
mod locks;
mod pins;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::layout::page::{self, CONTENT_START, TAIL_START};
use crate::store::{ListLock, MAX_UPDATE_PAGES, PAGE_BYTES, PageStore, PageStoreMut};
use crate::{IvfError, Result};

use locks::{ListLocks, assert_change, assert_order, enter};

/// A page image, aligned as Postgres aligns its buffers.
type Image = [u64; PAGE_BYTES / 8];
type Hook = Box<dyn FnMut(&MemStore, u32) + Send>;

/// One WAL record: the new images of the pages it covers.
#[derive(Debug, Clone)]
pub struct Record(Vec<(u32, Arc<Image>)>);

/// An index in memory.
#[derive(Default)]
pub struct MemStore {
    pages: RwLock<Vec<Arc<RwLock<Arc<Image>>>>>,
    /// Blocks believed free, as the free space map of Postgres: a hint, verified before use.
    free: Mutex<Vec<u32>>,
    fragments: Option<Mutex<StdRng>>,
    /// Byte offset of the slices handed out by `read` from a multiple of 8.
    misaligned: usize,
    locks: ListLocks,
    journal: Mutex<Vec<Record>>,
    hook: Mutex<Option<Hook>>,
    calls_until_failure: AtomicI64,
    n_reads: AtomicU64,
    n_pins: AtomicU64,
    most_pins: Option<u64>,
    accesses: Mutex<Option<Vec<Access>>>,
    /// Changes of each list, by those who tell.
    changes: Mutex<HashMap<u32, u32>>,
}

/// What was asked of a store, while that is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// A page was read.
    Read(u32),
    /// Pages were announced.
    Announced(Vec<u32>),
}

impl MemStore {
    /// An empty file.
    pub fn new() -> Self {
        Self {
            calls_until_failure: AtomicI64::new(i64::MAX),
            ..Self::default()
        }
    }

    /// An empty file that grows by several pages at a time and allocates them in random order.
    pub fn fragmented(seed: u64) -> Self {
        Self {
            fragments: Some(Mutex::new(StdRng::seed_from_u64(seed))),
            ..Self::new()
        }
    }

    /// From now on pages are read at addresses `offset` bytes past a multiple of 8.
    pub fn misalign(&mut self, offset: usize) {
        self.misaligned = offset;
    }

    fn cells(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<RwLock<Arc<Image>>>>> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, block: u32) -> Result<Arc<RwLock<Arc<Image>>>> {
        let cells = self.cells();
        cells
            .get(block as usize)
            .cloned()
            .ok_or_else(|| IvfError::Store(format!("no block {block}")))
    }

    fn grow(&self, n_blocks: u32) {
        let mut cells = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        while cells.len() < n_blocks as usize {
            cells.push(Arc::new(RwLock::new(Arc::new([0; PAGE_BYTES / 8]))));
        }
    }

    fn may_fail(&self) -> Result<()> {
        if self.calls_until_failure.fetch_sub(1, Ordering::Relaxed) == 1 {
            return Err(IvfError::Store("injected".into()));
        }
        Ok(())
    }

    fn run_hook(&self, block: u32) {
        let hook = lock(&self.hook).take();
        if let Some(mut hook) = hook {
            hook(self, block);
            lock(&self.hook).get_or_insert(hook);
        }
    }

    /// A block that is really free, for this caller alone.
    fn take_free(&self) -> u32 {
        let mut free = lock(&self.free);
        loop {
            if free.is_empty() {
                let n_blocks = self.cells().len() as u32;
                let step = self
                    .fragments
                    .as_ref()
                    .map_or(1, |rng| lock(rng).random_range(1..24));
                self.grow(n_blocks + step);
                free.extend((n_blocks..n_blocks + step).rev());
            }
            // The lowest block if nothing else is wished, so that pages are reused as soon as they can be.
            let i = match &self.fragments {
                Some(rng) => lock(rng).random_range(0..free.len()),
                None => (0..free.len()).min_by_key(|&i| free[i]).expect("not empty"),
            };
            let block = free.swap_remove(i);
            let image = image_of(&self.cell(block).expect("blocks of the free list exist"));
            if page::is_free(bytemuck::cast_slice(image.as_slice())) {
                return block;
            }
        }
    }

    fn record(&self, access: impl FnOnce() -> Access) {
        if let Some(accesses) = &mut *lock(&self.accesses) {
            accesses.push(access());
        }
    }

    /// Logs and publishes new images while their pages are locked.
    fn log(&self, pages: Vec<(u32, Arc<Image>)>) {
        lock(&self.journal).push(Record(pages));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn image_of(cell: &RwLock<Arc<Image>>) -> Arc<Image> {
    cell.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What logging does to a page: the hole is lost.
fn zero_hole(page: &mut [u8]) {
    let at = |i: usize| usize::from(u16::from_ne_bytes([page[i], page[i + 1]]));
    let (lower, upper, special) = (at(12), at(14), at(16));
    assert!(
        CONTENT_START <= lower && lower <= upper && upper <= special && special == TAIL_START,
        "page header"
    );
    page[lower..upper].fill(0);
}

impl PageStore for MemStore {
    fn n_blocks(&self) -> Result<u32> {
        let _inside = enter();
        Ok(self.cells().len() as u32)
    }

    fn read<R>(&self, block: u32, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.may_fail()?;
        self.run_hook(block);
        let _inside = enter();
        self.n_reads.fetch_add(1, Ordering::Relaxed);
        self.record(|| Access::Read(block));
        let cell = self.cell(block)?;
        let image = cell.read().unwrap_or_else(PoisonError::into_inner);
        let bytes: &[u8] = bytemuck::cast_slice(image.as_slice());
        if self.misaligned == 0 {
            return Ok(f(bytes));
        }
        let mut moved = vec![0u64; PAGE_BYTES / 8 + 1];
        let moved =
            &mut bytemuck::cast_slice_mut::<u64, u8>(&mut moved)[self.misaligned..][..PAGE_BYTES];
        moved.copy_from_slice(bytes);
        Ok(f(moved))
    }

    fn prefetch(&self, block: u32) {
        let _inside = enter();
        assert!(
            (block as usize) < self.cells().len(),
            "prefetch of block {block} past the end"
        );
    }

    fn wants_announcements(&self) -> bool {
        cfg!(debug_assertions) || lock(&self.accesses).is_some()
    }

    fn announce(&self, blocks: Vec<u32>) {
        let _inside = enter();
        let n_blocks = self.cells().len() as u32;
        let past_end = blocks.iter().find(|&&block| block >= n_blocks);
        assert_eq!(past_end, None, "announced past the end");
        self.record(|| Access::Announced(blocks));
    }

    fn check_interrupts(&self) -> Result<()> {
        let _inside = enter();
        self.may_fail()
    }

    fn list_version(&self, list: u32) -> u32 {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        1 + changes.get(&list).copied().unwrap_or(0)
    }
}

impl PageStoreMut for MemStore {
    fn update(&self, blocks: &[u32], f: impl FnOnce(&mut [&mut [u8]]) -> bool) -> Result<bool> {
        self.may_fail()?;
        let _inside = enter();
        assert!(
            (1..=MAX_UPDATE_PAGES).contains(&blocks.len()),
            "{} pages in a record",
            blocks.len()
        );
        assert!(
            (1..blocks.len()).all(|i| !blocks[..i].contains(&blocks[i])),
            "pages of a record differ: {blocks:?}"
        );
        let cells: Vec<_> = blocks
            .iter()
            .map(|&block| self.cell(block))
            .collect::<Result<_>>()?;
        let mut guards: Vec<_> = cells
            .iter()
            .map(|c| c.write().unwrap_or_else(PoisonError::into_inner))
            .collect();
        for (&block, guard) in blocks.iter().zip(&guards) {
            page::check_header(bytemuck::cast_slice(guard.as_slice()), block)?;
        }
        let mut images: Vec<Image> = guards.iter().map(|image| ***image).collect();
        let mut pages: Vec<&mut [u8]> = images
            .iter_mut()
            .map(|i| bytemuck::cast_slice_mut(i.as_mut_slice()))
            .collect();
        if !f(&mut pages) {
            return Ok(false);
        }
        for page in &mut pages {
            zero_hole(page);
        }
        assert_order(&pages);
        for (old, new) in guards.iter().zip(&pages) {
            assert_change(&self.locks, bytemuck::cast_slice(old.as_slice()), new);
        }
        let images: Vec<Arc<Image>> = images.into_iter().map(Arc::new).collect();
        self.log(blocks.iter().copied().zip(images.iter().cloned()).collect());
        for (guard, image) in guards.iter_mut().zip(images) {
            **guard = image;
        }
        Ok(true)
    }

    fn allocate(&self, init: impl FnOnce(&mut [u8])) -> Result<u32> {
        self.may_fail()?;
        let _inside = enter();
        let block = self.take_free();
        let mut image: Image = [0; PAGE_BYTES / 8];
        let page: &mut [u8] = bytemuck::cast_slice_mut(image.as_mut_slice());
        init(page);
        zero_hole(page);
        self.locks.assert_held(page::tail(page).list);
        let cell = self.cell(block)?;
        let mut guard = cell.write().unwrap_or_else(PoisonError::into_inner);
        let image = Arc::new(image);
        self.log(vec![(block, image.clone())]);
        *guard = image;
        Ok(block)
    }

    fn free(&self, block: u32) -> Result<()> {
        self.may_fail()?;
        let _inside = enter();
        let cell = self.cell(block)?;
        {
            let mut guard = cell.write().unwrap_or_else(PoisonError::into_inner);
            let mut image = **guard;
            let page: &mut [u8] = bytemuck::cast_slice_mut(image.as_mut_slice());
            assert!(!page::is_free(page), "block {block} freed twice");
            self.locks.assert_held(page::tail(page).list);
            page::init_free(page);
            let image = Arc::new(image);
            self.log(vec![(block, image.clone())]);
            *guard = image;
        }
        lock(&self.free).push(block);
        Ok(())
    }

    fn lock_list(&self, list: u32, mode: ListLock) -> Result<()> {
        self.may_fail()?;
        let _inside = enter();
        self.locks.lock(list, mode);
        Ok(())
    }

    fn try_lock_list(&self, list: u32, mode: ListLock) -> Result<bool> {
        self.may_fail()?;
        let _inside = enter();
        Ok(self.locks.try_lock(list, mode))
    }

    fn unlock_list(&self, list: u32, mode: ListLock) -> Result<()> {
        let _inside = enter();
        self.locks.unlock(list, mode);
        Ok(())
    }

    fn note_change(&self, list: u32) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        *changes.entry(list).or_default() += 1;
    }
}
