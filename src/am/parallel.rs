//! Parallel workers of a build: what a team of them needs, whatever it does.
//!
//! Each worker has a queue (`shm_mq`), into which it writes messages until its share of the work is done; the process that builds takes them.
//! A worker's error is raised here, by the next look for interrupts or at the end. What is shared (locks, snapshot, transaction) Postgres
//! takes care of; if the build fails, the end of the transaction ends the workers.
#![allow(unsafe_code)]

mod member;

use core::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

pub(super) use self::member::{Member, Queue, serve};
use super::heap_rows::HeapRows;
use crate::error::Result;
use crate::wake;

/// Bytes of a worker's queue: what the reading goes on with while a batch is worked on. Of many workers each needs less, and shared memory may be scarce.
const QUEUE_BYTES: usize = 2 << 20;
const MIN_QUEUE_BYTES: usize = 256 << 10;
const ALL_QUEUES_BYTES: usize = 16 << 20;
/// Bytes of a message from which on a worker sends it.
pub(super) const SEND_BYTES: usize = 64 << 10;

/// Workers wake the process when they have sent something, or have ended; it looks so often by itself.
const LOOK: Duration = Duration::from_secs(1);

/// Keys of what is in the shared memory.
const SHARED: u64 = 1;
const TOLD: u64 = 2;
const SCAN: u64 = 3;
const QUEUES: u64 = 4;
const BUFFER_USAGE: u64 = 5;
const WAL_USAGE: u64 = 6;
const QUERY: u64 = 7;
const MEMORY: u64 = 8;

/// What every worker is told, and tells.
#[repr(C)]
struct Shared {
    heap: pg_sys::Oid,
    index: pg_sys::Oid,
    is_concurrent: bool,
    queue_bytes: usize,
    has_broken_hot_chain: AtomicBool,
}

/// Takes a worker's message; `None`: a look every now and then. Gets what workers were told, and tell.
pub(super) type Receive<'a, T> = dyn FnMut(&T, Option<&[u8]>) -> Result<()> + 'a;

/// What a team is to be.
pub(super) struct Plan<'a, T> {
    /// Most workers.
    pub n_workers: usize,
    /// What they run: an exported function that calls [`serve`].
    pub worker: &'a CStr,
    /// For shared memory: plain data and atomics.
    pub told: T,
    /// Bytes of a worker's queue.
    pub queue_bytes: usize,
    /// Bytes of shared memory that are theirs beside.
    pub memory_bytes: usize,
}

/// Has up to `n_workers` workers run `worker`, an exported function that calls [`serve`], with `told` in shared memory, for plain data and
/// atomics; gives their messages to `receive`, until all have ended. Returns their number and what `told` is then; `None` if no worker could
/// be started. Errors: those of workers, and of `receive`.
///
/// # Safety
/// `rows` is what `ambuild` was called with.
pub(super) unsafe fn run<T>(
    rows: &HeapRows,
    n_workers: usize,
    worker: &CStr,
    told: T,
    receive: &mut Receive<T>,
) -> Result<Option<(usize, T)>> {
    let plan = Plan {
        n_workers,
        worker,
        told,
        queue_bytes: (ALL_QUEUES_BYTES / n_workers).clamp(MIN_QUEUE_BYTES, QUEUE_BYTES),
        memory_bytes: 0,
    };
    // SAFETY: by this function's contract.
    unsafe {
        let Some(team) = Team::start(rows, plan, |_| ()) else {
            return Ok(None);
        };
        let n_launched = team.n_launched;
        let told = team.finish(receive)?;
        Ok(Some((n_launched, told)))
    }
}

/// Workers that run. If it is not finished, the end of the transaction ends them.
pub(super) struct Team<'a, T> {
    rows: &'a HeapRows,
    cxt: *mut pg_sys::ParallelContext,
    /// Registered, if it is not null.
    snapshot: pg_sys::Snapshot,
    shared: *const Shared,
    told: *const T,
    memory: *mut c_void,
    usage: [*mut c_void; 2],
    queues: Vec<*mut pg_sys::shm_mq_handle>,
    n_launched: usize,
}

