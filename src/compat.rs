//! Differences between PostgreSQL 14 and 18. (Members of `IndexAmRoutine` that came later are marked in the handler.)
#![allow(unsafe_code)]

#[cfg(any(feature = "pg17", feature = "pg18"))]
pub(crate) mod read_stream;

use core::ffi::{CStr, c_char, c_int};

use pgrx::pg_sys;

/// Refuses settings under our prefix that nobody defined.
pub(crate) fn reserve_setting_prefix(prefix: &CStr) {
    // SAFETY: a NUL-terminated name; called from `_PG_init`.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// Sends a message, waiting for room in the queue, and lets the reader see it at once.
///
/// # Safety
/// The queue is attached by this process, for sending.
pub(crate) unsafe fn send_to_queue(
    queue: *mut pg_sys::shm_mq_handle,
    bytes: &[u8],
) -> pg_sys::shm_mq_result::Type {
    // SAFETY: by this function's contract.
    unsafe {
        #[cfg(feature = "pg14")]
        return pg_sys::shm_mq_send(queue, bytes.len(), bytes.as_ptr().cast(), false);
        #[cfg(not(feature = "pg14"))]
        pg_sys::shm_mq_send(queue, bytes.len(), bytes.as_ptr().cast(), false, true)
    }
}

/// Sleeps if VACUUM is to go easy, and lets the user cancel. Hold no lock.
pub(crate) fn vacuum_delay_point() {
    // SAFETY: main thread, no lock held, by this function's contract.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::vacuum_delay_point();
        #[cfg(feature = "pg18")]
        pg_sys::vacuum_delay_point(false);
    }
}

/// The file of a relation, a new one after each REINDEX, TRUNCATE or VACUUM FULL: tablespace, database, number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    /// Tablespace.
    pub tablespace: u32,
    /// Database.
    pub database: u32,
    /// relfilenode.
    pub number: u32,
}

/// The file of an open relation.
///
/// # Safety
/// `rel` is open.
pub(crate) unsafe fn file_id(rel: pg_sys::Relation) -> FileId {
    // SAFETY: by this function's contract.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        {
            let node = (*rel).rd_node;
            FileId {
                tablespace: node.spcNode.to_u32(),
                database: node.dbNode.to_u32(),
                number: node.relNode.to_u32(),
            }
        }
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        {
            let locator = (*rel).rd_locator;
            FileId {
                tablespace: locator.spcOid.to_u32(),
                database: locator.dbOid.to_u32(),
                number: locator.relNumber.to_u32(),
            }
        }
    }
}

/// ReadRecentBuffer: pins `buffer` if it still holds `block` of the main fork of `rel`.
///
/// # Safety
/// `rel` is open; `buffer` is one that Postgres once gave out.
pub(crate) unsafe fn read_recent_buffer(
    rel: pg_sys::Relation,
    block: u32,
    buffer: pg_sys::Buffer,
) -> bool {
    // SAFETY: by this function's contract.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let file = (*rel).rd_node;
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let file = (*rel).rd_locator;
        pg_sys::ReadRecentBuffer(file, pg_sys::ForkNumber::MAIN_FORKNUM, block, buffer)
    }
}

/// pgstat_count_buffer_read and pgstat_count_buffer_hit, which ReadRecentBuffer leaves to its caller.
///
/// # Safety
/// `rel` is open.
pub(crate) unsafe fn count_buffer_hit(rel: pg_sys::Relation) {
    // SAFETY: by this function's contract; `pgstat_info` is checked. (Where it is missing, the next ordinary read of a page
    // sees to it.)
    unsafe {
        let info = (*rel).pgstat_info;
        if !info.is_null() {
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            {
                (*info).t_counts.t_blocks_fetched += 1;
                (*info).t_counts.t_blocks_hit += 1;
            }
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            {
                (*info).counts.blocks_fetched += 1;
                (*info).counts.blocks_hit += 1;
            }
        }
    }
}

/// RelationNeedsWAL: whether changes of the relation are logged page by page.
///
/// # Safety
/// `rel` is open.
pub(crate) unsafe fn needs_wal(rel: pg_sys::Relation) -> bool {
    // SAFETY: by this function's contract.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let first_file_subid = (*rel).rd_firstRelfilenodeSubid;
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let first_file_subid = (*rel).rd_firstRelfilelocatorSubid;
        let permanent = (*(*rel).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT;
        let log_all = pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_REPLICA as c_int;
        // InvalidSubTransactionId is 0.
        permanent && (log_all || ((*rel).rd_createSubid == 0 && first_file_subid == 0))
    }
}

