//! Pages as the index sees them. `src/storage` implements these traits over Postgres buffers and GenericXLog.
//!
//! Pages are handed out as byte slices inside closures: the implementation pins and locks before, and unlocks after,
//! so that no guard can outlive an error. A closure must not call the store again (that would nest page locks in an
//! order nobody checks), must not block, and is short: a few microseconds.

use crate::Result;

/// Bytes of a page; Postgres's default BLCKSZ, checked by the Postgres side at compile time.
pub const PAGE_BYTES: usize = 8192;
/// Most pages one WAL record can cover (MAX_GENERIC_XLOG_PAGES).
pub const MAX_UPDATE_PAGES: usize = 4;
/// "No block": InvalidBlockNumber of Postgres.
pub const NO_BLOCK: u32 = u32::MAX;

/// Strength of a list lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListLock {
    /// Inserts and deletions within the list's current layout; any number at a time.
    Shared,
    /// Replacing the list's layout (fold); alone.
    Exclusive,
}

/// Read access to the pages of one index.
pub trait PageStore {
    /// Number of pages the index has now.
    fn n_blocks(&self) -> Result<u32>;

    /// Calls `f` with the `PAGE_BYTES` bytes of `block`, pinned and share-locked. `f` must not call the store.
    fn read<R>(&self, block: u32, f: impl FnOnce(&[u8]) -> R) -> Result<R>;

    /// Asks for `block` to be brought into memory soon; may do nothing.
    fn prefetch(&self, block: u32);

    /// Whether [`Self::announce`] is of use now: asked first, because finding the blocks out costs time.
    fn wants_announcements(&self) -> bool;

    /// These blocks of the file will be read soon, in this order; some may not be read after all, and others may be read
    /// in between. A hint. What was announced before is void: an empty announcement ends it.
    fn announce(&self, blocks: Vec<u32>);

    /// Lets the host cancel the running statement. Called between pages, when no page is locked.
    fn check_interrupts(&self) -> Result<()>;

    /// A number that changes whenever `list` has been changed in what a later scan has to find, or must not; 0 if the host does not know.
    fn list_version(&self, _list: u32) -> u32 {
        0
    }
}

/// Read access for copying pages by other threads: pages stay pinned while they are copied, but are not locked.
///
/// Each pin is given back by `release`, on the thread that took it; while an error unwinds it need not be, the host
/// then gives back all.
///
/// # Safety
/// The `PAGE_BYTES` bytes at `address` can be read by any thread until the pin is released, or until an error has unwound
/// out of the functions that hold it.
#[allow(unsafe_code)]
pub unsafe trait PinStore: PageStore {
    /// A pinned page.
    type Pin;

    /// So many pages may be pinned at a time, at least 1.
    fn max_pins(&self) -> usize;

    /// Pins `block`.
    fn pin(&self, block: u32) -> Result<Self::Pin>;

    /// Where the bytes of the page are. Others may change them at any time: what was read counts only if the page, looked
    /// at by `release`, shows that it did not change.
    fn address(&self, pin: &Self::Pin) -> *const u8;

    /// Share-locks the page, calls `f` with its bytes, unlocks and unpins it. `f` must not call the store. Never fails because
    /// of the page.
    fn release<R>(&self, pin: Self::Pin, f: impl FnOnce(&[u8]) -> R) -> R;
}

/// Write access. Every change is WAL-logged and atomic per call.
pub trait PageStoreMut: PageStore {
    /// Locks `blocks` exclusively in the order given (1 to `MAX_UPDATE_PAGES`, all different) and calls `f` with their
    /// images in the same order. If `f` returns true the new images are logged as one record and become visible
    /// together; if false nothing changes. Returns what `f` returned. Errors: the header of one is not sound (`layout::page::check_header`).
    fn update(&self, blocks: &[u32], f: impl FnOnce(&mut [&mut [u8]]) -> bool) -> Result<bool>;

    /// Takes a free page (recycled or new), fills it by `init`, which gets a zeroed page, logs it, and returns its block.
    /// Nobody else refers to the page until the caller links it.
    fn allocate(&self, init: impl FnOnce(&mut [u8])) -> Result<u32>;

    /// Gives back a page that nothing links to any more: logs it as free and makes it available to `allocate`.
    /// Scans may still be on their way to it: they recognise by list and stamp that it is not theirs.
    fn free(&self, block: u32) -> Result<()>;

    /// Takes the lock of a list; waits for it. Released by `unlock_list` or at the end of the transaction.
    fn lock_list(&self, list: u32, mode: ListLock) -> Result<()>;

    /// Takes the lock of a list if it can be had at once.
    fn try_lock_list(&self, list: u32, mode: ListLock) -> Result<bool>;

    /// Releases a lock taken by this process.
    fn unlock_list(&self, list: u32, mode: ListLock) -> Result<()>;

    /// Pages of `list`, or its directory entry, are changed by now: changes [`PageStore::list_version`].
    fn note_change(&self, _list: u32) {}
}

/// Writes a new index from its first page to its last; the host logs all pages when it is done.
pub trait BulkWriter {
    /// Appends `n` pages to be written later through `write_at`; returns the first block.
    fn reserve(&mut self, n: u32) -> Result<u32>;

    /// Appends a page of `PAGE_BYTES` bytes and returns its block; blocks are consecutive.
    fn append(&mut self, page: &[u8]) -> Result<u32>;

    /// Appends pages, `[n, PAGE_BYTES]`, one after the other; returns the first block. At least one.
    fn append_all(&mut self, pages: &[u8]) -> Result<u32> {
        let mut blocks = pages
            .chunks_exact(PAGE_BYTES)
            .map(|page| self.append(page))
            .collect::<Result<Vec<u32>>>()?;
        Ok(blocks.swap_remove(0))
    }

    /// Writes a reserved page.
    fn write_at(&mut self, block: u32, page: &[u8]) -> Result<()>;

    /// Lets the host cancel the running statement.
    fn check_interrupts(&mut self) -> Result<()>;
}
