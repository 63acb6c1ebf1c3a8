//! How many parallel workers read the table of a build, and write its index. Before PostgreSQL 17 the server plans them for its own access methods alone, and
//! by the table without its TOAST table, in which most vectors are.
#![allow(unsafe_code)]

use pgrx::pg_sys;

use super::heap_rows::HeapRows;

/// What a worker has to have of `maintenance_work_mem`: its queue, and what it works with.
const WORKER_KB: i32 = 8 << 10;

/// A worker of a large table has so many times `min_blocks` at least.
const LARGE_SHARE: u64 = 8;

/// A worker that writes has so many times `min_parallel_index_scan_size` to write, at least.
const WRITER_SHARES: u64 = 16;
/// As many processes as can put records into the WAL at a time.
const MAX_WRITERS: usize = 8;
/// Buffers there are to be for each of them: it pins 32 pages of a record, and others go on.
const WRITER_BUFFERS: usize = 40;

/// Workers for a table of `n_blocks` blocks: one from `min_blocks` on, and one more each time it is twice as large, or for every `LARGE_SHARE`
/// times as many blocks, whichever is more.
fn by_size(n_blocks: u64, min_blocks: u64) -> i32 {
    let min_blocks = min_blocks.max(1);
    if n_blocks < min_blocks {
        return 0;
    }
    let parts = n_blocks / min_blocks;
    (1 + parts.ilog2() as i32).max((parts / LARGE_SHARE).min(i32::MAX as u64) as i32)
}

/// Workers that a build may have; 0 where table or index are not to be read in parallel: temporary tables, functions that are not parallel
/// safe, `max_parallel_maintenance_workers` of 0, small tables. The table's option `parallel_workers` goes before its size.
///
/// # Safety
/// `rows` is of relations that are open.
pub(super) unsafe fn planned_workers(rows: &HeapRows) -> usize {
    // SAFETY: by this function's contract; settings are read on the main thread.
    unsafe {
        let most = pg_sys::max_parallel_maintenance_workers;
        let is_temporary =
            (*(*rows.heap).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP;
        if most == 0 || is_temporary || !pg_sys::IsUnderPostmaster || !is_parallel_safe(rows) {
            return 0;
        }
        let wanted = match parallel_workers_option(rows.heap) {
            Some(n) => n,
            None => {
                let min = pg_sys::min_parallel_table_scan_size.max(0) as u64;
                by_size(n_blocks_with_toast(rows), min)
            }
        };
        let by_memory = pg_sys::maintenance_work_mem / WORKER_KB - 1;
        let by_settings = most.min(pg_sys::max_parallel_workers).min(by_memory);
        // A block is one worker's.
        let n_blocks = rows.n_blocks().min(i32::MAX as u32) as i32;
        wanted.min(by_settings).min(n_blocks).max(0) as usize
    }
}

/// Workers that write the pages of an index of so many, and log them: some of those that may read the table, one for each 16 times what a worker scans of an
/// index at least (8 MB by default), which takes a process longer to write than workers to start, as far as there are buffers for what they pin.
///
/// # Safety
/// As for [`planned_workers`].
pub(super) unsafe fn planned_writers(rows: &HeapRows, n_pages: u64) -> usize {
    // SAFETY: by this function's contract.
    let (readers, share, n_buffers) = unsafe {
        let share = pg_sys::min_parallel_index_scan_size.max(0) as u64 * WRITER_SHARES;
        (
            planned_workers(rows),
            share,
            pg_sys::NBuffers.max(0) as usize,
        )
    };
    let wanted = n_pages.checked_div(share).unwrap_or(u64::MAX);
    let most = MAX_WRITERS.min(n_buffers / WRITER_BUFFERS);
    readers.min(most).min(wanted.min(n_pages) as usize)
}

/// The table's storage parameter, if it is set.
///
/// # Safety
/// `heap` is open.
unsafe fn parallel_workers_option(heap: pg_sys::Relation) -> Option<i32> {
    // SAFETY: by this function's contract; a table's options are `StdRdOptions`.
    unsafe {
        let options = (*heap).rd_options.cast::<pg_sys::StdRdOptions>();
        let n = options.as_ref()?.parallel_workers;
        (n >= 0).then_some(n)
    }
}

/// Blocks of the table and its TOAST table.
///
/// # Safety
/// As for [`planned_workers`].
pub(super) unsafe fn n_blocks_with_toast(rows: &HeapRows) -> u64 {
    let main = u64::from(rows.n_blocks());
    // SAFETY: the table is open and locked, so that its TOAST table stays.
    unsafe {
        let toast = (*(*rows.heap).rd_rel).reltoastrelid;
        if toast == pg_sys::InvalidOid {
            return main;
        }
        let lock = pg_sys::AccessShareLock as i32;
        let toast = pg_sys::table_open(toast, lock);
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        let n = pg_sys::RelationGetNumberOfBlocksInFork(toast, fork);
        pg_sys::table_close(toast, lock);
        main + u64::from(n)
    }
}

/// Whether workers may evaluate the index's expressions and predicate.
///
/// # Safety
/// As for [`planned_workers`].
unsafe fn is_parallel_safe(rows: &HeapRows) -> bool {
    // SAFETY: the index is open. The planner's nodes are zeroed, which is what looking through an expression needs of them: no subplans, and
    // nothing known of hazards.
    unsafe {
        let expressions = pg_sys::RelationGetIndexExpressions(rows.index);
        let predicate = pg_sys::RelationGetIndexPredicate(rows.index);
        if expressions.is_null() && predicate.is_null() {
            return true;
        }
        let root = pg_sys::palloc0(size_of::<pg_sys::PlannerInfo>()).cast::<pg_sys::PlannerInfo>();
        (*root).type_ = pg_sys::NodeTag::T_PlannerInfo;
        let glob = pg_sys::palloc0(size_of::<pg_sys::PlannerGlobal>());
        (*root).glob = glob.cast();
        (*(*root).glob).type_ = pg_sys::NodeTag::T_PlannerGlobal;
        pg_sys::is_parallel_safe(root, expressions.cast())
            && pg_sys::is_parallel_safe(root, predicate.cast())
    }
}
