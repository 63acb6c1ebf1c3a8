//! Parallel workers read the table of a build: they fetch the rows, detoast them and bring them into their stored form; the process that
//! builds assigns them to lists.
//!
//! Each worker has a queue (`shm_mq`), into which it writes batches of rows until it has read its share of the table.
//! A worker's error is raised here, by the next look for interrupts or at the end. What is shared (locks, snapshot, transaction) Postgres
//! takes care of; if the build fails, the end of the transaction ends the workers.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use omen_ivf::Tid;
use omen_ivf::row_batch::RowBatch;
use omen_ivf::stored::Scaling;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};

use super::entry_sink::EntrySink;
use super::heap_rows::HeapRows;
use super::opclass::OpClass;
use super::{progress, sample};
use crate::error::{PgError, Result};
use crate::{compat, wake};

/// Bytes of a worker's queue: what the reading goes on with while a batch is assigned. Of many workers each needs less, and shared memory may be scarce.
const QUEUE_BYTES: usize = 2 << 20;
const MIN_QUEUE_BYTES: usize = 256 << 10;
const ALL_QUEUES_BYTES: usize = 16 << 20;
/// Bytes of a batch that a worker sends.
const SEND_BYTES: usize = 64 << 10;

/// Workers wake the process when they have sent something, or have ended; it looks so often by itself.
const LOOK: Duration = Duration::from_secs(1);

/// Keys of what is in the shared memory.
const SHARED: u64 = 1;
const SCAN: u64 = 2;
const QUEUES: u64 = 3;
const BUFFER_USAGE: u64 = 4;
const WAL_USAGE: u64 = 5;
const QUERY: u64 = 6;

/// What workers are told, and what they tell.
#[repr(C)]
struct Shared {
    heap: pg_sys::Oid,
    index: pg_sys::Oid,
    is_concurrent: bool,
    queue_bytes: usize,
    dim: u32,
    scale_exp: i32,
    /// Rows of the table, NULLs included, of workers that have ended.
    n_rows: AtomicU64,
    /// Blocks begun.
    n_blocks: AtomicU64,
    has_broken_hot_chain: AtomicBool,
}

/// Reads the table with up to `n_workers` workers. Returns the number of its rows, NULLs included, and of workers; `None` if no worker could be started. Errors: those
/// of reading, and of `sink`.
///
/// # Safety
/// `rows` is what `ambuild` was called with.
pub(super) unsafe fn read_table(
    rows: &HeapRows,
    n_workers: usize,
    sink: &mut EntrySink,
) -> Result<Option<(f64, usize)>> {
    // SAFETY: the order of calls is that of Postgres's own parallel builds; memory is asked for before it is used, with the same sizes; all on the
    // main thread. Errors leave what is open to the end of the transaction.
    unsafe {
        pg_sys::EnterParallelMode();
        let cxt = pg_sys::CreateParallelContext(
            c"$libdir/pg_omen".as_ptr(),
            c"omen_build_worker".as_ptr(),
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
        let [shared, scan, queues, buffer_usage, wal_usage, text] = chunks.map(|(key, bytes)| {
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
            dim: sink.scaling().dim,
            scale_exp: sink.scaling().scale_exp,
            n_rows: AtomicU64::new(0),
            n_blocks: AtomicU64::new(0),
            has_broken_hot_chain: AtomicBool::new(false),
        });
        let shared = &*shared;
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
        receive(queues, shared, sink)?;
        pg_sys::WaitForParallelWorkersToFinish(cxt);
        // Blocks without rows for the index count too.
        progress::blocks_done(u64::from(rows.n_blocks()));
        for i in 0..n_launched {
            let buffers = buffer_usage.cast::<pg_sys::BufferUsage>().add(i);
            let wal = wal_usage.cast::<pg_sys::WalUsage>().add(i);
            pg_sys::InstrAccumParallelQuery(buffers, wal);
        }
        if shared.has_broken_hot_chain.load(Ordering::Relaxed) {
            (*rows.info).ii_BrokenHotChain = true;
        }
        let n_rows = shared.n_rows.load(Ordering::Relaxed);
        leave(cxt);
        Ok(Some((n_rows as f64, n_launched)))
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
unsafe fn receive(
    mut queues: Vec<*mut pg_sys::shm_mq_handle>,
    shared: &Shared,
    sink: &mut EntrySink,
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
                        let batch = core::slice::from_raw_parts(data.cast::<u8>(), n_bytes);
                        if outcome.is_ok() {
                            outcome = sink.put_stored(batch);
                        }
                        true
                    }
                    pg_sys::shm_mq_result::SHM_MQ_WOULD_BLOCK => true,
                    _ => false,
                }
            }
        });
        outcome?;
        progress::blocks_done(shared.n_blocks.load(Ordering::Relaxed));
        if !has_come && !queues.is_empty() {
            let event = pg_sys::WaitEventIPC::WAIT_EVENT_PARALLEL_CREATE_INDEX_SCAN;
            wake::wait(LOOK, event);
        }
        pgrx::check_for_interrupts!();
    }
    Ok(())
}

/// A worker's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn omen_build_worker(
    seg: *mut pg_sys::dsm_segment,
    toc: *mut pg_sys::shm_toc,
) {
    // SAFETY: Postgres calls this in a worker that `read_table` has launched, with the memory it has filled.
    let outcome = unsafe { work(seg, toc) };
    if let Err(error) = outcome {
        error.raise();
    }
}

/// # Safety
/// The arguments are those of `omen_build_worker`.
unsafe fn work(seg: *mut pg_sys::dsm_segment, toc: *mut pg_sys::shm_toc) -> Result<()> {
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
        let scan = pg_sys::table_beginscan_parallel(heap, chunk(SCAN).cast());
        let opclass = OpClass::of(index)?;
        let rows = HeapRows::new(heap, index, info, opclass);
        let mut sender = Sender {
            queue,
            scaling: Scaling {
                metric: opclass.metric,
                dim: shared.dim,
                scale_exp: shared.scale_exp,
            },
            batch: RowBatch::new(shared.dim as usize),
            bytes: Vec::new(),
        };
        let mut block = pg_sys::InvalidBlockNumber;
        let n_rows = rows.for_each_of(scan, &mut |tid, value| {
            if tid.block != block {
                block = tid.block;
                shared.n_blocks.fetch_add(1, Ordering::Relaxed);
            }
            value.with(|v| sender.put(tid, v))?
        });
        sender.send()?;
        shared.n_rows.fetch_add(n_rows as u64, Ordering::Relaxed);
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

/// A worker's rows on their way.
struct Sender {
    queue: *mut pg_sys::shm_mq_handle,
    scaling: Scaling,
    batch: RowBatch,
    bytes: Vec<u8>,
}

impl Sender {
    fn put(&mut self, tid: Tid, v: &[f32]) -> Result<()> {
        sample::check_dim(self.scaling.dim as usize, v.len())?;
        // Zero vectors under cosine are not indexed.
        if let Some(stored) = self.scaling.to_stored(v)? {
            self.batch.push(tid, &stored);
            if self.batch.n_bytes() >= SEND_BYTES {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch.encode(&mut self.bytes);
        self.batch.clear();
        // SAFETY: the queue is attached; waits for room, with a look for interrupts.
        let outcome = unsafe { compat::send_to_queue(self.queue, &self.bytes) };
        if outcome == pg_sys::shm_mq_result::SHM_MQ_SUCCESS {
            return Ok(());
        }
        Err(PgError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the process that builds the index has ended",
        ))
    }
}
