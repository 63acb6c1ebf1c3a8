//! Indexes that users name in calls of functions: opened with their tables, once it is sure that they are ours and that the
//! user may read them.
#![allow(unsafe_code)]

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::am;
use crate::compat;
use crate::error::{PgError, Result};
use crate::privilege;
use crate::storage::IndexPages;

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// An index of ours and its table, both open and locked. After an error the abort of the transaction closes them.
pub(crate) struct NamedIndex {
    index: pg_sys::Relation,
    table: pg_sys::Relation,
    lock: pg_sys::LOCKMODE,
}

impl NamedIndex {
    /// Opens `index`. Errors: it is no omen index, has no pages of its own, is not built yet, or the user may not read all of its
    /// table. Raises Postgres's own if there is no such relation.
    pub(crate) fn open(index: pg_sys::Oid) -> Result<Self> {
        let table = table_of(index)?;
        privilege::check_select(table, "the table of index", index)?;
        Self::open_with(index, table, LOCK)
    }

    /// As [`Self::open`], by a user who may do this whatever he may read, and in `lock` mode.
    pub(crate) fn open_locked(index: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> Result<Self> {
        // What is none of ours is not locked like that.
        Self::open_with(index, table_of(index)?, LOCK)?.close();
        Self::open_with(index, table_of(index)?, lock)
    }

    fn open_with(index: pg_sys::Oid, table: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> Result<Self> {
        // SAFETY: on the main thread, in a transaction. The table is locked first, as everywhere; a concurrent DROP in between
        // makes the second call fail.
        let named = unsafe {
            Self {
                table: pg_sys::table_open(table, lock),
                index: pg_sys::index_open(index, lock),
                lock,
            }
        };
        named.check()?;
        Ok(named)
    }

    /// The index's relation.
    pub(crate) fn index(&self) -> pg_sys::Relation {
        self.index
    }

    /// The table's relation.
    pub(crate) fn table(&self) -> pg_sys::Relation {
        self.table
    }

    /// Name of the index.
    pub(crate) fn name(&self) -> String {
        // SAFETY: the index is open.
        unsafe { name_of(self.index) }
    }

    /// The pages of the index, while this value lives.
    pub(crate) fn pages(&self) -> IndexPages {
        // SAFETY: the index is open, locked, and of our access method: `check`.
        unsafe { IndexPages::new(self.index) }
    }

    /// Closes both; the locks go too.
    pub(crate) fn close(self) {
        let lock = self.lock;
        self.close_with(lock);
    }

    /// Closes both; the locks stay until the end of the transaction, as those of a query do.
    pub(crate) fn close_locked(self) {
        self.close_with(pg_sys::NoLock as pg_sys::LOCKMODE);
    }

    fn close_with(self, lock: pg_sys::LOCKMODE) {
        // SAFETY: both are open, and nothing refers to them any more.
        unsafe {
            pg_sys::index_close(self.index, lock);
            pg_sys::table_close(self.table, lock);
        }
    }

    fn check(&self) -> Result<()> {
        // SAFETY: both relations are open.
        unsafe {
            let (rel, name) = (self.index, self.name());
            // Dropped before it was locked, and its number is another's.
            let is_of_table = (*(*rel).rd_index).indrelid == (*self.table).rd_id;
            if !am::is_ours(rel) || !is_of_table {
                return Err(not_ours(rel));
            }
            if (*(*rel).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_INDEX {
                return Err(PgError::new(
                    PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                    format!("index \"{name}\" is partitioned"),
                )
                .with_hint("Ask for the indexes of its partitions."));
            }
            if !(*(*rel).rd_index).indisready {
                return Err(PgError::new(
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("index \"{name}\" is being built, or its build failed"),
                ));
            }
            let persistence = (*(*rel).rd_rel).relpersistence as u8;
            if persistence == pg_sys::RELPERSISTENCE_UNLOGGED && pg_sys::RecoveryInProgress() {
                return Err(PgError::new(
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("unlogged index \"{name}\" has no data on a standby"),
                ));
            }
            if persistence == pg_sys::RELPERSISTENCE_TEMP && !(*rel).rd_islocaltemp {
                return Err(PgError::new(
                    PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                    "cannot access temporary indexes of other sessions",
                ));
            }
        }
        Ok(())
    }

    /// Whether the table is the user's.
    pub(crate) fn is_owned(&self) -> bool {
        // SAFETY: the table is open.
        compat::owns_relation(unsafe { (*self.table()).rd_id })
    }

    /// Errors: the table belongs to somebody else.
    pub(crate) fn check_owner(&self) -> Result<()> {
        if self.is_owned() {
            return Ok(());
        }
        Err(PgError::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of the table of index \"{}\"", self.name()),
        )
        .with_hint("The shared GPU service holds it for all sessions."))
    }
}

/// The table of an index. Errors: `index` is none.
fn table_of(index: pg_sys::Oid) -> Result<pg_sys::Oid> {
    // SAFETY: on the main thread, in a transaction.
    unsafe {
        let table = pg_sys::IndexGetRelation(index, true);
        if table == pg_sys::InvalidOid {
            // Says what it is instead.
            let rel = pg_sys::index_open(index, LOCK);
            return Err(not_ours(rel));
        }
        Ok(table)
    }
}

/// Somebody has a lock on an index or its table, or waits for one, that keeps scans away.
pub(crate) struct IsLocked;

/// Opens an index that nobody named in a call, locked with its table as a scan locks them, until the end of the transaction. Waits for no lock.
/// `None`: there is no such index. Whose it is, and whether it is ours, is for the caller to look at.
///
/// # Safety
/// On the main thread, in a transaction.
pub(crate) unsafe fn open_without_waiting(
    index: pg_sys::Oid,
) -> core::result::Result<Option<pg_sys::Relation>, IsLocked> {
    // SAFETY: by this function's contract. The table is locked first, as everywhere.
    unsafe {
        let table = pg_sys::IndexGetRelation(index, true);
        if table == pg_sys::InvalidOid {
            return Ok(None);
        }
        if !pg_sys::ConditionalLockRelationOid(table, LOCK)
            || !pg_sys::ConditionalLockRelationOid(index, LOCK)
        {
            return Err(IsLocked);
        }
        // It may have been dropped before it was locked, and its number may be another's.
        let rel = pg_sys::try_relation_open(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        let is_it =
            !rel.is_null() && !(*rel).rd_index.is_null() && (*(*rel).rd_index).indrelid == table;
        if !is_it && !rel.is_null() {
            pg_sys::relation_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
        Ok(is_it.then_some(rel))
    }
}

/// # Safety
/// `rel` is open.
unsafe fn name_of(rel: pg_sys::Relation) -> String {
    // SAFETY: by this function's contract.
    unsafe { pg_sys::name_data_to_str(&(*(*rel).rd_rel).relname).to_owned() }
}

/// # Safety
/// `rel` is open.
unsafe fn not_ours(rel: pg_sys::Relation) -> PgError {
    // SAFETY: by this function's contract.
    let name = unsafe { name_of(rel) };
    PgError::new(
        PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        format!("\"{name}\" is not an omen index"),
    )
    .with_hint("Name an index that was made with USING omen.")
}
