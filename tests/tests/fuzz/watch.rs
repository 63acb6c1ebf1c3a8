//! Rounds for a bounded time, with an eye on how long each takes and how much memory it wants.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longest round: one that takes longer does not end.
const MOST_TIME: Duration = Duration::from_secs(30);
/// Most bytes that any round may ask for at once, the staging areas of a load included.
const MOST_BYTES: usize = 80 << 20;

/// Remembers the largest allocation.
struct Watch;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, n_bytes: usize) -> *mut u8 {
        LARGEST.fetch_max(n_bytes, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, n_bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static WATCH: Watch = Watch;

/// Rounds of one kind.
pub struct Rounds {
    what: &'static str,
    until: Instant,
    n: u64,
    n_counted: u64,
    slowest: Duration,
}

impl Rounds {
    /// For this share of the time that there is.
    pub fn new(what: &'static str, share: f64) -> Self {
        let seconds = std::env::var("OMEN_FUZZ_SECONDS").map_or(20.0, |text| {
            text.parse().expect("OMEN_FUZZ_SECONDS is a number")
        });
        Self {
            what,
            until: Instant::now() + Duration::from_secs_f64(share * seconds),
            n: 0,
            n_counted: 0,
            slowest: Duration::ZERO,
        }
    }

    /// Whether there is time for another, always for a hundred.
    pub fn goes_on(&mut self) -> bool {
        self.n += 1;
        self.n <= 100 || Instant::now() < self.until
    }

    /// Whether the input was what is counted.
    pub fn count(&mut self, yes: bool) {
        self.n_counted += u64::from(yes);
    }

    /// Runs `f` on `input`: ends the process if it does not end, and tells the input if it panics.
    pub fn watched<T>(&mut self, input: &[u8], f: impl FnOnce() -> T) -> T {
        /// Tells the input while a panic unwinds.
        struct Tell<'a>(&'a [u8]);
        impl Drop for Tell<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    println!("input: {:?}", self.0);
                }
            }
        }
        let tell = Tell(input);
        let (ends, ended) = channel::<()>();
        let began = Instant::now();
        let result = std::thread::scope(|scope| {
            scope.spawn(move || {
                if ended.recv_timeout(MOST_TIME) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("a round that does not end, with input {input:?}");
                    std::process::abort();
                }
            });
            let result = f();
            drop(ends);
            result
        });
        drop(tell);
        self.slowest = self.slowest.max(began.elapsed());
        result
    }

    /// Tells how many there were, of which this share at least and at most was counted.
    pub fn end(self, share: Range<f64>) {
        let n = self.n - 1;
        let largest = LARGEST.load(Ordering::Relaxed);
        let (what, counted) = (self.what, self.n_counted);
        println!("{what}: {counted} of {n} counted, largest allocation {largest} bytes");
        println!("figures: {n} bad inputs tried");
        if self.slowest > Duration::ZERO {
            println!("slowest: {:?}", self.slowest);
        }
        let found = counted as f64 / n as f64;
        assert!(share.contains(&found), "{found} of them");
        assert!(largest < MOST_BYTES, "an allocation of {largest} bytes");
    }
}
