//! Parallel workers of a build: what a team of them needs, whatever it does.
//!
//! Each worker has a queue (`shm_mq`), into which it writes messages until its share of the work is done; the process that builds takes them.
//! A worker's error is raised here, by the next look for interrupts or at the end. What is shared (locks, snapshot, transaction) Postgres
//! takes care of; if the build fails, the end of the transaction ends the workers.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::{PgSqlErrorCode, pg_sys};

use super::heap_rows::HeapRows;
use super::opclass::OpClass;
use crate::error::{PgError, Result};
use crate::{compat, wake};

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
    const { assert!(!core::mem::needs_drop::<T>()) }
    // SAFETY: the order of calls is that of Postgres's own parallel builds; memory is asked for before it is used, with the same sizes; all on the
    // main thread. Errors leave what is open to the end of the transaction.
    unsafe {
        pg_sys::EnterParallelMode();
        let cxt = pg_sys::CreateParallelContext(
            c"$libdir/pg_omen".as_ptr(),
            worker.as_ptr(),
            n_workers as i32,
        );
        let is_concurrent = (*rows.info).ii_Concurrent;
        let snapshot = if is_concurrent {
            pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot())
        } else {
            &raw mut pg_sys::SnapshotAnyData
        };
        let leave = |cxt| {
            if is_concurrent {
                pg_sys::UnregisterSnapshot(snapshot);
            }
            pg_sys::DestroyParallelContext(cxt);
            pg_sys::ExitParallelMode();
        };
        let query = CStr::from_ptr(match pg_sys::debug_query_string {
            query if query.is_null() => c"".as_ptr(),
            query => query,
        })
        .to_bytes_with_nul();
        let scan_bytes = pg_sys::table_parallelscan_estimate(rows.heap, snapshot);
        let buffer_bytes = n_workers * size_of::<pg_sys::BufferUsage>();
        let wal_bytes = n_workers * size_of::<pg_sys::WalUsage>();
        let queue_bytes = (ALL_QUEUES_BYTES / n_workers)
            .clamp(MIN_QUEUE_BYTES, QUEUE_BYTES)
            .next_multiple_of(pg_sys::ALIGNOF_BUFFER as usize);
        let chunks = [
            (SHARED, size_of::<Shared>()),
            (TOLD, size_of::<T>()),
            (SCAN, scan_bytes),
            (QUEUES, n_workers * queue_bytes),
            (BUFFER_USAGE, buffer_bytes),
            (WAL_USAGE, wal_bytes),
            (QUERY, query.len()),
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
            leave(cxt);
            return Ok(None);
        }
        let [
            shared,
            shared_told,
            scan,
            queues,
            buffer_usage,
            wal_usage,
            text,
        ] = chunks.map(|(key, bytes)| {
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
        let shared = &*shared;
        let shared_told = shared_told.cast::<T>();
        shared_told.write(told);
        pg_sys::table_parallelscan_initialize(rows.heap, scan.cast(), snapshot);
        text.cast::<u8>()
            .copy_from_nonoverlapping(query.as_ptr(), query.len());
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
            leave(cxt);
            return Ok(None);
        }
        queues.truncate(n_launched);
        for (i, queue) in queues.iter().enumerate() {
            pg_sys::shm_mq_set_handle(*queue, (*(*cxt).worker.add(i)).bgwhandle);
        }
        receive_all(queues, &mut |message| receive(&*shared_told, message))?;
        pg_sys::WaitForParallelWorkersToFinish(cxt);
        for i in 0..n_launched {
            let buffers = buffer_usage.cast::<pg_sys::BufferUsage>().add(i);
            let wal = wal_usage.cast::<pg_sys::WalUsage>().add(i);
            pg_sys::InstrAccumParallelQuery(buffers, wal);
        }
        if shared.has_broken_hot_chain.load(Ordering::Relaxed) {
            (*rows.info).ii_BrokenHotChain = true;
        }
        let told = shared_told.read();
        leave(cxt);
        Ok(Some((n_launched, told)))
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

/// What a worker works with.
pub(super) struct Member<'a, T> {
    /// The table and the index, with the locks that the process has that builds.
    pub rows: HeapRows,
    /// What it was told, and may tell.
    pub told: &'a T,
    /// Its number, from 0 on.
    pub number: usize,
    /// The way to the process that builds.
    pub queue: Queue,
    scan: pg_sys::ParallelTableScanDesc,
}

