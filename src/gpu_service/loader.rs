//! Loading in the background: a process that lives for one load, so that the query that wants it goes on with the CPU.
//!
//! It locks the index as a scan does, waits for no lock, and gives way: whoever waits for a lock of it, or for its database to be left, has it
//! cancelled, as Postgres cancels autovacuum.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_ivf::index::Index;
use omen_service::message::TierKey;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder, pg_guard, pg_sys};

use super::claim::{Claim, IndexId, Outcome};
use super::loading::{self, Fit, Refreshed};
use super::memory::{self, Service};
use super::session;
use crate::compat::{self, FileId};
use crate::engine::service_tiers::key_of;
use crate::engine::tiers::Stop;
use crate::error::PgError;
use crate::guc::{self, Fault};
use crate::options::{self, Hot};
use crate::storage::{IndexPages, open_index};
use crate::{am, named_index, threads, wake};

/// After a refresh a process waits so long for the next to be wanted: to start another takes as long as many refreshes. So long at most does it
/// keep others from loading, or so long where one waits that is another index's.
const STAY: Duration = Duration::from_secs(1);
const LONGEST_STAY: Duration = Duration::from_secs(3);
const STAY_WHILE_AWAITED: Duration = Duration::from_millis(300);
/// Threads that help with a refresh: on a busy machine each has a processor as often as a session has, and what is appended while a refresh lasts
/// is for searches to look at.
const MAX_HELPERS: usize = 2;
/// As shown in `pg_stat_activity`.
const NAME: &str = "pg_omen loader";

/// What a process is to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Job {
    claim: Claim,
    id: IndexId,
    /// Tablespace and number of the file the index had; another is left alone. Without one it is an index that was hot before a restart,
    /// for which no other tier is to go.
    file: Option<(u32, u32)>,
    task: Task,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// To load a tier that is not there.
    Load,
    /// To bring one up to date that is, as far as that can be done.
    Refresh,
    /// The same, and to load it anew if that leaves lists out.
    LoadAgain,
    /// To load the rows of one that has codes alone, beside all other tiers.
    Rows,
}

const TASKS: [Task; 4] = [Task::Load, Task::Refresh, Task::LoadAgain, Task::Rows];

