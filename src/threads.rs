//! Threads of this process beside the main one. They never call Postgres.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::error::{PgError, Result};

/// Threads a build may use: `max_parallel_maintenance_workers` + 1, at most one a core.
pub(crate) fn count() -> usize {
    // SAFETY: reads a setting on the main thread.
    let workers = unsafe { pg_sys::max_parallel_maintenance_workers }.max(0) as usize;
    (workers + 1).min(cores())
}

/// Cores of the machine that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// A pool of [`count`] threads.
pub(crate) fn pool() -> Result<rayon::ThreadPool> {
    with_signals_blocked(|| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(count())
            .thread_name(|i| format!("omen build {i}"))
            .build()
    })
    .map_err(|e| not_started(&e))
}

/// A pool of `n` threads to help this one; `None` if there are to be none, or the system has none left.
pub(crate) fn helpers(n: usize) -> Option<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n);
    let pool = pool.thread_name(|i| format!("omen help {i}"));
    (n > 0).then(|| with_signals_blocked(|| pool.build()).ok())?
}

/// Runs `work` on a thread of this name, with all signals blocked. Errors: the system has none left.
pub(crate) fn start(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into());
    with_signals_blocked(|| thread.spawn(work))
}

/// What a user is told where threads cannot be started.
pub(crate) fn not_started(error: &dyn std::error::Error) -> PgError {
    PgError::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        format!("could not start threads: {error}"),
    )
}

/// Waits for what a thread sends, looking for interrupts; `None` if it has ended.
pub(crate) fn receive<T>(from: &Receiver<T>) -> Option<T> {
    loop {
        match from.recv_timeout(LOOK) {
            Ok(sent) => return Some(sent),
            Err(RecvTimeoutError::Timeout) => {
                pgrx::check_for_interrupts!();
            }
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Gives memory that threads have freed back to the system: each thread's part of the heap keeps what it had most.
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks, and moves nothing.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Larger allocations than this are pages of their own, which the system has back when they are freed.
const HEAP_MOST: libc::c_int = 4 << 20;

/// Has this process keep no more than some megabytes of what each of its threads has freed, from now on: else the allocator takes the largest piece ever freed for
/// what will be wanted again, and with many threads keeps hundreds of megabytes that nothing counts.
pub(crate) fn bound_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks, and moves nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, HEAP_MOST);
        libc::mallopt(libc::M_TRIM_THRESHOLD, HEAP_MOST);
    }
}

/// How long the threads of this process have had processors so far, together; zero where the system does not say.
pub(crate) fn time_on_processors() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is where it is written to.
    match unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) } {
        0 => Duration::new(time.tv_sec as u64, time.tv_nsec as u32),
        _ => Duration::ZERO,
    }
}

/// While this thread waits for others, it looks for interrupts so often.
const LOOK: Duration = Duration::from_millis(20);

/// What `work` returns, which runs on the threads of `pool`, while this one, the main one, looks for interrupts. Returns, or unwinds, when `work` has ended.
pub(crate) fn on_pool<T: Send>(
    pool: &rayon::ThreadPool,
    work: impl FnOnce() -> T + Send,
) -> Result<T> {
    pool.in_place_scope(|scope| {
        let (sender, result) = channel();
        scope.spawn(move |_| {
            // The other end waits until this one is dropped, or is not interested any more.
            let _ = sender.send(work());
        });
        // Without a result it panicked; so does the scope.
        let panicked = || {
            PgError::new(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                "a thread has panicked",
            )
        };
        receive(&result).ok_or_else(panicked)
    })
}

/// A process that ends waits so long for a thread to come back from the GPU's driver: somewhat longer than calls there wait for the device.
const EXIT_WAIT: Duration = Duration::from_secs(12);
const EXIT_LOOK: Duration = Duration::from_millis(1);

/// Threads beside the main one that are in the driver, and whether the process ends: then none may go there.
static IN_DRIVER: AtomicUsize = AtomicUsize::new(0);
static ENDS: AtomicBool = AtomicBool::new(false);

thread_local! {
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// A thread's leave to call the GPU's driver, until it is dropped.
pub(crate) struct InDriver(());

impl InDriver {
    /// `None` if the process ends: the driver, which tidies up at exit, must not be called then.
    pub(crate) fn enter() -> Option<Self> {
        // Counted before it looks: who ends the process first says so, and then waits for those counted.
        IN_DRIVER.fetch_add(1, Ordering::SeqCst);
        let leave = Self(());
        (!ENDS.load(Ordering::SeqCst)).then_some(leave)
    }
}

impl Drop for InDriver {
    fn drop(&mut self) {
        IN_DRIVER.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sees to it that the process, if a FATAL error ends it, does not exit under a thread that is in the driver. Before such a thread is started.
pub(crate) fn mind_driver_at_exit() {
    if !IS_REGISTERED.replace(true) {
        // SAFETY: on the main thread; the callback lives as long as the process.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0)) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _arg: pg_sys::Datum) {
    ENDS.store(true, Ordering::SeqCst);
    let until = Instant::now() + EXIT_WAIT;
    while IN_DRIVER.load(Ordering::SeqCst) > 0 && Instant::now() < until {
        std::thread::sleep(EXIT_LOOK);
    }
}

/// Runs `f` with all signals blocked: threads it starts inherit that, so that Postgres's signal handlers run on the
/// main thread alone.
pub(crate) fn with_signals_blocked<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(libc::sigset_t);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: restores the mask that was read below.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, core::ptr::null_mut()) };
        }
    }
    // SAFETY: sigset_t is plain memory, filled by sigfillset and pthread_sigmask before it is read.
    let _restore = unsafe {
        let mut all: libc::sigset_t = core::mem::zeroed();
        let mut old: libc::sigset_t = core::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        Restore(old)
    };
    f()
}
