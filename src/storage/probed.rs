//! [`ProbedPages`]: an index read by who wants to hear of its bad pages rather than fail at the first.
//!
//! What Postgres raises about a page (a wrong checksum, a header that is none, a file too short) ends the transaction, unless a
//! subtransaction stands around it, which gives back what the read had begun. So each page is brought into memory in a subtransaction first.
#![allow(unsafe_code)]

use core::panic::AssertUnwindSafe;
use std::cell::RefCell;

use omen_ivf::store::PageStore;
use omen_ivf::{IvfError, Result};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

use super::IndexPages;

/// The pages of an index; those that cannot be read are errors of the index.
pub(crate) struct ProbedPages {
    pages: IndexPages,
    /// Of each block, whether it could be read.
    probed: RefCell<Vec<bool>>,
}

impl ProbedPages {
    /// Of these pages.
    pub(crate) fn new(pages: IndexPages) -> Self {
        Self {
            pages,
            probed: RefCell::default(),
        }
    }

    /// Errors: the page cannot be read.
    fn probe(&self, block: u32) -> Result<()> {
        if self.probed.borrow().get(block as usize) == Some(&true) {
            return Ok(());
        }
        self.read_once(block)?;
        let mut probed = self.probed.borrow_mut();
        let n = probed.len().max(block as usize + 1);
        probed.resize(n, false);
        probed[block as usize] = true;
        Ok(())
    }

    /// Brings a page into memory. Leaves nothing behind, whatever comes of it.
    fn read_once(&self, block: u32) -> Result<()> {
        // SAFETY: on the main thread, in a transaction that is not parallel (the functions that check are parallel unsafe). Memory context
        // and resource owner are put back as they were before the subtransaction, as Postgres' own languages do.
        unsafe {
            let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
            pg_sys::BeginInternalSubTransaction(core::ptr::null());
            pg_sys::MemoryContextSwitchTo(context);
            let read = AssertUnwindSafe(|| {
                let pinned = self.pages.pin_by_table(block);
                Ok(pinned.map(|buffer| pg_sys::ReleaseBuffer(buffer)))
            });
            let outcome = PgTryBuilder::new(read)
                .catch_others(|cause| Err(Box::new(cause)))
                .execute();
            pg_sys::MemoryContextSwitchTo(context);
            if outcome.is_ok() {
                pg_sys::ReleaseCurrentSubTransaction();
            } else {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
            }
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
            match outcome {
                Ok(read) => read,
                Err(cause) => Err(IvfError::corrupt(block, said_of_page(*cause))),
            }
        }
    }
}

/// What Postgres says of a page that cannot be read. Anything else is raised again.
fn said_of_page(cause: CaughtError) -> String {
    if let CaughtError::PostgresError(report) = &cause
        && matches!(
            report.sql_error_code(),
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED
                | PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED
                | PgSqlErrorCode::ERRCODE_IO_ERROR
                | PgSqlErrorCode::ERRCODE_UNDEFINED_FILE
        )
    {
        return report.message().to_owned();
    }
    cause.rethrow()
}

impl PageStore for ProbedPages {
    fn n_blocks(&self) -> Result<u32> {
        self.pages.n_blocks()
    }

    fn read<R>(&self, block: u32, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.probe(block)?;
        self.pages.read(block, f)
    }

    fn prefetch(&self, block: u32) {
        self.pages.prefetch(block);
    }

    fn wants_announcements(&self) -> bool {
        false
    }

    fn announce(&self, _blocks: Vec<u32>) {}

    fn check_interrupts(&self) -> Result<()> {
        self.pages.check_interrupts()
    }
}
