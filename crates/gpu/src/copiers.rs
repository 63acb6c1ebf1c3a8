//! Threads that copy memory: pages of an index into staging areas. One core copies a fifth of what the bus takes.
//!
//! They only ever copy bytes, so they cannot fail, and never call the host. Whoever hands out jobs helps when it waits, so
//! none of this needs a thread to make progress.

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, yield_now};

/// Most threads that are of use: so many copy faster than any bus.
const MAX_THREADS: usize = 8;
/// A thread without work looks for some so often before it sleeps, about 20 us; waking one up costs the waker as much as
/// copying 10 kB.
const SPINS: usize = 1000;

/// Bytes to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) from: *const u8,
    pub(crate) to: *mut u8,
    pub(crate) bytes: usize,
}

/// Pieces that one thread copies, and who waits for them.
pub(crate) struct Job {
    pub(crate) pieces: Vec<Piece>,
    /// Set at the end.
    pub(crate) done: Arc<AtomicBool>,
    /// Counted down at the end.
    pub(crate) pending: Arc<AtomicUsize>,
}

// SAFETY: the pointers are used by `Job::run` alone, under the contract of `Copiers::push`.
#[allow(unsafe_code)]
unsafe impl Send for Job {}

impl Job {
    #[allow(unsafe_code)]
    fn run(self) {
        for piece in &self.pieces {
            // SAFETY: by the contract of `Copiers::push`. That others may change the source meanwhile is what `PinStore` says:
            // such bytes are thrown away.
            unsafe { std::ptr::copy_nonoverlapping(piece.from, piece.to, piece.bytes) };
        }
        self.done.store(true, Ordering::Release);
        self.pending.fetch_sub(1, Ordering::Release);
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    n_sleeping: usize,
    ends: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Jobs in the queue, to be looked at without its lock.
    n_queued: AtomicUsize,
    /// Jobs in the queue or running.
    n_open: AtomicUsize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one job, if one waits.
    fn run_one(&self) -> bool {
        if self.n_queued.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let job = self.lock().jobs.pop_front();
        let Some(job) = job else { return false };
        self.n_queued.fetch_sub(1, Ordering::Relaxed);
        job.run();
        self.n_open.fetch_sub(1, Ordering::Release);
        true
    }

    fn work(&self) {
        let mut idle = 0;
        loop {
            if self.run_one() {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle < SPINS {
                spin_loop();
                continue;
            }
            idle = 0;
            let mut queue = self.lock();
            while queue.jobs.is_empty() && !queue.ends {
                queue.n_sleeping += 1;
                queue = self
                    .wake
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                queue.n_sleeping -= 1;
            }
            if queue.ends {
                return;
            }
        }
    }
}

/// The threads. They end when this is dropped.
#[derive(Default)]
pub struct Copiers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Copiers {
    /// No threads: whoever waits copies.
    pub fn none() -> Self {
        Self::default()
    }

    /// One thread less than there are cores, at most eight; fewer if the system refuses some. Start them with signals blocked if
    /// signals are the main thread's business.
    pub fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self::with_threads((cores - 1).min(MAX_THREADS))
    }

    /// So many threads; fewer if the system refuses some.
    pub fn with_threads(n: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = |i| {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("omen copy {i}"))
                .spawn(move || shared.work())
        };
        let threads = (0..n).map_while(|i| thread(i).ok()).collect();
        Self { shared, threads }
    }

    /// Hands out a job.
    ///
    /// # Safety
    /// Until the job is done, the source of each piece can be read and its target belongs to the job alone; they do not
    /// overlap. [`Copiers::finish`] waits for that.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn push(&self, job: Job) {
        self.shared.n_open.fetch_add(1, Ordering::Relaxed);
        let mut queue = self.shared.lock();
        queue.jobs.push_back(job);
        self.shared.n_queued.fetch_add(1, Ordering::Relaxed);
        let wakes = queue.n_sleeping > 0;
        drop(queue);
        if wakes {
            self.shared.wake.notify_one();
        }
    }

    /// Copies along until `is_over`.
    pub(crate) fn help_until(&self, is_over: impl Fn() -> bool) {
        let mut turns = 0;
        while !is_over() {
            if self.shared.run_one() {
                turns = 0;
            } else if turns < SPINS {
                turns += 1;
                spin_loop();
            } else {
                // A thread is in the middle of a copy, and perhaps wants this core.
                yield_now();
            }
        }
    }

    /// Waits until all jobs are done: for as long as it takes to copy them.
    pub(crate) fn finish(&self) {
        self.help_until(|| self.shared.n_open.load(Ordering::Acquire) == 0);
    }
}

impl Drop for Copiers {
    fn drop(&mut self) {
        self.finish();
        self.shared.lock().ends = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that only copies bytes does not panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn everything_is_copied_with_any_number_of_threads() {
        for n_threads in [0, 1, 3] {
            let from: Vec<u8> = (0..1_000_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
            let mut to = vec![0u8; from.len()];
            let copiers = Copiers::with_threads(n_threads);
            let pending = Arc::new(AtomicUsize::new(0));
            let mut flags = Vec::new();
            let start = to.as_mut_ptr();
            for (i, parts) in from.chunks(10_007).enumerate() {
                let at = i * 10_007;
                let pieces = parts.chunks(977).enumerate().map(|(j, part)| Piece {
                    from: part.as_ptr(),
                    // SAFETY: within `to`, which is as long as `from`.
                    to: unsafe { start.add(at + j * 977) },
                    bytes: part.len(),
                });
                let done = Arc::new(AtomicBool::new(false));
                flags.push(done.clone());
                pending.fetch_add(1, Ordering::Relaxed);
                let job = Job {
                    pieces: pieces.collect(),
                    done,
                    pending: pending.clone(),
                };
                // SAFETY: both buffers outlive `finish`, and the pieces lie apart.
                unsafe { copiers.push(job) };
            }
            copiers.finish();
            assert!(flags.iter().all(|done| done.load(Ordering::Acquire)));
            assert_eq!(pending.load(Ordering::Acquire), 0);
            assert!(to == from, "{n_threads} threads");
        }
    }
}
