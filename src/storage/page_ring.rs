//! [`PageRing`]: pages of a new index on their way, in shared memory, from the process that builds it to parallel workers, which write and log them.
//!
//! The process that builds hands over batches of pages one after the other, so that the number of a batch tells its blocks. Whichever worker is free takes the
//! next whose blocks the file has, and puts the pages into buffers. One worker at a time makes the file longer, before the others need it. Logging
//! waits while there are pages to be put, so that the process that builds can go on; only a share of the buffers may wait, because what leaves them has to
//! be read again. A page is logged after it has been written and before its transaction ends, as in a build by one process; when a checkpoint comes in
//! between does not matter.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::ffi::{c_long, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
#[cfg(feature = "simulated-gpu")]
use std::time::Duration;
use std::time::Instant;

use omen_ivf::store::PAGE_BYTES;
use pgrx::{PgSqlErrorCode, pg_sys};

use super::bulk::{fill_locked, log_range};
use crate::compat::{self, FileId};
use crate::error::{PgError, Result};

/// Pages of a batch, but for the last: as many as two records take.
pub(super) const BATCH_PAGES: usize = 64;
/// Batches that a worker may have before it, and all of them: the queues of the workers that read the table take as much memory.
const SLOTS_A_WORKER: usize = 4;
const MAX_SLOTS: usize = 32;
/// Pages by which the file grows at a time, at most; it is due when no more are in it that no worker has taken, nor more than half of what the slots hold.
const EXTEND_PAGES: u32 = 512;
/// One in so many buffers may hold pages that are not logged yet.
const SHARE: usize = 8;
/// Who waits is woken; it looks so often by itself.
const LOOK_MILLIS: c_long = 1000;
const MAIN: pg_sys::ForkNumber::Type = pg_sys::ForkNumber::MAIN_FORKNUM;

/// A batch.
#[repr(C)]
pub(super) struct Slot {
    /// Pages in it; 0 when it may be filled.
    n_pages: AtomicU32,
    pages: UnsafeCell<[[u8; PAGE_BYTES]; BATCH_PAGES]>,
}

/// What the processes share, at the beginning of memory of [`PageRing::bytes`].
#[repr(C)]
pub(crate) struct PageRing {
    n_slots: usize,
    n_workers: usize,
    /// The file that is written: workers open the relation by themselves.
    file: FileId,
    is_logged: AtomicBool,
    /// Block of the first page of the first batch.
    first_block: AtomicU32,
    /// Blocks there will be when all that is handed over is written, and those that the file has.
    n_handed: AtomicU32,
    n_extended: AtomicU32,
    /// A worker makes it longer now. Nobody else does: others do not know of the index.
    is_extending: AtomicBool,
    /// Batches handed over, taken by workers, and put into buffers.
    n_filled: AtomicU64,
    n_taken: AtomicU64,
    n_put: AtomicU64,
    /// No more will come.
    is_closed: AtomicBool,
    /// Microseconds of all workers.
    spent: [AtomicU64; 3],
    /// For workers: there is something to do. For the process that builds: a batch has been put.
    filled: UnsafeCell<pg_sys::ConditionVariable>,
    freed: UnsafeCell<pg_sys::ConditionVariable>,
}

/// What workers spend their time on.
#[derive(Clone, Copy)]
enum Spent {
    Extending,
    Putting,
    Logging,
}

impl PageRing {
    fn slots_for(n_workers: usize) -> usize {
        (n_workers * SLOTS_A_WORKER).clamp(1, MAX_SLOTS)
    }

    /// Memory for a ring that so many workers empty.
    pub(crate) fn bytes(n_workers: usize) -> usize {
        size_of::<Self>() + Self::slots_for(n_workers) * size_of::<Slot>()
    }

