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
        let failures = self.failures.load(Ordering::Relaxed).clamp(1, 16);
        FIRST_PAUSE
            .saturating_mul(1 << (failures - 1))
            .min(LAST_PAUSE)
    }

    fn note_failure(&self, now: i64) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let next = now + micros(self.pause());
        self.closed_again.store(next, Ordering::Relaxed);
    }

    fn note_success(&self) {
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
            State::Up if self.control.breaker.lets_through(now()) => None,
            State::Up => Some(GpuError::TimedOut),
            State::NoGpu => Some(GpuError::NoDevice),
            State::Opening | State::Down => {
                Some(GpuError::Lost("no GPU service is running".into()))
            }
        }
    }

    /// A search was answered.
    pub(crate) fn note_success(&self) {
        self.control.breaker.note_success();
    }

    /// A search was not answered because of `error`.
    pub(crate) fn note_failure(&self, error: &GpuError) {
        // A worker that ended is known by its state; the other errors concern one search, or one index.
        if matches!(error, GpuError::TimedOut) {
            add(&self.control.timeouts, 1);
            self.control.breaker.note_failure(now());
        }
    }
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2)
}

/// The time, microseconds as Postgres counts them.
pub(super) fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
