//! What tests do to a store from outside: copies, replay, hooks, faults, damage.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{Access, MemStore, Record, image_of, lock};

impl MemStore {
    /// A copy of the pages, with an empty journal and the free list as it is: what a standby, or a crashed server
    /// whose free space map is outdated, starts from.
    pub fn snapshot(&self) -> Self {
        let pages = self
            .cells()
            .iter()
            .map(|page| Arc::new(RwLock::new(image_of(page))))
            .collect();
        let fragments = self
            .fragments
            .as_ref()
            .map(|rng| Mutex::new(lock(rng).clone()));
        let free = Mutex::new(lock(&self.free).clone());
        Self {
            pages: RwLock::new(pages),
            free,
            fragments,
            misaligned: self.misaligned,
            ..Self::new()
        }
    }

    /// Number of records logged so far.
    pub fn n_records(&self) -> usize {
        lock(&self.journal).len()
    }

    /// The records logged so far.
    pub fn journal(&self) -> Vec<Record> {
        lock(&self.journal).clone()
    }

    /// Replays a record.
    pub fn apply(&self, record: &Record) {
        for (block, image) in &record.0 {
            self.grow(*block + 1);
            *self
                .cell(*block)
                .expect("just grown")
                .write()
                .unwrap_or_else(PoisonError::into_inner) = image.clone();
        }
    }

    /// Calls `hook(store, block)` before each read of a page, with no page locked; reads by the hook do not call it.
    pub fn set_hook(&self, hook: impl FnMut(&MemStore, u32) + Send + 'static) {
        *lock(&self.hook) = Some(Box::new(hook));
    }

    /// Takes the hook away.
    pub fn clear_hook(&self) {
        *lock(&self.hook) = None;
    }

    /// The `n`-th call from now that can fail returns an error (once).
    pub fn fail_after(&self, n: i64) {
        self.calls_until_failure.store(n, Ordering::Relaxed);
    }

    /// Pages read so far.
    pub fn n_reads(&self) -> u64 {
        self.n_reads.load(Ordering::Relaxed)
    }

    /// Pages pinned and not released.
    pub fn n_pins(&self) -> u64 {
        self.n_pins.load(Ordering::Relaxed)
    }

    /// From now on so many pages may be pinned at a time, and nobody may pin more.
    pub fn limit_pins(&mut self, most: u64) {
        self.most_pins = Some(most);
    }

    /// From now on reads and announcements are recorded.
    pub fn record_accesses(&self) {
        *lock(&self.accesses) = Some(Vec::new());
    }

    /// What was recorded; recording ends.
    pub fn take_accesses(&self) -> Vec<Access> {
        lock(&self.accesses).take().unwrap_or_default()
    }

    /// Changes the bytes of a page behind the index's back.
    pub fn damage(&self, block: u32, f: impl FnOnce(&mut [u8])) {
        let cell = self.cell(block).expect("no such block");
        let mut image = cell.write().unwrap_or_else(PoisonError::into_inner);
        f(bytemuck::cast_slice_mut(
            Arc::make_mut(&mut image).as_mut_slice(),
        ));
    }

    /// Cuts the file off.
    pub fn truncate(&self, n_blocks: u32) {
        let mut cells = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        cells.truncate(n_blocks as usize);
        lock(&self.free).retain(|&block| block < n_blocks);
    }

    /// List locks held by any thread.
    pub fn n_locks(&self) -> usize {
        self.locks.n_held()
    }
}