    /// An empty ring for an index that is built, emptied by so many workers.
    ///
    /// # Safety
    /// `memory` is of [`Self::bytes`], aligned for any value; nobody else looks at it yet. `rel` is open.
    pub(crate) unsafe fn init(memory: *mut c_void, n_workers: usize, rel: pg_sys::Relation) {
        let ring = memory.cast::<Self>();
        // SAFETY: by this function's contract; slots are marked empty before anybody sees them, and their pages are written before they are read.
        unsafe {
            ring.write(Self {
                n_slots: Self::slots_for(n_workers),
                n_workers,
                file: compat::file_id(rel),
                is_logged: AtomicBool::new(false),
                first_block: AtomicU32::new(0),
                n_handed: AtomicU32::new(0),
                n_extended: AtomicU32::new(0),
                is_extending: AtomicBool::new(false),
                n_filled: AtomicU64::new(0),
                n_taken: AtomicU64::new(0),
                n_put: AtomicU64::new(0),
                is_closed: AtomicBool::new(false),
                spent: [const { AtomicU64::new(0) }; 3],
                filled: core::mem::zeroed::<UnsafeCell<pg_sys::ConditionVariable>>(),
                freed: core::mem::zeroed::<UnsafeCell<pg_sys::ConditionVariable>>(),
            });
            let ring = &*ring;
            pg_sys::ConditionVariableInit(ring.filled.get());
            pg_sys::ConditionVariableInit(ring.freed.get());
            for i in 0..ring.n_slots {
                (&raw mut (*ring.slots().cast_mut().add(i)).n_pages).write(AtomicU32::new(0));
            }
        }
    }

    /// The ring in this memory.
    ///
    /// # Safety
    /// `init` has put it there, and it stays as long as the result is used.
    pub(crate) unsafe fn at<'a>(memory: *mut c_void) -> &'a Self {
        // SAFETY: by this function's contract; all that changes is atomic or in cells.
        unsafe { &*memory.cast::<Self>() }
    }

    fn slots(&self) -> *const Slot {
        (&raw const *self).wrapping_add(1).cast()
    }

    /// Where a batch lies.
    fn slot(&self, batch: u64) -> &Slot {
        // SAFETY: the slots follow the ring, by `init`.
        unsafe { &*self.slots().add((batch % self.n_slots as u64) as usize) }
    }

    /// Waits until `is_so`, with looks for interrupts; whoever changes it signals `variable`.
    fn wait(variable: &UnsafeCell<pg_sys::ConditionVariable>, is_so: impl Fn() -> bool) {
        let event = pg_sys::WaitEventIPC::WAIT_EVENT_PARALLEL_CREATE_INDEX_SCAN;
        while !is_so() {
            // SAFETY: initialised by `init`; on the main thread, without locks.
            unsafe { pg_sys::ConditionVariableTimedSleep(variable.get(), LOOK_MILLIS, event) };
        }
        // SAFETY: as above.
        unsafe { pg_sys::ConditionVariableCancelSleep() };
    }

    /// Says where batches begin, and whether they are logged; before the first.
    pub(super) fn begin(&self, first_block: u32, is_logged: bool) {
        self.is_logged.store(is_logged, Ordering::Relaxed);
        self.first_block.store(first_block, Ordering::Relaxed);
        self.n_extended.store(first_block, Ordering::Relaxed);
    }

