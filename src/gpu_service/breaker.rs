//! The circuit breaker: a service that does not answer is left alone by all sessions for a while, longer each time, and then tried by one.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use omen_gpu::GpuError;
use pgrx::pg_sys;

use super::control::{State, add};
use super::memory::Service;

/// The service is left alone so long after a failure; twice as long after each further one, up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LAST_PAUSE: Duration = Duration::from_secs(3600);

/// In shared memory. All zero: closed.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Breaker {
    /// Nobody asks before this time, microseconds as Postgres counts them; 0: everybody may.
    closed_again: AtomicI64,
    /// Failures since the last answer.
    failures: AtomicU32,
}

impl Breaker {
    /// Whether asking is in vain until later.
    fn is_open(&self, now: i64) -> bool {
        let closed_again = self.closed_again.load(Ordering::Relaxed);
        closed_again != 0 && now < closed_again
    }

    /// Whether this session may ask at time `now`. When a pause is over, the first to come is let through and the others wait on.
    fn lets_through(&self, now: i64) -> bool {
        let closed_again = self.closed_again.load(Ordering::Relaxed);
        if closed_again == 0 {
            return true;
        }
        let next = now + micros(self.pause());
        let order = Ordering::Relaxed;
        now >= closed_again
            && self
                .closed_again
                .compare_exchange(closed_again, next, order, order)
                .is_ok()
    }

    fn pause(&self) -> Duration {
        pause_after(self.failures.load(Ordering::Relaxed))
    }

    /// A search that was sent at time `sent` was not answered.
    fn note_failure(&self, sent: i64, now: i64) {
        // Many fail at once when the worker hangs: that is one failure. Those sent before the pause began know nothing new.
        let (closed_again, order) = (self.closed_again.load(Ordering::Relaxed), Ordering::Relaxed);
        let is_probe = closed_again != 0 && sent + micros(self.pause()) >= closed_again;
        if closed_again != 0 && !is_probe {
            return;
        }
        let failures = self.failures.fetch_add(1, order) + 1;
        let next = now + micros(pause_after(failures));
        let _ = self
            .closed_again
            .compare_exchange(closed_again, next, order, order);
    }

    /// Everybody may ask: a search was answered, or there is a new worker.
    pub(super) fn close(&self) {
        // Usually nothing is to be written to a line that all sessions read.
        if self.closed_again.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.closed_again.store(0, Ordering::Relaxed);
        }
    }

    /// Word shown to users.
    pub(crate) fn state(&self) -> &'static str {
        match self.closed_again.load(Ordering::Relaxed) {
            0 => "closed",
            time if time <= now() => "half-open",
            _ => "open",
        }
    }
}

impl Service {
    /// Why searches are not sent now; `None` if they may be.
    pub(crate) fn pause(&self) -> Option<GpuError> {
        match self.control.state() {
            State::Up if self.control.breaker.is_open(now()) => Some(GpuError::TimedOut),
            State::Up => None,
            State::NoGpu => Some(GpuError::NoDevice),
            State::Opening | State::Down => {
                Some(GpuError::Lost("no GPU service is running".into()))
            }
        }
    }

    /// Whether a search may be sent now.
    pub(super) fn lets_through(&self) -> bool {
        self.control.breaker.lets_through(now())
    }

    /// A search that was sent at time `sent` was not answered in time. A worker that ended is known by its state; other errors concern one
    /// search, or one index.
    pub(super) fn note_timeout(&self, sent: i64) {
        add(&self.control.timeouts, 1);
        self.control.breaker.note_failure(sent, now());
    }
}

fn pause_after(failures: u32) -> Duration {
    let doubled = failures.clamp(1, 16) - 1;
    FIRST_PAUSE.saturating_mul(1 << doubled).min(LAST_PAUSE)
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2)
}

/// The time, microseconds as Postgres counts them.
pub(super) fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