/// Adds pages to a fork of a relation: at least one, at most as many as `buffers` has room for. Their buffers, each pinned, are put there. Returns the first
/// block and how many they are. The pages are zeroed. All at once from PostgreSQL 16 on, one before.
///
/// # Safety
/// `rel` is open, and no other process extends it now.
pub(crate) unsafe fn extend(
    rel: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    buffers: &mut [pg_sys::Buffer],
) -> (u32, usize) {
    // SAFETY: by this function's contract; Postgres writes at most as many buffers as it is asked for.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        {
            buffers[0] = pg_sys::ReadBufferExtended(
                rel,
                fork,
                // P_NEW
                pg_sys::InvalidBlockNumber,
                pg_sys::ReadBufferMode::RBM_NORMAL,
                core::ptr::null_mut(),
            );
            (pg_sys::BufferGetBlockNumber(buffers[0]), 1)
        }
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        {
            let relation = pg_sys::BufferManagerRelation {
                rel,
                ..Default::default()
            };
            let mut n = 0;
            let first = pg_sys::ExtendBufferedRelBy(
                relation,
                fork,
                core::ptr::null_mut(),
                pg_sys::ExtendBufferedFlags::EB_SKIP_EXTENSION_LOCK,
                buffers.len() as u32,
                buffers.as_mut_ptr(),
                &mut n,
            );
            (first, n as usize)
        }
    }
}

/// Adds `n` zeroed pages to the file of a fork of a relation from block `first`, its end, on: without buffers. All at once from PostgreSQL 16 on.
///
/// # Safety
/// `rel` is open, and no other process extends it now.
pub(crate) unsafe fn extend_file(
    rel: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    first: u32,
    n: u32,
) {
    // SAFETY: by this function's contract; the relation's file is open until the next look for interrupts, and zeroes are a valid page.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        {
            let mut zeroes = [0u8; pg_sys::BLCKSZ as usize];
            let file = pg_sys::smgropen((*rel).rd_node, (*rel).rd_backend);
            for block in first..first + n {
                pg_sys::smgrextend(file, fork, block, zeroes.as_mut_ptr().cast(), false);
            }
        }
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        {
            let file = pg_sys::smgropen((*rel).rd_locator, (*rel).rd_backend);
            pg_sys::smgrzeroextend(file, fork, first, n as c_int, false);
        }
    }
}

/// pgstat_count_index_scan, and EXPLAIN's "Index Searches" where it exists.
///
/// # Safety
/// `scan` is a scan in progress.
pub(crate) unsafe fn count_index_scan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: by this function's contract.
    unsafe {
        count_index_scans((*scan).indexRelation, 1);
        #[cfg(feature = "pg18")]
        if !(*scan).instrument.is_null() {
            (*(*scan).instrument).nsearches += 1;
        }
    }
}

/// As many pgstat_count_index_scan.
///
/// # Safety
/// `index` is open.
pub(crate) unsafe fn count_index_scans(index: pg_sys::Relation, n: i64) {
    // SAFETY: by this function's contract; `pgstat_info` is checked.
    unsafe {
        #[cfg(not(feature = "pg14"))]
        if (*index).pgstat_info.is_null() && (*index).pgstat_enabled {
            pg_sys::pgstat_assoc_relation(index);
        }
        let info = (*index).pgstat_info;
        if !info.is_null() {
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            {
                (*info).t_counts.t_numscans += n;
            }
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            {
                (*info).counts.numscans += n;
            }
        }
    }
}

/// PredicateLockRelation, as a scan of an index without predicate locks of its own takes it: SERIALIZABLE transactions notice
/// what is inserted meanwhile.
///
/// # Safety
/// `rel` is open, `snapshot` valid.
pub(crate) unsafe fn predicate_lock_relation(rel: pg_sys::Relation, snapshot: pg_sys::Snapshot) {
    unsafe extern "C-unwind" {
        fn PredicateLockRelation(rel: pg_sys::Relation, snapshot: pg_sys::Snapshot);
    }
    // SAFETY: by this function's contract; the guard makes errors of Postgres unwind.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| PredicateLockRelation(rel, snapshot)) }
}

/// Marks a path that must not be used as disabled, where the planner has such a mark.
///
/// # Safety
/// `path` is the path being costed.
pub(crate) unsafe fn disable_path(path: *mut pg_sys::IndexPath) {
    #[cfg(feature = "pg18")]
    // SAFETY: by this function's contract.
    unsafe {
        (*path).path.disabled_nodes = 2;
    }
    #[cfg(not(feature = "pg18"))]
    let _ = path;
}

