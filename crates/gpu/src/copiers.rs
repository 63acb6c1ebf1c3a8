//! Threads that copy memory: pages of an index into staging areas. One core copies a fifth of what the bus takes.
//!
//! They only ever copy bytes, so they cannot fail, and never call the host. Whoever hands out jobs helps when it waits for long,
//! so none of this needs a thread to make progress.
//!
//! Jobs pass through a ring with one writer, so that no lock is shared: where many threads wait for one, each of them, the one
//! that hands out jobs too, may end up in calls of the system.

mod job;

pub(crate) use job::{Job, Piece};

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, yield_now};
use std::time::{Duration, Instant};

/// Most threads that are of use: so many copy faster than any bus.
const MAX_THREADS: usize = 6;
/// Most jobs that wait.
const RING: usize = 128;
/// A thread without work looks for some so long before it sleeps: waking it up costs the waker as much as copying 10 kB to
/// 100 kB, or its core, and while an index is loaded the next job is never far.
const SPIN_TIME: Duration = Duration::from_micros(500);
/// Whoever waits for copies copies along at once if more jobs wait than there are threads, else after so long.
const PATIENCE: Duration = Duration::from_micros(50);
/// Turns between two looks at the clock.
const TURNS: usize = 32;

/// A value with cache lines to itself.
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

struct Shared {
    /// Jobs `taken..given` are here, each at its number modulo `RING`. A lock is taken by the one that owns the number, so there
    /// is no wait but for a job that was claimed and not yet fetched a whole ring ago.
    ring: [Apart<Mutex<Option<Arc<Job>>>>; RING],
    taken: Apart<AtomicUsize>,
    given: Apart<AtomicUsize>,
    /// Jobs given and not done.
    n_open: Apart<AtomicUsize>,
    /// Threads that look for a job.
    n_looking: Apart<AtomicUsize>,
    n_sleeping: AtomicUsize,
    /// Whether threads shall end.
    ends: Mutex<bool>,
    wake: Condvar,
    copy_ns: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            ring: std::array::from_fn(|_| Apart::default()),
            taken: Apart::default(),
            given: Apart::default(),
            n_open: Apart::default(),
            n_looking: Apart::default(),
            n_sleeping: AtomicUsize::new(0),
            ends: Mutex::new(false),
            wake: Condvar::new(),
            copy_ns: AtomicU64::new(0),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn n_waiting(&self) -> usize {
        // In this order: `taken` never passes `given`.
        let taken = self.taken.0.load(Ordering::SeqCst);
        self.given.0.load(Ordering::SeqCst) - taken
    }

    /// The job that has waited longest.
    fn take(&self) -> Option<Arc<Job>> {
        // Acquire: then `given`, read after it, is not less.
        let mut taken = self.taken.0.load(Ordering::Acquire);
        while taken != self.given.0.load(Ordering::Acquire) {
            match self.taken.0.compare_exchange_weak(
                taken,
                taken + 1,
                Ordering::SeqCst,
                Ordering::Acquire,
            ) {
                Ok(_) => return lock(&self.ring[taken % RING].0).take(),
                Err(now) => taken = now,
            }
        }
        None
    }

    fn run(&self, job: &Job) {
        let start = Instant::now();
        job.run();
        let ns = start.elapsed().as_nanos() as u64;
        self.copy_ns.fetch_add(ns, Ordering::Relaxed);
        self.n_open.0.fetch_sub(1, Ordering::Release);
    }

    /// Looks for a job for a while.
    fn look(&self) -> Option<Arc<Job>> {
        let mut start = None;
        loop {
            for _ in 0..TURNS {
                if let Some(job) = self.take() {
                    return Some(job);
                }
                spin_loop();
            }
            if start.get_or_insert_with(Instant::now).elapsed() > SPIN_TIME {
                return None;
            }
        }
    }

    /// Sleeps until there is a job; false: the thread shall end.
    fn sleep(&self) -> bool {
        let mut ends = lock(&self.ends);
        // Before the look at the ring: `push` looks at these after it has given its job, so one of both sees the other.
        self.n_sleeping.fetch_add(1, Ordering::SeqCst);
        while self.n_waiting() == 0 && !*ends {
            ends = self.wake.wait(ends).unwrap_or_else(PoisonError::into_inner);
        }
        self.n_sleeping.fetch_sub(1, Ordering::SeqCst);
        !*ends
    }

    fn wake_one(&self) {
        // Whoever is about to sleep holds this until it does.
        drop(lock(&self.ends));
        self.wake.notify_one();
    }