impl Job {
    fn text(&self) -> String {
        let (tablespace, number) = self.file.unwrap_or_default();
        let IndexId { database, index } = self.id;
        let task = self.task as u32;
        format!(
            "{} {database} {index} {tablespace} {number} {task}",
            self.claim.0
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let claim = Claim(words.next()?.parse().ok()?);
        let mut number = || words.next()?.parse::<u32>().ok();
        let (database, index) = (number()?, number()?);
        let file = (number()?, number()?);
        Some(Self {
            claim,
            id: IndexId { database, index },
            file: (file.1 != 0).then_some(file),
            task: *TASKS.get(number()? as usize)?,
        })
    }
}

/// Whether a load of the index in `pages` could be started now.
pub(crate) fn may_start(service: &Service, pages: &IndexPages) -> bool {
    let loaders = &service.control.loaders;
    loaders.may_claim(IndexId::of(pages), pages.file().number)
}

/// Whether the tier of the index in `pages`, for want of which a search took so long, could be brought up to date now, and is to be: when
/// searches have lost as much by what it lacks as that took the last time.
pub(crate) fn may_start_again(service: &Service, pages: &IndexPages, lost: Duration) -> bool {
    let loaders = &service.control.loaders;
    loaders.may_refresh(IndexId::of(pages), pages.file().number, lost)
}

/// Whether the index in `pages` rests because its load failed.
pub(crate) fn failed_lately(service: &Service, pages: &IndexPages) -> bool {
    let loaders = &service.control.loaders;
    loaders.failed_lately(IndexId::of(pages), pages.file().number)
}

/// A session has loaded the index in `pages`, or failed to.
pub(crate) fn note_load(service: &Service, pages: &IndexPages, error: Option<&GpuError>) {
    let outcome = match error {
        None => Outcome::Loaded,
        // Another process is loading: soon it is there.
        Some(GpuError::Busy | GpuError::Interrupted) => return,
        Some(_) => Outcome::Failed,
    };
    let loaders = &service.control.loaders;
    loaders.note(IndexId::of(pages), pages.file().number, outcome);
}

/// Whether the tier of the index in `pages` may be loaded anew.
pub(crate) fn may_reload(service: &Service, pages: &IndexPages) -> bool {
    let loaders = &service.control.loaders;
    loaders.may_reload(IndexId::of(pages), pages.file().number)
}

/// The index in `pages` has been loaded again, or will be: that is not done again for so long, and half a minute at least.
pub(crate) fn rest(service: &Service, pages: &IndexPages, pause: Duration) {
    let loaders = &service.control.loaders;
    loaders.rest(IndexId::of(pages), pages.file().number, pause);
}

/// Has a process load the tier of an index: of the one with this file, or one that was hot before a restart. `None` if that cannot be now.
pub(super) fn start_for(service: &Service, id: IndexId, file: Option<FileId>) -> Option<Claim> {
    start_job(service, id, file, Task::Load)
}

fn start_job(service: &Service, id: IndexId, file: Option<FileId>, task: Task) -> Option<Claim> {
    let loaders = &service.control.loaders;
    let claim = loaders.claim(id)?;
    let job = Job {
        claim,
        id,
        file: file.map(|file| (file.tablespace, file.number)),
        task,
    };
    let started = BackgroundWorkerBuilder::new(NAME)
        .set_type(NAME)
        .set_library("pg_omen")
        .set_function("omen_loader_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::ConsistentState)
        .set_restart_time(None)
        .set_extra(&job.text())
        .load_dynamic();
    if started.is_ok() {
        loaders.n_started.fetch_add(1, Ordering::Relaxed);
        return Some(claim);
    }
    if loaders.give_up(claim) {
        PgError::new(
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "no process is free to load an index into GPU memory",
        )
        .with_hint("Raise max_worker_processes. Further occurrences are counted, not reported; see omen_stat_gpu.")
        .report(PgLogLevel::LOG);
    }
    None
}

/// As [`start_for`], for a search: of the index in `pages`. Returns whether a process was started.
pub(crate) fn start(service: &Service, pages: &IndexPages) -> bool {
    start_for(service, IndexId::of(pages), Some(pages.file())).is_some()
}

/// As [`start`], for a tier that is there: what is out of date of it is written again; if that leaves lists out, all of it if `may_load`. Not over
/// and over.
pub(crate) fn start_again(service: &Service, pages: &IndexPages, may_load: bool) {
    let task = if may_load {
        Task::LoadAgain
    } else {
        Task::Refresh
    };
    let started = start_job(service, IndexId::of(pages), Some(pages.file()), task).is_some();
    if started && may_load {
        rest(service, pages, Duration::ZERO);
    }
}

/// As [`start_again`], for a tier of codes alone that the worker has room for with rows, unless the index rests.
pub(super) fn start_for_rows(service: &Service, key: &TierKey) {
    let (id, file) = (IndexId::of_tier(key), file_of(key));
    let loaders = &service.control.loaders;
    if loaders.may_reload(id, file.number)
        && loaders.may_claim(id, file.number)
        && start_job(service, id, Some(file), Task::Rows).is_some()
    {
        loaders.rest(id, file.number, Duration::ZERO);
    }
}

/// The file of a tier's index.
pub(super) fn file_of(key: &TierKey) -> FileId {
    FileId {
        tablespace: key.tablespace,
        database: key.database,
        number: key.number,
    }
}

thread_local! {
    /// The outcome, should the process end before there is one. Before it is connected: there is no such database, as a rule.
    static SO_FAR: Cell<Outcome> = const { Cell::new(Outcome::Gone) };
    /// Number of the file that is loaded, 0 before it is known.
    static FILE: Cell<u32> = const { Cell::new(0) };
}

/// The loader's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn omen_loader_main(_argument: pg_sys::Datum) {
    let job = Job::parse(BackgroundWorker::get_extra());
    let (Some(service), Some(job)) = (memory::service(), job) else {
        return;
    };
    if guc::inject_fault() == Fault::LoseLoader || !service.control.loaders.begin(job.claim) {
        return;
    }
    // SAFETY: once, at the start of a worker registered for it, with signals still blocked. An error of Postgres, such as that the database is
    // gone, ends the process by way of the callback; it is not started again.
    unsafe {
        pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0));
        compat::end_on_sigterm();
        pg_sys::BackgroundWorkerUnblockSignals();
        let nobody = pg_sys::InvalidOid;
        pg_sys::BackgroundWorkerInitializeConnectionByOid(job.id.database.into(), nobody, 0);
        compat::give_way();
        pg_sys::pgstat_report_activity(
            pg_sys::BackendState::STATE_RUNNING,
            c"loading an omen index into GPU memory".as_ptr(),
        );
        pg_sys::StartTransactionCommand();
    }
    SO_FAR.set(Outcome::Later);
    let work = AssertUnwindSafe(|| {
        let outcome = load(service, &job);
        // SAFETY: ends what was begun above.
        unsafe { pg_sys::CommitTransactionCommand() };
        outcome
    });
    let outcome = PgTryBuilder::new(work)
        .catch_others(|cause| {
            let outcome = failed(service, &job, &cause);
            // SAFETY: clears up after the error.
            unsafe { pg_sys::AbortCurrentTransaction() };
            outcome
        })
        .execute();
    end(service, &job, outcome);
}

