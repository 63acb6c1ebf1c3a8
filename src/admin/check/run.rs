//! Opens an index for a check, and runs it.
//!
//! A check takes `ShareLock` on table and index, as `bt_index_parent_check()` of amcheck does: INSERT, UPDATE, DELETE and VACUUM wait, searches
//! do not. Replay on a standby heeds no such lock (and none could be taken there), so there the check bears with changes.
#![allow(unsafe_code)]

use omen_ivf::Tid;
use omen_ivf::check::{CheckReport, Finding, Settings, walk};
use omen_ivf::index::Index;
use omen_ivf::layout::meta::META_BLOCK;
use omen_ivf::store::PageStore;
use pgrx::{PgSqlErrorCode, pg_sys};

use super::table::{HeapPlaces, compare};
use crate::am::{OpClass, column_dim, is_heap};
use crate::error::{PgError, Result};
use crate::named_index::NamedIndex;
use crate::storage::{IndexPages, ProbedPages, TempFile};

/// The outcome of a check.
pub(super) struct Checked {
    pub name: String,
    pub n_blocks: u32,
    pub report: CheckReport,
}

/// Checks an index, with its table's rows if `heap_all_indexed`. Errors: it cannot be checked, which is not to say that it is damaged.
pub(super) fn check(index: pg_sys::Oid, heap_all_indexed: bool) -> Result<Checked> {
    // SAFETY: reads shared memory on the main thread.
    let in_recovery = unsafe { pg_sys::RecoveryInProgress() };
    let lock = if in_recovery {
        pg_sys::AccessShareLock
    } else {
        pg_sys::ShareLock
    };
    let named = NamedIndex::open_locked(index, lock as pg_sys::LOCKMODE)?;
    check_valid(&named)?;
    if heap_all_indexed {
        check_heap(&named)?;
    }
    // SAFETY: index and table are open and locked; the ring lives as long as the pages, and the snapshot until it is given back.
    let checked = unsafe {
        let ring = pg_sys::GetAccessStrategy(pg_sys::BufferAccessStrategyType::BAS_BULKREAD);
        let pages = ProbedPages::new(IndexPages::with_strategy(named.index(), ring));
        // Before the index is read: what it sees must be there, whatever is inserted from now on.
        let snapshot =
            heap_all_indexed.then(|| pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()));
        let report = check_open(&named, &pages, in_recovery, snapshot)?;
        if let Some(snapshot) = snapshot {
            pg_sys::UnregisterSnapshot(snapshot);
        }
        let n_blocks = pages.n_blocks()?;
        pg_sys::FreeAccessStrategy(ring);
        Checked {
            name: named.name(),
            n_blocks,
            report,
        }
    };
    named.close();
    Ok(checked)
}

/// Errors: an index whose build by CONCURRENTLY has not ended well.
fn check_valid(named: &NamedIndex) -> Result<()> {
    // SAFETY: the index is open.
    if unsafe { (*(*named.index()).rd_index).indisvalid } {
        return Ok(());
    }
    Err(PgError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("index \"{}\" is not valid", named.name()),
    )
    .with_hint("REINDEX it, or wait until it is built."))
}

/// Errors: a table whose rows do not come block after block.
fn check_heap(named: &NamedIndex) -> Result<()> {
    // SAFETY: the table is open.
    if unsafe { is_heap(named.table()) } {
        return Ok(());
    }
    Err(PgError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!(
            "the table of index \"{}\" is not of access method heap",
            named.name()
        ),
    )
    .with_hint("Check the index without heap_all_indexed."))
}

/// Checks the index, and the rows that `snapshot` sees if it is given.
///
/// # Safety
/// `snapshot` is registered.
unsafe fn check_open(
    named: &NamedIndex,
    pages: &ProbedPages,
    in_recovery: bool,
    snapshot: Option<pg_sys::Snapshot>,
) -> Result<CheckReport> {
    // Not one that the session has read before.
    let index = match Index::open(pages) {
        Ok(index) => index,
        Err(error) => return Ok(CheckReport::of_error(error)?),
    };
    let foreign = check_column(named, &index)?;
    if !foreign.is_empty() {
        // Nothing else can be right.
        let mut report = CheckReport::default();
        foreign.into_iter().for_each(|finding| report.add(finding));
        return Ok(report);
    }
    // SAFETY: the table is open.
    let mut places = unsafe { HeapPlaces::of(named.table()) };
    // SAFETY: on the main thread.
    let most_bytes = (unsafe { pg_sys::maintenance_work_mem }.max(64) as usize) << 10;
    let settings = Settings {
        is_changing: in_recovery,
        has_place: &mut |tid| places.has_place(tid),
        most_bytes,
        new_file: &mut || Ok(TempFile::create()),
    };
    let mut rest = walk(pages, &index, settings)?;
    if let Some(snapshot) = snapshot {
        // On a standby VACUUM may free a row's place after its entry was read.
        let mut lookup = |tid: Tid| {
            pages.check_interrupts()?;
            Ok(if in_recovery {
                None
            } else {
                places.look_up(tid)
            })
        };
        // SAFETY: by this function's contract; index and table are open.
        unsafe { compare(named, &index, snapshot, &mut rest, &mut lookup)? };
        rest.end_of_table(&mut lookup, &mut || pages.check_interrupts())?;
    }
    let (report, file) = rest.finish_with_file(&mut || pages.check_interrupts())?;
    if let Some(file) = file {
        file.close();
    }
    Ok(report)
}

/// What the catalog says otherwise.
fn check_column(named: &NamedIndex, index: &Index) -> Result<Vec<Finding>> {
    // SAFETY: the index is open and of our access method.
    let (class, dim) = unsafe { (OpClass::of(named.index())?, column_dim(named.index())?) };
    let mut found = Vec::new();
    if index.metric() != class.metric {
        found.push(format!(
            "metric is {}, that of the operator class {}",
            index.metric().name(),
            class.metric.name()
        ));
    }
    if index.form.kind() != class.kind() {
        found.push(format!(
            "rows are {}, those of the operator class {}",
            index.form.kind().name(),
            class.kind().name()
        ));
    }
    if index.meta.dim != dim {
        found.push(format!(
            "dimension is {}, that of the column {dim}",
            index.meta.dim
        ));
    }
    let of_metapage = |what| Finding::of_page(None, META_BLOCK, what);
    Ok(found.into_iter().map(of_metapage).collect())
}