    fn work(&self) {
        loop {
            self.n_looking.0.fetch_add(1, Ordering::SeqCst);
            let job = self.look();
            self.n_looking.0.fetch_sub(1, Ordering::SeqCst);
            match job {
                Some(job) => {
                    let looking = self.n_looking.0.load(Ordering::Relaxed);
                    if self.n_waiting() > looking && self.n_sleeping.load(Ordering::Relaxed) > 0 {
                        self.wake_one();
                    }
                    self.run(&job);
                }
                None if self.sleep() => (),
                None => return,
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

    /// One thread less than there are cores, at most fourteen.
    pub fn usual_threads() -> usize {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        (cores - 1).min(MAX_THREADS)
    }

    /// The usual number of threads; fewer if the system refuses some. Start them with signals blocked if signals are the main
    /// thread's business.
    pub fn start() -> Self {
        Self::with_threads(Self::usual_threads())
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

    /// Number of threads.
    pub(crate) fn n_threads(&self) -> usize {
        self.threads.len()
    }

    /// Time spent copying until now, of all threads and of those that helped together.
    pub(crate) fn copy_time(&self) -> Duration {
        Duration::from_nanos(self.shared.copy_ns.load(Ordering::Relaxed))
    }

    /// Hands out a job.
    ///
    /// # Safety
    /// It was not handed out before. Until it is done, the source of each piece can be read and its target belongs to the job
    /// alone; they do not overlap. [`Copiers::finish`] waits for that.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn push(&mut self, job: Arc<Job>) {
        let shared = &*self.shared;
        shared.n_open.0.fetch_add(1, Ordering::Relaxed);
        while shared.n_waiting() >= RING {
            self.run_one();
        }
        // `&mut self`: there is no other writer.
        let given = shared.given.0.load(Ordering::Relaxed);
        loop {
            let mut place = lock(&shared.ring[given % RING].0);
            if place.is_none() {
                *place = Some(job);
                break;
            }
            drop(place);
            yield_now();
        }
        shared.given.0.store(given + 1, Ordering::SeqCst);
        // Where a thread is awake it wakes the others, in `work`.
        let sleeping = shared.n_sleeping.load(Ordering::SeqCst);
        if sleeping > 0 && sleeping == self.n_threads() {
            shared.wake_one();
        }
    }

    /// Runs one job, if one waits.
    fn run_one(&self) -> bool {
        let job = self.shared.take();
        if let Some(job) = &job {
            self.shared.run(job);
        }
        job.is_some()
    }

    /// Waits until `is_over`, which the end of jobs brings about. Copies along where that does not keep threads waiting for more
    /// jobs, or where they do not get on.
    pub(crate) fn help_until(&self, is_over: impl Fn() -> bool) {
        let mut start = None;
        let mut turns = 0;
        while !is_over() {
            let waits_long =
                turns >= TURNS && start.get_or_insert_with(Instant::now).elapsed() > PATIENCE;
            if self.shared.n_waiting() > self.n_threads() || waits_long {
                if self.run_one() {
                    (start, turns) = (None, 0);
                } else {
                    // A thread is in the middle of a copy, and perhaps wants this core.
                    yield_now();
                }
                continue;
            }
            turns += 1;
            spin_loop();
        }
    }

    /// Waits until all jobs are done: for as long as it takes to copy them.
    pub(crate) fn finish(&self) {
        self.help_until(|| self.shared.n_open.0.load(Ordering::Acquire) == 0);
    }
}

impl Drop for Copiers {
    fn drop(&mut self) {
        self.finish();
        *lock(&self.shared.ends) = true;
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
            let mut copiers = Copiers::with_threads(n_threads);
            let pending = Arc::new(AtomicUsize::new(0));
            let mut jobs = Vec::new();
            let start = to.as_mut_ptr();
            // More jobs than the ring holds, with a pause in which the threads fall asleep.
            for (i, parts) in from.chunks(3001).enumerate() {
                let at = i * 3001;
                let pieces = parts.chunks(977).enumerate().map(|(j, part)| Piece {
                    from: part.as_ptr(),
                    // SAFETY: within `to`, which is as long as `from`.
                    to: unsafe { start.add(at + j * 977) },
                    bytes: part.len(),
                });
                let job = Job::new(pieces.collect(), &pending);
                jobs.push(job.clone());
                // SAFETY: both buffers outlive `finish`, and the pieces lie apart.
                unsafe { copiers.push(job) };
                if i == 200 {
                    std::thread::sleep(3 * SPIN_TIME);
                }
            }
            assert!(jobs.len() > 2 * RING);
            copiers.finish();
            assert!(jobs.iter().all(|job| job.is_done()));
            assert_eq!(pending.load(Ordering::Acquire), 0);
            assert!(to == from, "{n_threads} threads");
        }
    }
}
