//! What is copied together, and who hears of its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) from: *const u8,
    pub(crate) to: *mut u8,
    pub(crate) bytes: usize,
}

/// Pieces that one thread copies.
pub(crate) struct Job {
    pieces: Vec<Piece>,
    done: AtomicBool,
    /// Counted down at the end.
    pending: Arc<AtomicUsize>,
}

// SAFETY: the pointers are used by `Job::run` alone, once, under the contract of `Copiers::push`.
#[allow(unsafe_code)]
unsafe impl Send for Job {}
// SAFETY: as above; the rest are atomics.
#[allow(unsafe_code)]
unsafe impl Sync for Job {}

impl Job {
    /// A job that counts `pending` up now and down at its end.
    pub(crate) fn new(pieces: Vec<Piece>, pending: &Arc<AtomicUsize>) -> Arc<Self> {
        pending.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            pieces,
            done: AtomicBool::new(false),
            pending: pending.clone(),
        })
    }

    /// Whether everything is copied.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    #[allow(unsafe_code)]
    pub(super) fn run(&self) {
        for piece in &self.pieces {
            // SAFETY: by the contract of `Copiers::push`. That others may change the source meanwhile is what `PinStore` says:
            // such bytes are thrown away.
            unsafe { std::ptr::copy_nonoverlapping(piece.from, piece.to, piece.bytes) };
        }
        self.done.store(true, Ordering::Release);
        self.pending.fetch_sub(1, Ordering::Release);
    }
}