/// Starts sampling `n_wanted` of `n_blocks` blocks; returns how many will come.
///
/// # Safety
/// `sampler` is writable.
pub(crate) unsafe fn start_block_sampler(
    sampler: *mut pg_sys::BlockSamplerData,
    n_blocks: u32,
    n_wanted: c_int,
    seed: u32,
) -> u32 {
    // SAFETY: by this function's contract. The seed's type differs between majors.
    unsafe { pg_sys::BlockSampler_Init(sampler, n_blocks, n_wanted, seed as _) }
}

/// One integer option of `WITH (...)` for `build_reloptions`.
pub(crate) const fn int_option(name: &'static CStr, offset: usize) -> pg_sys::relopt_parse_elt {
    option(name, pg_sys::relopt_type::RELOPT_TYPE_INT, offset)
}

/// One option of `WITH (...)` that takes one of some words, for `build_reloptions`.
pub(crate) const fn enum_option(name: &'static CStr, offset: usize) -> pg_sys::relopt_parse_elt {
    option(name, pg_sys::relopt_type::RELOPT_TYPE_ENUM, offset)
}

const fn option(
    name: &'static CStr,
    opttype: pg_sys::relopt_type::Type,
    offset: usize,
) -> pg_sys::relopt_parse_elt {
    pg_sys::relopt_parse_elt {
        optname: name.as_ptr() as *const c_char,
        opttype,
        offset: offset as c_int,
        #[cfg(feature = "pg18")]
        isset_offset: 0,
    }
}

/// The number of a relation's file by the catalog; `None` if there is no such relation.
pub(crate) fn catalog_file_number(relation: pg_sys::Oid) -> Option<u32> {
    let cache = pg_sys::SysCacheIdentifier::RELOID as c_int;
    // SAFETY: main thread, inside a transaction; the row is valid until it is released.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(relation));
        if row.is_null() {
            return None;
        }
        let number = (*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>()).relfilenode;
        pg_sys::ReleaseSysCache(row);
        Some(number.to_u32())
    }
}

/// Whether the file of a permanent relation is gone, or empty as Postgres leaves it for a while after a drop. Looks at the file itself: needs
/// no database.
pub(crate) fn is_file_gone(file: FileId) -> bool {
    let (database, tablespace) = (file.database.into(), file.tablespace.into());
    let (number, main) = (file.number, pg_sys::ForkNumber::MAIN_FORKNUM);
    // SAFETY: Postgres makes the path of any numbers; of 14 to 17 a palloc'd string, of 18 a value.
    let path = unsafe {
        let path = pg_sys::GetRelationPath(database, tablespace, number.into(), -1, main);
        #[cfg(feature = "pg18")]
        let text = CStr::from_ptr(path.str_.as_ptr()).to_owned();
        #[cfg(not(feature = "pg18"))]
        let text = {
            let text = CStr::from_ptr(path).to_owned();
            pg_sys::pfree(path.cast());
            text
        };
        text
    };
    // A file that cannot be looked at is left to those who can.
    match std::fs::metadata(path.to_string_lossy().as_ref()) {
        Ok(found) => found.len() == 0,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Whether the current user owns a relation.
pub(crate) fn owns_relation(relation: pg_sys::Oid) -> bool {
    // SAFETY: on the main thread, in a transaction.
    unsafe {
        let user = pg_sys::GetUserId();
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        return pg_sys::pg_class_ownercheck(relation, user);
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, relation, user);
    }
}

/// ProcArrayLock's place among the server's locks, the same in all majors (`lwlocknames`).
const PROC_ARRAY_LOCK: usize = 4;

/// From now on this background worker gives way as autovacuum does: whoever has waited `deadlock_timeout` for one of its locks cancels what it
/// does, and whoever drops its database ends it.
pub(crate) fn give_way() {
    // SAFETY: on the main thread of a process that is in the array of processes; written under the lock and in both places, as
    // Postgres wants it. The mark means this and nothing else to other processes, and goes with the process.
    unsafe {
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(PROC_ARRAY_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let me = pg_sys::MyProc;
        (*me).statusFlags |= pg_sys::PROC_IS_AUTOVACUUM as u8;
        let place = (*pg_sys::ProcGlobal)
            .statusFlags
            .add((*me).pgxactoff as usize);
        *place = (*me).statusFlags;
        pg_sys::LWLockRelease(lock);
    }
}

/// SIGTERM ends this background worker at its next look for interrupts, as it does a session.
pub(crate) fn end_on_sigterm() {
    // Without the guard that pgrx puts around calls, which has no place in a signal handler.
    unsafe extern "C-unwind" {
        fn die(signal: c_int);
    }
    // SAFETY: Postgres' own handler, on the main thread.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as c_int, Some(die));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as c_int, Some(die));
    }
}