    /// The memory of batch number `batch`, the next to be handed over, once a worker has put what was there.
    ///
    /// # Safety
    /// Called by the process that builds alone, which uses the result no more once it has handed the batch over.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn memory(&self, batch: u64) -> &mut [[u8; PAGE_BYTES]; BATCH_PAGES] {
        let slot = self.slot(batch);
        Self::wait(&self.freed, || slot.n_pages.load(Ordering::Acquire) == 0);
        // SAFETY: empty slots are the building process's.
        unsafe { &mut *slot.pages.get() }
    }

    /// Hands a batch over; `n_blocks` is the end of its blocks.
    pub(super) fn hand_over(&self, batch: u64, n_pages: usize, n_blocks: u32) {
        let slot = self.slot(batch);
        slot.n_pages.store(n_pages as u32, Ordering::Relaxed);
        // After what `begin` has said.
        self.n_handed.store(n_blocks, Ordering::Release);
        self.n_filled.store(batch + 1, Ordering::Release);
        // SAFETY: initialised by `init`.
        unsafe { pg_sys::ConditionVariableSignal(self.filled.get()) };
    }

    /// Ends the input, and waits until all of it is in buffers. Workers go on logging.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        // SAFETY: initialised by `init`.
        unsafe { pg_sys::ConditionVariableBroadcast(self.filled.get()) };
        let n_filled = self.n_filled.load(Ordering::Relaxed);
        Self::wait(&self.freed, || {
            self.n_put.load(Ordering::Acquire) == n_filled
        });
    }

    /// Seconds that workers have spent, for people.
    pub(crate) fn summary(&self) -> String {
        let seconds = |of: Spent| self.spent[of as usize].load(Ordering::Relaxed) as f64 / 1e6;
        format!(
            "{} workers: file extended in {:.2} s, put into buffers in {:.2} s, logged in {:.2} s of all together.",
            self.n_workers,
            seconds(Spent::Extending),
            seconds(Spent::Putting),
            seconds(Spent::Logging)
        )
    }

    fn spend(&self, on: Spent, began: Instant) {
        let micros = began.elapsed().as_micros() as u64;
        self.spent[on as usize].fetch_add(micros, Ordering::Relaxed);
    }

    /// The next batch, if one is there for which the file is long enough.
    fn take(&self) -> Option<u64> {
        let has_one = |taken| self.is_ready(taken).then_some(taken + 1);
        let order = Ordering::Relaxed;
        self.n_taken.fetch_update(order, order, has_one).ok()
    }

    /// Whether a batch was handed over, and the file has its blocks.
    fn is_ready(&self, batch: u64) -> bool {
        batch < self.n_filled.load(Ordering::Acquire)
            && self.n_extended.load(Ordering::Acquire) >= self.end_of(batch)
    }

    /// End of the blocks of a batch that was handed over.
    fn end_of(&self, batch: u64) -> u32 {
        let full = (batch + 1) * BATCH_PAGES as u64;
        let end = self.first_block.load(Ordering::Relaxed) + full as u32;
        // The last one need not be full.
        end.min(self.n_handed.load(Ordering::Relaxed))
    }

    /// Pages by which the file is to be made longer now: as many as have been handed over at most. 0 if it is long enough for a while, or a worker is at it.
    fn n_to_extend(&self) -> u32 {
        if self.is_extending.load(Ordering::Acquire) {
            return 0;
        }
        self.n_lacking()
    }

    fn n_lacking(&self) -> u32 {
        let n_handed = self.n_handed.load(Ordering::Acquire);
        let n_extended = self.n_extended.load(Ordering::Acquire);
        let n_taken = self.n_taken.load(Ordering::Relaxed) * BATCH_PAGES as u64;
        let taken = self.first_block.load(Ordering::Relaxed) + n_taken as u32;
        let least = (self.n_slots * BATCH_PAGES / 2) as u32;
        if n_extended.saturating_sub(taken) >= least.min(EXTEND_PAGES) {
            return 0;
        }
        n_handed.saturating_sub(n_extended).min(EXTEND_PAGES)
    }

    /// Whether all that was handed over is taken, and no more will come.
    fn is_over(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
            && self.n_taken.load(Ordering::Relaxed) == self.n_filled.load(Ordering::Acquire)
    }
}

