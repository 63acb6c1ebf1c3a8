//! Ends the worker when a call of the driver does not return: a thread beside the main one looks whether that gets on.
//!
//! It looks at batches and at the opening of the context alone: nothing of Postgres is under way there but the waking of sessions. The main
//! thread may be anywhere in the driver then. A signal brings it back, whose handler ends the process as any other end does, so that Postgres
//! starts it again and no other process is touched. A call that no signal interrupts cannot be helped: sessions search on the CPU, as the
//! breaker is open (`breaker.rs`), until the driver lets go.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::memory::Service;
use crate::threads;

/// So often the thread looks.
const LOOK: Duration = Duration::from_millis(500);
/// What brings the main thread back; Postgres has no use for it in such a worker.
const SIGNAL: i32 = libc::SIGUSR2;

/// Tells the thread what the main thread is at.
pub(super) struct Watchdog {
    start: Instant,
}

/// After the signal the process should be gone within this time.
const GRACE: Duration = Duration::from_secs(10);

/// Milliseconds from `start` at which what is under way should be done; or one of the two below.
static UNTIL: AtomicU64 = AtomicU64::new(RESTING);
const RESTING: u64 = 0;
/// It is not done: the process is to end.
const FIRED: u64 = u64::MAX;

impl Watchdog {
    /// Starts the thread, once in a process. On the main thread.
    pub(super) fn start(service: &'static Service) -> std::io::Result<Self> {
        let start = Instant::now();
        // SAFETY: a handler of the right type for a signal that nothing else handles here; the main thread lives as long as the process.
        let main = unsafe {
            libc::signal(SIGNAL, on_stuck as *const () as libc::sighandler_t);
            libc::pthread_self()
        };
        let watch = move || {
            wait_until_stuck(start);
            service.control.note_stuck();
            service.queue.set_server_up(false);
            // SAFETY: the main thread exists, see above; the message is plain bytes.
            unsafe {
                libc::pthread_kill(main, SIGNAL);
                std::thread::sleep(GRACE);
                libc::write(
                    libc::STDERR_FILENO,
                    STILL_HERE.as_ptr().cast(),
                    STILL_HERE.len(),
                );
            }
        };
        threads::start("omen watchdog", watch)?;
        Ok(Self { start })
    }

    /// The main thread begins something that takes at most `limit`, and after which it calls this again or `rest`.
    pub(super) fn begin(&self, limit: Duration) {
        let until = (self.start.elapsed() + limit).as_millis() as u64;
        set(until.clamp(RESTING + 1, FIRED - 1));
    }

    /// The main thread waits, or does what takes as long as it takes.
    pub(super) fn rest(&self) {
        set(RESTING);
    }
}

/// Written to the server's log by the thread itself, which must not call Postgres.
const STILL_HERE: &str =
    "pg_omen GPU service: the GPU's driver does not come back, not even by a signal\n";

fn set(until: u64) {
    let step = |old| (old != FIRED).then_some(until);
    while UNTIL
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, step)
        .is_err()
    {
        // Too late: the signal is on its way, and is to find nothing of Postgres under way.
        std::thread::sleep(LOOK);
    }
}

/// Returns once something has taken too long at two looks in a row. Looks that come late do not count: then the whole process was stopped.
fn wait_until_stuck(start: Instant) {
    let (mut looked_at, mut n_seen) = (Instant::now(), 0);
    loop {
        std::thread::sleep(LOOK);
        let is_late = looked_at.elapsed() > 2 * LOOK;
        looked_at = Instant::now();
        let until = UNTIL.load(Ordering::Acquire);
        let is_over = until != RESTING && start.elapsed() > Duration::from_millis(until);
        n_seen = if is_over && !is_late { n_seen + 1 } else { 0 };
        let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
        if n_seen >= 2 && UNTIL.compare_exchange(until, FIRED, order, failed).is_ok() {
            return;
        }
    }
}

/// On the main thread, in the middle of whatever it does not come back from.
extern "C" fn on_stuck(_signal: i32) {
    // SAFETY: numbers of this thread and process.
    let is_main = unsafe { libc::gettid() == libc::getpid() };
    // Anyone may send the signal, and any thread get it.
    if is_main && UNTIL.load(Ordering::Acquire) == FIRED {
        // SAFETY: ends the process; its callbacks give back what it holds.
        unsafe { pg_sys::proc_exit(1) };
    }
}
