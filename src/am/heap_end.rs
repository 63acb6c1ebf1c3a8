//! The end of a table: entries of a damaged index may point beyond it.
#![allow(unsafe_code)]

use omen_ivf::Tid;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::error::{PgError, Result};

/// Whether a table is kept in pages as Postgres' own access method keeps them.
///
/// # Safety
/// `table` is open.
pub(crate) unsafe fn is_heap(table: pg_sys::Relation) -> bool {
    // SAFETY: by this function's contract.
    unsafe { (*(*table).rd_rel).relam == pg_sys::HEAP_TABLE_AM_OID }
}

/// How many blocks a table is known to have at least.
#[derive(Default)]
pub(crate) struct HeapEnd {
    n_known: u32,
}

impl HeapEnd {
    /// Errors: `tid`, from an index of `table`, names a block that it does not have. Tables whose access method is not heap may use
    /// blocks in another sense.
    ///
    /// # Safety
    /// `table` is open, and the same at each call.
    #[inline]
    pub(crate) unsafe fn check(&mut self, table: pg_sys::Relation, tid: Tid) -> Result<()> {
        if tid.block < self.n_known {
            return Ok(());
        }
        // SAFETY: by this function's contract.
        let name = unsafe {
            if !is_heap(table) {
                return Ok(());
            }
            let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
            self.n_known = pg_sys::RelationGetNumberOfBlocksInFork(table, fork);
            if tid.block < self.n_known {
                return Ok(());
            }
            pgrx::name_data_to_str(&(*(*table).rd_rel).relname).to_owned()
        };
        Err(PgError::new(
            PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
            format!(
                "index points to block {} of table \"{name}\", which has {}",
                tid.block, self.n_known
            ),
        )
        .with_hint("REINDEX the index."))
    }
}