/// Opens the index and loads it. Errors of Postgres are raised.
fn load(service: &Service, job: &Job) -> Outcome {
    // SAFETY: in a transaction of a process that holds no locks yet.
    let rel = match unsafe { named_index::open_without_waiting(job.id.index.into()) } {
        Ok(Some(rel)) => rel,
        Ok(None) => return Outcome::Gone,
        Err(named_index::IsLocked) => return Outcome::Later,
    };
    // SAFETY: `rel` is open and locked until the end of the transaction; nothing refers to it when it is closed.
    unsafe {
        let outcome = if is_suitable(rel) {
            load_open(service, job, rel)
        } else {
            Outcome::Gone
        };
        pg_sys::relation_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
        outcome
    }
}

/// # Safety
/// `rel` is an open and locked index of ours.
unsafe fn load_open(service: &Service, job: &Job, rel: pg_sys::Relation) -> Outcome {
    // SAFETY: by this function's contract.
    let pages = unsafe { IndexPages::new(rel) };
    let file = pages.file();
    FILE.set(file.number);
    let is_other = |(tablespace, number)| (file.tablespace, file.number) != (tablespace, number);
    if options::hot_of(&pages) == Hot::Off || job.file.is_some_and(is_other) {
        return Outcome::Gone;
    }
    let fit = match job.file {
        Some(_) => Fit::Whole,
        None => Fit::WholeBesideOthers,
    };
    let outcome = open_index(&pages).map_err(Stop::Query).and_then(|index| {
        forget_snapshot();
        if index.cpu_only().is_some() {
            return Ok(Outcome::Gone);
        }
        let key = key_of(&pages, &index);
        let has_tier = service.control.has_tier(&key);
        match (job.task, has_tier) {
            (Task::Load, true) => Ok(Outcome::Loaded),
            (Task::Load, false) => {
                loading::load(service, &pages, &index, &key, fit, false).map(|()| Outcome::Loaded)
            }
            // It was evicted, or has gone with the worker: searches decide whether it comes back.
            (Task::Refresh | Task::LoadAgain | Task::Rows, false) => Ok(Outcome::Gone),
            (Task::Rows, true) => {
                if !loading::may_get_rows(service, &pages, &index, &key)? {
                    return Ok(Outcome::Later);
                }
                let fit = Fit::WholeBesideOthers;
                loading::load(service, &pages, &index, &key, fit, true).map(|()| Outcome::Loaded)
            }
            (Task::Refresh | Task::LoadAgain, true) => refresh(service, job, &pages, &index, &key),
        }
    });
    match outcome {
        Ok(outcome) => outcome,
        Err(Stop::Query(error)) => report(service, job, &error.to_string()),
        Err(Stop::Gpu(GpuError::Busy | GpuError::Interrupted)) => Outcome::Later,
        Err(Stop::Gpu(error) | Stop::Paused(error)) => report(service, job, &error.to_string()),
    }
}