impl<'a, T> Team<'a, T> {
    /// Starts workers; `init` gets the memory that is theirs, before they see it. `None` if no worker could be started.
    ///
    /// # Safety
    /// `rows` is what `ambuild` was called with.
    pub(super) unsafe fn start(
        rows: &'a HeapRows,
        plan: Plan<T>,
        init: impl FnOnce(*mut c_void),
    ) -> Option<Self> {
        const { assert!(!core::mem::needs_drop::<T>()) }
        let n_workers = plan.n_workers;
        // SAFETY: the order of calls is that of Postgres's own parallel builds; memory is asked for before it is used, with the same sizes; all on the
        // main thread. Errors leave what is open to the end of the transaction.
        unsafe {
            pg_sys::EnterParallelMode();
            let cxt = pg_sys::CreateParallelContext(
                c"$libdir/pg_omen".as_ptr(),
                plan.worker.as_ptr(),
                n_workers as i32,
            );
            let is_concurrent = (*rows.info).ii_Concurrent;
            let (scanned_by, snapshot) = if is_concurrent {
                let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
                (snapshot, snapshot)
            } else {
                (&raw mut pg_sys::SnapshotAnyData, core::ptr::null_mut())
            };
            let query = CStr::from_ptr(match pg_sys::debug_query_string {
                query if query.is_null() => c"".as_ptr(),
                query => query,
            })
            .to_bytes_with_nul();
            let queue_bytes = plan
                .queue_bytes
                .next_multiple_of(pg_sys::ALIGNOF_BUFFER as usize);
            let chunks = [
                (SHARED, size_of::<Shared>()),
                (TOLD, size_of::<T>()),
                (
                    SCAN,
                    pg_sys::table_parallelscan_estimate(rows.heap, scanned_by),
                ),
                (QUEUES, n_workers * queue_bytes),
                (BUFFER_USAGE, n_workers * size_of::<pg_sys::BufferUsage>()),
                (WAL_USAGE, n_workers * size_of::<pg_sys::WalUsage>()),
                (QUERY, query.len()),
                (MEMORY, plan.memory_bytes),
            ];
            for (_, bytes) in chunks {
                let estimator = &mut (*cxt).estimator;
                let aligned = bytes.next_multiple_of(pg_sys::ALIGNOF_BUFFER as usize);
                estimator.space_for_chunks = pg_sys::add_size(estimator.space_for_chunks, aligned);
                estimator.number_of_keys = pg_sys::add_size(estimator.number_of_keys, 1);
            }
            pg_sys::InitializeParallelDSM(cxt);
            if (*cxt).seg.is_null() {
                // No shared memory to be had.
                leave(cxt, snapshot);
                return None;
            }
            let [shared, told, scan, queues, buffers, wal, text, memory] =
                chunks.map(|(key, bytes)| {
                    let chunk = pg_sys::shm_toc_allocate((*cxt).toc, bytes);
                    pg_sys::shm_toc_insert((*cxt).toc, key, chunk);
                    chunk
                });
            let shared = shared.cast::<Shared>();
            shared.write(Shared {
                heap: (*rows.heap).rd_id,
                index: (*rows.index).rd_id,
                is_concurrent,
                queue_bytes,
                has_broken_hot_chain: AtomicBool::new(false),
            });
            let told = told.cast::<T>();
            told.write(plan.told);
            pg_sys::table_parallelscan_initialize(rows.heap, scan.cast(), scanned_by);
            text.cast::<u8>()
                .copy_from_nonoverlapping(query.as_ptr(), query.len());
            init(memory);
            let mut queues: Vec<*mut pg_sys::shm_mq_handle> = (0..n_workers)
                .map(|i| {
                    let memory = queue_of(queues, i, queue_bytes);
                    let queue = pg_sys::shm_mq_create(memory, queue_bytes);
                    pg_sys::shm_mq_set_receiver(queue, pg_sys::MyProc);
                    pg_sys::shm_mq_attach(queue, (*cxt).seg, core::ptr::null_mut())
                })
                .collect();
            pg_sys::LaunchParallelWorkers(cxt);
            let n_launched = (*cxt).nworkers_launched as usize;
            if n_launched == 0 {
                leave(cxt, snapshot);
                return None;
            }
            queues.truncate(n_launched);
            for (i, queue) in queues.iter().enumerate() {
                pg_sys::shm_mq_set_handle(*queue, (*(*cxt).worker.add(i)).bgwhandle);
            }
            Some(Self {
                rows,
                cxt,
                snapshot,
                shared,
                told,
                memory,
                usage: [buffers, wal],
                queues,
                n_launched,
            })
        }
    }