/// Writes and logs pages, until all are.
///
/// # Safety
/// Called in a worker, for a ring that another process fills; `rel` is open there, the index that is built.
pub(crate) unsafe fn empty_ring(ring: &PageRing, rel: pg_sys::Relation) -> Result<()> {
    // SAFETY: `rel` is open.
    if unsafe { compat::file_id(rel) } != ring.file {
        return Err(PgError::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "a parallel worker sees another file of the index that is built",
        ));
    }
    // SAFETY: read on the main thread.
    let n_buffers = unsafe { pg_sys::NBuffers }.max(0) as usize;
    let most = n_buffers / SHARE / BATCH_PAGES / ring.n_workers.max(1);
    // Put, and not logged: first block and end.
    let mut later: Vec<(u32, u32)> = Vec::new();
    loop {
        pgrx::check_for_interrupts!();
        // SAFETY: by this function's contract.
        unsafe { extend(ring, rel) };
        let next = (later.len() <= most).then(|| ring.take()).flatten();
        if let Some(batch) = next {
            // SAFETY: by this function's contract; the batch is this worker's.
            let range = unsafe { put(ring, rel, batch) };
            if ring.is_logged.load(Ordering::Relaxed) {
                later.push(range);
            }
        } else if let Some((start, end)) = later.pop() {
            #[cfg(feature = "simulated-gpu")]
            pause();
            // The last one is the likeliest to be in the processor's cache.
            let began = Instant::now();
            // SAFETY: by this function's contract; the pages were put by `put`.
            unsafe { log_range(rel, MAIN, start, end) };
            ring.spend(Spent::Logging, began);
        } else if ring.is_over() {
            return Ok(());
        } else {
            PageRing::wait(&ring.filled, || {
                let next = ring.n_taken.load(Ordering::Relaxed);
                ring.is_over() || ring.is_ready(next) || ring.n_to_extend() > 0
            });
        }
    }
}

/// As `omen.logging_pause` says.
#[cfg(feature = "simulated-gpu")]
fn pause() {
    let began = Instant::now();
    while began.elapsed() < crate::guc::logging_pause() {
        pgrx::check_for_interrupts!();
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Puts the pages of a batch into buffers; their blocks.
///
/// # Safety
/// As for [`empty_ring`]; this process has taken the batch.
unsafe fn put(ring: &PageRing, rel: pg_sys::Relation, batch: u64) -> (u32, u32) {
    let slot = ring.slot(batch);
    let n_pages = slot.n_pages.load(Ordering::Relaxed);
    let start = ring.first_block.load(Ordering::Relaxed) + batch as u32 * BATCH_PAGES as u32;
    let end = start + n_pages;
    let began = Instant::now();
    // SAFETY: full slots are not written to; the blocks are in the file, and no other process has their pages.
    unsafe {
        let pages = &(&*slot.pages.get())[..n_pages as usize];
        for (block, page) in (start..end).zip(pages) {
            let mode = pg_sys::ReadBufferMode::RBM_ZERO_AND_LOCK;
            let strategy = core::ptr::null_mut();
            let buf = pg_sys::ReadBufferExtended(rel, MAIN, block, mode, strategy);
            fill_locked(buf, page);
        }
    }
    slot.n_pages.store(0, Ordering::Release);
    ring.n_put.fetch_add(1, Ordering::Release);
    // SAFETY: initialised by `PageRing::init`.
    unsafe { pg_sys::ConditionVariableSignal(ring.freed.get()) };
    ring.spend(Spent::Putting, began);
    (start, end)
}

/// Makes the file longer if that is due and no other worker does it: they have blocks left meanwhile, or pages to log.
///
/// # Safety
/// As for [`empty_ring`].
unsafe fn extend(ring: &PageRing, rel: pg_sys::Relation) {
    let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
    let claim = || {
        ring.is_extending
            .compare_exchange(false, true, acquire, relaxed)
    };
    if ring.n_to_extend() == 0 || claim().is_err() {
        return;
    }
    let began = Instant::now();
    let n = ring.n_lacking();
    if n > 0 {
        let first = ring.n_extended.load(Ordering::Relaxed);
        // If this raises an error, the build ends, and nobody extends the file any more.
        // SAFETY: by this function's contract; no other process extends it.
        unsafe { compat::extend_file(rel, MAIN, first, n) };
        ring.n_extended.store(first + n, Ordering::Release);
    }
    ring.is_extending.store(false, Ordering::Release);
    ring.spend(Spent::Extending, began);
    // Others may have waited for blocks.
    // SAFETY: initialised by `PageRing::init`.
    unsafe { pg_sys::ConditionVariableBroadcast(ring.filled.get()) };
}
