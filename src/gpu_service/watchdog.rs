//! Ends the worker when a call of the driver does not return: a thread beside the main one looks whether that gets on.
//!
//! The main thread may be anywhere in the driver then. A signal brings it back, whose handler ends the process as any other end does, so that
//! Postgres starts it again and no other process is touched. A call that no signal interrupts cannot be helped: sessions search on the CPU,
//! as the breaker is open (`breaker.rs`), until the driver lets go.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::memory::Service;
use crate::threads::with_signals_blocked;

/// So often the thread looks.
const LOOK: Duration = Duration::from_millis(500);
/// What brings the main thread back; Postgres has no use for it in such a worker.
const SIGNAL: i32 = libc::SIGUSR2;

/// Tells the thread what the main thread is at.
pub(super) struct Watchdog {
    start: Instant,
}

/// Milliseconds from `start` at which what is under way should be done; 0: nothing is.
static UNTIL: AtomicU64 = AtomicU64::new(0);

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
            loop {
                std::thread::sleep(LOOK);
                let until = UNTIL.load(Ordering::Acquire);
                if until != 0 && start.elapsed() > Duration::from_millis(until) {
                    break;
                }
            }
            service.control.note_stuck();
            service.queue.set_server_up(false);
            // SAFETY: the main thread exists, see above.
            unsafe { libc::pthread_kill(main, SIGNAL) };
        };
        let thread = std::thread::Builder::new().name("omen watchdog".into());
        with_signals_blocked(|| thread.spawn(watch))?;
        Ok(Self { start })
    }

    /// The main thread begins something that takes at most `limit`, and after which it calls this again or `rest`.
    pub(super) fn begin(&self, limit: Duration) {
        let until = (self.start.elapsed() + limit).as_millis() as u64;
        UNTIL.store(until.max(1), Ordering::Release);
    }

    /// The main thread waits, or does what takes as long as it takes.
    pub(super) fn rest(&self) {
        UNTIL.store(0, Ordering::Release);
    }
}

/// On the main thread, in the middle of whatever it does not come back from: nothing of Postgres, which `begin` and `rest` keep apart.
extern "C" fn on_stuck(_signal: i32) {
    // SAFETY: ends the process; its callbacks give back what it holds.
    unsafe { pg_sys::proc_exit(1) };
}