impl<T> Member<'_, T> {
    /// This worker's part of a scan of the whole table; once.
    pub(super) fn begin_scan(&self) -> pg_sys::TableScanDesc {
        // SAFETY: the table is open; the leader has set up what is shared of the scan.
        unsafe { pg_sys::table_beginscan_parallel(self.rows.heap, self.scan) }
    }
}

/// A worker's main function: `work`, with what `run` was given.
///
/// # Safety
/// Called in a worker that `run::<T>` has launched, with the arguments of its entry point.
pub(super) unsafe fn serve<T>(
    seg: *mut pg_sys::dsm_segment,
    toc: *mut pg_sys::shm_toc,
    work: impl FnOnce(&mut Member<T>) -> Result<()>,
) -> Result<()> {
    // SAFETY: by this function's contract; relations are opened with the locks that the leader has.
    unsafe {
        let chunk = |key| pg_sys::shm_toc_lookup(toc, key, false);
        let number = pg_sys::ParallelWorkerNumber as usize;
        pg_sys::debug_query_string = chunk(QUERY).cast::<c_char>();
        let state = pg_sys::BackendState::STATE_RUNNING;
        pg_sys::pgstat_report_activity(state, pg_sys::debug_query_string);
        let shared = &*chunk(SHARED).cast::<Shared>();
        let (heap_lock, index_lock) = if shared.is_concurrent {
            (pg_sys::ShareUpdateExclusiveLock, pg_sys::RowExclusiveLock)
        } else {
            (pg_sys::ShareLock, pg_sys::AccessExclusiveLock)
        };
        let heap = pg_sys::table_open(shared.heap, heap_lock as i32);
        let index = pg_sys::index_open(shared.index, index_lock as i32);
        let queue = queue_of(chunk(QUEUES), number, shared.queue_bytes);
        let queue = queue.cast::<pg_sys::shm_mq>();
        pg_sys::shm_mq_set_sender(queue, pg_sys::MyProc);
        let queue = pg_sys::shm_mq_attach(queue, seg, core::ptr::null_mut());
        pg_sys::InstrStartParallelQuery();

        let info = pg_sys::BuildIndexInfo(index);
        (*info).ii_Concurrent = shared.is_concurrent;
        let mut member = Member {
            rows: HeapRows::new(heap, index, info, OpClass::of(index)?),
            told: &*chunk(TOLD).cast::<T>(),
            number,
            queue: Queue(queue),
            scan: chunk(SCAN).cast(),
        };
        work(&mut member)?;
        if (*info).ii_BrokenHotChain {
            shared.has_broken_hot_chain.store(true, Ordering::Relaxed);
        }
        let buffers = chunk(BUFFER_USAGE).cast::<pg_sys::BufferUsage>();
        let wal = chunk(WAL_USAGE).cast::<pg_sys::WalUsage>();
        pg_sys::InstrEndParallelQuery(buffers.add(number), wal.add(number));
        // What was counted is there before the leader sees the end.
        pg_sys::shm_mq_detach(queue);
        pg_sys::index_close(index, index_lock as i32);
        pg_sys::table_close(heap, heap_lock as i32);
        Ok(())
    }
}

/// A worker's queue, attached.
pub(super) struct Queue(*mut pg_sys::shm_mq_handle);

impl Queue {
    /// Sends a message; waits for room, with a look for interrupts. Errors: nobody reads any more.
    pub(super) fn send(&mut self, message: &[u8]) -> Result<()> {
        // SAFETY: the queue is attached.
        let outcome = unsafe { compat::send_to_queue(self.0, message) };
        if outcome == pg_sys::shm_mq_result::SHM_MQ_SUCCESS {
            return Ok(());
        }
        Err(PgError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the process that builds the index has ended",
        ))
    }
}