    /// Workers there are.
    pub(super) fn n_workers(&self) -> usize {
        self.n_launched
    }

    /// The memory that is theirs, as long as the team lives.
    pub(super) fn memory(&self) -> *mut c_void {
        self.memory
    }

    /// Waits until every worker has begun. Errors: one could not.
    pub(super) fn wait_for_start(&self) {
        // SAFETY: the context is there until `finish`.
        unsafe { pg_sys::WaitForParallelWorkersToAttach(self.cxt) }
    }

    /// Gives what workers send to `receive`, until all have ended. Returns what they were told, as it is then. Errors: those of workers, and of `receive`.
    pub(super) fn finish(self, receive: &mut Receive<T>) -> Result<T> {
        // SAFETY: by the contract of `start`; what is shared lives until the team is left.
        unsafe {
            receive_all(self.queues, &mut |message| receive(&*self.told, message))?;
            pg_sys::WaitForParallelWorkersToFinish(self.cxt);
            let [buffers, wal] = self.usage;
            for i in 0..self.n_launched {
                let buffers = buffers.cast::<pg_sys::BufferUsage>().add(i);
                let wal = wal.cast::<pg_sys::WalUsage>().add(i);
                pg_sys::InstrAccumParallelQuery(buffers, wal);
            }
            if (*self.shared).has_broken_hot_chain.load(Ordering::Relaxed) {
                (*self.rows.info).ii_BrokenHotChain = true;
            }
            let told = self.told.read();
            leave(self.cxt, self.snapshot);
            Ok(told)
        }
    }
}

/// Ends what `Team::start` began.
///
/// # Safety
/// The context is there, and no worker runs; the snapshot is registered, or null.
unsafe fn leave(cxt: *mut pg_sys::ParallelContext, snapshot: pg_sys::Snapshot) {
    // SAFETY: by this function's contract.
    unsafe {
        if !snapshot.is_null() {
            pg_sys::UnregisterSnapshot(snapshot);
        }
        pg_sys::DestroyParallelContext(cxt);
        pg_sys::ExitParallelMode();
    }
}

/// The memory of a worker's queue.
fn queue_of(queues: *mut c_void, worker: usize, queue_bytes: usize) -> *mut c_void {
    queues.wrapping_byte_add(worker * queue_bytes)
}

/// Takes what workers send, until all have ended.
///
/// # Safety
/// The queues are attached, for receiving.
unsafe fn receive_all(
    mut queues: Vec<*mut pg_sys::shm_mq_handle>,
    receive: &mut dyn FnMut(Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    while !queues.is_empty() {
        let mut has_come = false;
        let mut outcome = Ok(());
        queues.retain(|&queue| {
            let (mut n_bytes, mut data) = (0, core::ptr::null_mut());
            // SAFETY: by this function's contract; what is received lies there until the next call for this queue.
            unsafe {
                match pg_sys::shm_mq_receive(queue, &mut n_bytes, &mut data, true) {
                    pg_sys::shm_mq_result::SHM_MQ_SUCCESS => {
                        has_come = true;
                        let message = core::slice::from_raw_parts(data.cast::<u8>(), n_bytes);
                        if outcome.is_ok() {
                            outcome = receive(Some(message));
                        }
                        true
                    }
                    pg_sys::shm_mq_result::SHM_MQ_WOULD_BLOCK => true,
                    _ => false,
                }
            }
        });
        outcome?;
        receive(None)?;
        if !has_come && !queues.is_empty() {
            let event = pg_sys::WaitEventIPC::WAIT_EVENT_PARALLEL_CREATE_INDEX_SCAN;
            wake::wait(LOOK, event);
        }
        pgrx::check_for_interrupts!();
    }
    Ok(())
}