/// Brings a tier up to date, and again for as long as searches lose time by what it lacks. Where that cannot be, or leaves lists out, and the job
/// says so, all of it is loaded anew.
fn refresh(
    service: &Service,
    job: &Job,
    pages: &IndexPages,
    index: &Index,
    key: &TierKey,
) -> Result<Outcome, Stop> {
    let (loaders, came) = (&service.control.loaders, Instant::now());
    let until = came + LONGEST_STAY;
    let is_to_go = || loaders.is_awaited(job.id) && came.elapsed() > STAY_WHILE_AWAITED;
    let pool = threads::helpers(MAX_HELPERS.min(threads::cores() - 1));
    let outcome = loop {
        let (began, busy_before) = (Instant::now(), threads::time_on_processors());
        let refreshed = loading::refresh(service, pages, index, key, pool.as_ref())?;
        if refreshed == Refreshed::Not && !service.control.has_tier(key) {
            // As where there was none before: it is for searches to say whether it comes back, and that does not wait for a rest of this.
            return Ok(Outcome::Gone);
        }
        let is_useful = matches!(refreshed, Refreshed::Whole { .. } | Refreshed::Partly);
        if !is_useful && !matches!(refreshed, Refreshed::Idle { .. }) {
            let is_up_to_others = refreshed != Refreshed::Lacking;
            loaders.rest_in_vain(job.id, FILE.get(), is_up_to_others);
            break refreshed;
        }
        let busy = threads::time_on_processors().saturating_sub(busy_before);
        let took = (began.elapsed(), busy);
        loaders.rest_after_refresh(job.id, FILE.get(), took, is_useful);
        let ends = until.min(Instant::now() + STAY);
        let mut is_wanted = false;
        while is_useful && !is_wanted && Instant::now() < ends && !is_to_go() {
            session::doze();
            is_wanted = loaders.wants_refresh(job.id, FILE.get());
        }
        if !is_wanted || is_to_go() {
            break refreshed;
        }
    };
    let is_enough = match outcome {
        Refreshed::Whole { lacks_lists } | Refreshed::Idle { lacks_lists } => !lacks_lists,
        Refreshed::Partly | Refreshed::Lacking | Refreshed::Mapped => false,
        Refreshed::Not => true,
    };
    if !is_enough && job.task == Task::LoadAgain {
        loading::load(service, pages, index, key, Fit::Whole, true)?;
    }
    Ok(Outcome::Loaded)
}

/// Whether this process holds back VACUUM.
pub(super) fn has_snapshot() -> bool {
    // SAFETY: on the main thread of a process that Postgres knows; others may read the number too.
    unsafe { (*pg_sys::MyProc).xmin != pg_sys::InvalidTransactionId }
}

/// A look at the catalog leaves a snapshot, which would hold back VACUUM for as long as the transaction lasts.
pub(super) fn forget_snapshot() {
    // SAFETY: on the main thread. Of a session's snapshots those for the catalog alone go, and are taken again when they are wanted.
    unsafe { pg_sys::InvalidateCatalogSnapshot() }
}

/// Whether an open relation is an index that the service may have.
///
/// # Safety
/// `rel` is open.
unsafe fn is_suitable(rel: pg_sys::Relation) -> bool {
    // SAFETY: by this function's contract; an index has `rd_index`.
    unsafe {
        let class = &*(*rel).rd_rel;
        let is_plain_index = class.relkind as u8 == pg_sys::RELKIND_INDEX && am::is_ours(rel);
        let persistence = class.relpersistence as u8;
        is_plain_index
            && (*(*rel).rd_index).indisvalid
            && (*(*rel).rd_index).indisready
            && persistence != pg_sys::RELPERSISTENCE_TEMP
            && !(persistence == pg_sys::RELPERSISTENCE_UNLOGGED && pg_sys::RecoveryInProgress())
    }
}

/// An error of Postgres ended the load.
fn failed(service: &Service, job: &Job, cause: &CaughtError) -> Outcome {
    let (CaughtError::PostgresError(error)
    | CaughtError::ErrorReport(error)
    | CaughtError::RustPanic { ereport: error, .. }) = cause;
    match error.sql_error_code() {
        // It gave way; on a standby to what is replayed.
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED
        | PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE => Outcome::Later,
        _ => report(service, job, error.message()),
    }
}

/// Tells of a failure, unless the last load of the index failed too.
fn report(service: &Service, job: &Job, why: &str) -> Outcome {
    let IndexId { database, index } = job.id;
    if !service.control.loaders.failed_before(job.id, FILE.get()) {
        PgError::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("could not load index {index} of database {database} into GPU memory: {why}"),
        )
        .with_hint("Searches use the CPU. Further failures in a row are counted, not reported; see omen_stat_gpu.")
        .report(PgLogLevel::LOG);
    }
    Outcome::Failed
}

fn end(service: &Service, job: &Job, outcome: Outcome) {
    let loaders = &service.control.loaders;
    if loaders.end(job.claim, job.id, FILE.get(), outcome) {
        // It may have more to load.
        service.wake_worker();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _argument: pg_sys::Datum) {
    let job = Job::parse(BackgroundWorker::get_extra());
    if let (Some(service), Some(job)) = (memory::service(), job) {
        service.load.release_of(wake::my_number());
        end(service, &job, SO_FAR.get());
    }
}
