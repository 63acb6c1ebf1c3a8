//! Loading in the background: a process that lives for one load, so that the query that wants it goes on with the CPU.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use omen_service::message::TierKey;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_guard, pg_sys};

use super::breaker::now;
use super::control::hash_of;
use super::memory::{self, Service};
use super::{loading, wake};
use crate::compat;
use crate::engine::service_tiers::key_of;
use crate::engine::tiers::Stop;
use crate::error::PgError;
use crate::named_index::NamedIndex;
use crate::options::{self, Hot};
use crate::storage::open_index;

/// As shown in `pg_stat_activity`.
const NAME: &str = "pg_omen loader";
/// A loader that has not ended by then is taken for dead, and another may be started.
const LONGEST: Duration = Duration::from_secs(600);
/// After a load that failed, or that found no process, nobody tries again for so long.
const PAUSE: Duration = Duration::from_secs(30);
/// Failed loads that are remembered, by a hash of the index.
const N_FAILED: usize = 32;

/// Who loads, and what could not be loaded lately; in shared memory. All zero: nobody, nothing.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Loaders {
    /// When the loader that is there was started, microseconds as Postgres counts them; 0: there is none. Also names it.
    started: AtomicI64,
    failed: [Failed; N_FAILED],
}

#[derive(Default)]
#[repr(C)]
struct Failed {
    key: AtomicU64,
    at: AtomicI64,
}

impl Loaders {
    /// Makes the caller the one who may start a loader; the loader's name. `None`: there is one.
    fn claim(&self) -> Option<i64> {
        let (seen, order) = (self.started.load(Ordering::Relaxed), Ordering::AcqRel);
        let now = now();
        if seen != 0 && now - seen < LONGEST.as_micros() as i64 {
            return None;
        }
        let claimed = self
            .started
            .compare_exchange(seen, now, order, Ordering::Relaxed);
        claimed.ok().map(|_| now)
    }

    /// Whether there is no loader, as far as is known.
    pub(super) fn is_idle(&self) -> bool {
        self.started.load(Ordering::Relaxed) == 0
    }

    /// The loader of this name has ended.
    fn release(&self, name: i64) {
        let order = Ordering::AcqRel;
        let _ = self
            .started
            .compare_exchange(name, 0, order, Ordering::Relaxed);
    }

    fn place(&self, key: &TierKey) -> (&Failed, u64) {
        let hash = hash_of(key);
        (&self.failed[hash as usize % N_FAILED], hash)
    }

    fn note_failure(&self, key: &TierKey) {
        let (place, hash) = self.place(key);
        place.key.store(hash, Ordering::Relaxed);
        place.at.store(now(), Ordering::Relaxed);
    }

    /// Whether loading this index failed lately.
    fn failed_lately(&self, key: &TierKey) -> bool {
        let (place, hash) = self.place(key);
        let age = now() - place.at.load(Ordering::Relaxed);
        place.key.load(Ordering::Relaxed) == hash && age < PAUSE.as_micros() as i64
    }
}

/// Has a process load the tier of an index (OID `index`, of this session's database), unless one is loading, or could not lately.
pub(crate) fn start(service: &Service, index: pg_sys::Oid, key: &TierKey) {
    let loaders = &service.control.loaders;
    // SAFETY: reads a variable of the session.
    let database = unsafe { pg_sys::MyDatabaseId };
    if !loaders.failed_lately(key) && !start_for(service, database.to_u32(), index) {
        // If it is for want of processes, more may be free later.
        if loaders.is_idle() {
            loaders.note_failure(key);
        }
    }
}

/// Whether [`start`] would do anything.
pub(crate) fn may_start(service: &Service, key: &TierKey) -> bool {
    let loaders = &service.control.loaders;
    loaders.is_idle() && !loaders.failed_lately(key)
}

/// As [`start`], for an index of whose tier much is out of date, or was left out for want of room; not more often than every half minute.
pub(crate) fn start_again(service: &Service, index: pg_sys::Oid, key: &TierKey) {
    if may_start(service, key) {
        start(service, index, key);
        service.control.loaders.note_failure(key);
    }
}

/// Starts a loader for an index of a database, unless there is one. Returns whether that could be done.
pub(super) fn start_for(service: &Service, database: u32, index: pg_sys::Oid) -> bool {
    let loaders = &service.control.loaders;
    let Some(name) = loaders.claim() else {
        return false;
    };
    let started = BackgroundWorkerBuilder::new(NAME)
        .set_type(NAME)
        .set_library("pg_omen")
        .set_function("omen_loader_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::ConsistentState)
        .set_restart_time(None)
        .set_argument(Some(pg_sys::Datum::from(index)))
        .set_extra(&format!("{database} {name}"))
        .load_dynamic();
    if started.is_err() {
        loaders.release(name);
    }
    started.is_ok()
}

/// The loader's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn omen_loader_main(index: pg_sys::Datum) {
    let mut words = BackgroundWorker::get_extra().split(' ');
    let database = words.next().and_then(|word| word.parse::<u32>().ok());
    let name = words.next().and_then(|word| word.parse::<i64>().ok());
    let (Some(service), Some(database), Some(name)) = (memory::service(), database, name) else {
        return;
    };
    let index = pg_sys::Oid::from(index.value() as u32);
    // SAFETY: once, at the start of a worker registered for it. An error of Postgres, such as that the database is gone, ends the process
    // by way of the callback; it is not started again.
    unsafe {
        pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(name));
        compat::end_on_sigterm();
        pg_sys::BackgroundWorkerUnblockSignals();
        let nobody = pg_sys::InvalidOid;
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database.into(), nobody, 0);
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    load(service, index);
    // SAFETY: ends what was begun above.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
    }
}

fn load(service: &Service, index: pg_sys::Oid) {
    let report = |error: PgError| error.report(PgLogLevel::LOG);
    // SAFETY: in a transaction. Of an index that is gone there is nothing to report.
    if unsafe { pg_sys::IndexGetRelation(index, true) } == pg_sys::InvalidOid {
        return;
    }
    let named = match NamedIndex::open(index) {
        Ok(named) => named,
        Err(error) => return report(error),
    };
    let pages = named.pages();
    match open_index(&pages) {
        Err(error) => report(error),
        Ok(_) if options::hot_of(&pages) == Hot::Off => {}
        Ok(open) => {
            let key = key_of(pages.file(), &open);
            let outcome = loading::load(service, &pages, &open, &key, true);
            if outcome.is_err() {
                service.control.loaders.note_failure(&key);
            }
            match outcome {
                Ok(()) => {}
                Err(Stop::Query(error)) => report(error),
                Err(Stop::Gpu(error) | Stop::Paused(error)) => report(PgError::new(
                    PgSqlErrorCode::ERRCODE_WARNING,
                    format!(
                        "could not load index \"{}\" into GPU memory: {error}",
                        named.name()
                    ),
                )),
            }
        }
    }
    named.close();
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, name: pg_sys::Datum) {
    if let Some(service) = memory::service() {
        service.control.loaders.release(name.value() as i64);
        service.load.release_of(wake::my_number());
    }
}
