//! Memory that is mapped twice, as two processes see it, between canaries; and a latch with a time limit.

#![allow(dead_code, unsafe_code)]

use omen_service::queue::{Queue, QueueError};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// A generator with a fresh seed, printed; `OMEN_TEST_SEED` repeats a run.
pub fn rng(test: &str) -> ChaCha8Rng {
    let seed = std::env::var("OMEN_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random);
    println!("{test}: OMEN_TEST_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

const PAGE: usize = 4096;
const CANARY: u8 = 0xA7;

/// Shared memory at two addresses.
pub struct Region {
    maps: [*mut u8; 2],
    /// Of the queue; a page of canaries lies before it, one and a bit after.
    bytes: usize,
}

// SAFETY: plain memory; who writes it is the tests' business.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub fn new(bytes: usize) -> Self {
        let all = Self::all(bytes);
        // SAFETY: a new file, mapped twice as long as it is.
        let maps = unsafe {
            let file = libc::memfd_create(c"queue".as_ptr(), 0);
            assert!(file >= 0 && libc::ftruncate(file, all as libc::off_t) == 0);
            let map = || {
                let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
                let map = libc::mmap(std::ptr::null_mut(), all, rights, kind, file, 0);
                assert!(map != libc::MAP_FAILED);
                map.cast::<u8>()
            };
            let maps = [map(), map()];
            libc::close(file);
            maps[0].write_bytes(CANARY, all);
            maps
        };
        Self { maps, bytes }
    }

    fn all(bytes: usize) -> usize {
        2 * PAGE + bytes.next_multiple_of(PAGE)
    }

    /// A region with a queue in it.
    pub fn with_queue(n_slots: usize, slot_bytes: usize) -> Self {
        let region = Self::new(Queue::bytes(n_slots, slot_bytes));
        // SAFETY: as many bytes, used by nobody yet.
        unsafe { Queue::create(region.start(0), n_slots, slot_bytes) }.unwrap();
        region
    }

    /// Start of the queue in one of the two maps.
    pub fn start(&self, map: usize) -> *mut u8 {
        self.maps[map].wrapping_add(PAGE)
    }

    /// As the server (0) or the clients (1) see the queue.
    pub fn attach(&self, map: usize) -> Result<Queue, QueueError> {
        // SAFETY: mapped until the region is dropped, which the tests do last.
        unsafe { Queue::attach(self.start(map), self.bytes) }
    }

    pub fn queue(&self, map: usize) -> Queue {
        self.attach(map).unwrap()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing was written outside the queue.
    pub fn canaries_live(&self) -> bool {
        // SAFETY: inside the map; nobody else writes now.
        let all = unsafe { std::slice::from_raw_parts(self.maps[0], Self::all(self.bytes)) };
        let (before, rest) = all.split_at(PAGE);
        before
            .iter()
            .chain(&rest[self.bytes..])
            .all(|b| *b == CANARY)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        for map in self.maps {
            // SAFETY: mapped with this length by `new`.
            unsafe { libc::munmap(map.cast(), Self::all(self.bytes)) };
        }
    }
}

/// What a process sleeps on.
#[derive(Default)]
pub struct Latch {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Latch {
    pub fn set(&self) {
        *self.is_set.lock().unwrap() = true;
        self.changed.notify_all();
    }

    /// Waits until the latch is set, and resets it; false if the time is over.
    pub fn wait(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut is_set = self.is_set.lock().unwrap();
        while !*is_set {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            is_set = self.changed.wait_timeout(is_set, left).unwrap().0;
        }
        *is_set = false;
        true
    }
}

/// Claims all slots there are and gives them back: fails if one is lost.
pub fn assert_all_free(queue: &Queue) {
    let owner = 0xFFFF_0000;
    let mut n = 0;
    // Each by a role of its own: of one slot none is kept, whoever was refused before.
    while let Some(claim) = omen_service::client::claim(queue, owner, owner + n as u32) {
        n += 1;
        assert_eq!(queue.n_used(), n);
        drop(claim);
    }
    queue.release_all_of(owner);
    assert_eq!(n, queue.n_slots(), "slots were lost");
    assert_eq!(queue.n_used(), 0);
}
