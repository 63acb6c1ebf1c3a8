//! The side of a worker: what it works with, and its way to the process that builds.
#![allow(unsafe_code)]

use core::ffi::{c_char, c_void};
use std::sync::atomic::Ordering;

use pgrx::{PgSqlErrorCode, pg_sys};

use super::super::heap_rows::HeapRows;
use super::super::opclass::OpClass;
use super::{BUFFER_USAGE, MEMORY, QUERY, QUEUES, SCAN, SHARED, Shared, TOLD, WAL_USAGE, queue_of};
use crate::compat;
use crate::error::{PgError, Result};

/// What a worker works with.
pub(in super::super) struct Member<'a, T> {
    /// The table and the index, with the locks that the process has that builds.
    pub rows: HeapRows,
    /// What it was told, and may tell.
    pub told: &'a T,
    /// Its number, from 0 on.
    pub number: usize,
    /// The way to the process that builds.
    pub queue: Queue,
    /// The memory that is the workers'.
    pub memory: *mut c_void,
    scan: pg_sys::ParallelTableScanDesc,
}

impl<T> Member<'_, T> {
    /// This worker's part of a scan of the whole table; once.
    pub(in super::super) fn begin_scan(&self) -> pg_sys::TableScanDesc {
        // SAFETY: the table is open; the leader has set up what is shared of the scan.
        unsafe { pg_sys::table_beginscan_parallel(self.rows.heap, self.scan) }
    }
}

/// A worker's main function: `work`, with what `run` was given.
///
/// # Safety
/// Called in a worker that `run::<T>` has launched, with the arguments of its entry point.
pub(in super::super) unsafe fn serve<T>(
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
            memory: chunk(MEMORY),
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
pub(in super::super) struct Queue(*mut pg_sys::shm_mq_handle);

impl Queue {
    /// Sends a message; waits for room, with a look for interrupts. Errors: nobody reads any more.
    pub(in super::super) fn send(&mut self, message: &[u8]) -> Result<()> {
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
