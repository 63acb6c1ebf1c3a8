//! The shared memory of the service: the control block, figures of indexes, the queue, and the region that tiers are loaded through.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use omen_service::changes::ChangeCounts;
use omen_service::indexes::Indexes;
use omen_service::load::LoadRegion;
use omen_service::queue::Queue;
use pgrx::{pg_guard, pg_sys};

use super::control::Control;
use crate::guc;
use crate::storage::changes;

/// Name of the memory among those of the server.
const NAME: &core::ffi::CStr = c"pg_omen GPU service";
/// Bytes of a slot: a query of the most dimensions, or an answer of some thousand candidates and lists.
const SLOT_BYTES: usize = 192 << 10;
/// Most slots, if the setting does not say.
const MAX_SLOTS: usize = 1024;
/// Areas through which tiers are loaded.
const LOAD_AREAS: usize = 4;
const LOAD_AREA_BYTES: usize = 4 << 20;
/// Where the figures of indexes begin: the control block and what it may grow by.
const INDEXES_AT: usize = 16_384;
const CHANGES_AT: usize = (INDEXES_AT + size_of::<Indexes>()).next_multiple_of(4096);
const QUEUE_AT: usize = (CHANGES_AT + size_of::<ChangeCounts>()).next_multiple_of(4096);

/// AddinShmemInitLock's place among the server's locks, the same in all majors (`lwlocknames`).
const ADDIN_SHMEM_INIT_LOCK: usize = 21;

const _: () = assert!(size_of::<Control>() <= INDEXES_AT);

/// The service, as this process sees it.
pub(crate) struct Service {
    /// State and figures.
    pub(crate) control: &'static Control,
    /// Figures of each index.
    pub(crate) indexes: &'static Indexes,
    /// Requests and answers.
    pub(crate) queue: Queue,
    /// Where tiers are loaded through.
    pub(crate) load: LoadRegion,
}

/// Set in the postmaster; the processes it forks have it.
static START: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
/// Not set in the postmaster, which never asks.
static SERVICE: OnceLock<Option<Service>> = OnceLock::new();

#[cfg(not(feature = "pg14"))]
static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Slots of the queue: the same in every process, as none of what they depend on changes before a restart.
fn n_slots() -> usize {
    guc::gpu_queue_slots().unwrap_or_else(|| {
        // SAFETY: settings, read before libraries are loaded.
        let processes = unsafe { pg_sys::MaxConnections + pg_sys::max_worker_processes };
        (processes.max(0) as usize).clamp(8, MAX_SLOTS)
    })
}

fn load_at(n_slots: usize) -> usize {
    (QUEUE_AT + Queue::bytes(n_slots, SLOT_BYTES)).next_multiple_of(4096)
}

fn bytes(n_slots: usize) -> usize {
    load_at(n_slots) + LoadRegion::bytes(LOAD_AREAS, LOAD_AREA_BYTES)
}

/// Asks for the memory. In the postmaster, while it loads the library.
pub(super) fn request() {
    // SAFETY: hooks are chained as Postgres wants it; nothing else of this process runs.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::RequestAddinShmemSpace(bytes(n_slots()));
        #[cfg(not(feature = "pg14"))]
        {
            PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
            pg_sys::shmem_request_hook = Some(on_request);
        }
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

#[cfg(not(feature = "pg14"))]
#[pg_guard]
unsafe extern "C-unwind" fn on_request() {
    // SAFETY: Postgres calls this when memory may be asked for.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(bytes(n_slots()));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    // SAFETY: Postgres calls this in the postmaster when the memory is there, all zero, at start and after a crash. The lock is not held.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let n_slots = n_slots();
        let mut found = false;
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let start = pg_sys::ShmemInitStruct(NAME.as_ptr(), bytes(n_slots), &mut found);
        pg_sys::LWLockRelease(lock);
        let start = start.cast::<u8>();
        start.write_bytes(0, QUEUE_AT);
        let (queue, load) = (start.add(QUEUE_AT), start.add(load_at(n_slots)));
        let is_made = Queue::create(queue, n_slots, SLOT_BYTES).is_ok()
            && LoadRegion::create(load, LOAD_AREAS, LOAD_AREA_BYTES).is_ok();
        // Sizes and alignment are right; if not, there is no service.
        debug_assert!(is_made);
        if is_made {
            START.store(start, Ordering::Release);
            changes::share(start.add(CHANGES_AT).cast());
        }
    }
}

/// The service, if the library was preloaded.
pub(crate) fn service() -> Option<&'static Service> {
    SERVICE.get_or_init(attach).as_ref()
}

fn attach() -> Option<Service> {
    let start = START.load(Ordering::Acquire);
    if start.is_null() {
        return None;
    }
    let n_slots = n_slots();
    // SAFETY: the memory was made in the postmaster with these sizes, which need a restart to change, and is at the same address in what it
    // forks, for as long as these live.
    unsafe {
        let (queue, load) = (start.add(QUEUE_AT), start.add(load_at(n_slots)));
        Some(Service {
            control: &*start.cast::<Control>(),
            indexes: &*start.add(INDEXES_AT).cast::<Indexes>(),
            queue: Queue::attach(queue, Queue::bytes(n_slots, SLOT_BYTES)).ok()?,
            load: LoadRegion::attach(load, LoadRegion::bytes(LOAD_AREAS, LOAD_AREA_BYTES)).ok()?,
        })
    }
}
