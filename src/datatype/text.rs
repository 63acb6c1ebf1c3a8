//! Text output: a C string put together from bytes and numbers.
#![allow(unsafe_code)]

use core::ffi::{c_char, c_int};
use pgrx::pg_sys;

/// Most bytes of one number in text (Postgres' FLOAT_SHORTEST_DECIMAL_LEN has one more, for the terminator).
pub(super) const NUMBER_BYTES: usize = 15;

unsafe extern "C" {
    /// Of Postgres (common/shortest_dec.h): writes at most 15 bytes, no terminator, returns how many.
    fn float_to_shortest_decimal_bufn(f: f32, result: *mut c_char) -> c_int;
}

/// A text that grows within the room it was made with, in the current memory context.
pub(super) struct TextBuf {
    start: *mut c_char,
    n_bytes: usize,
    capacity: usize,
}

impl TextBuf {
    /// An empty text with room for `capacity` bytes, each number counted as [`NUMBER_BYTES`].
    pub(super) fn with_capacity(capacity: usize) -> Self {
        // SAFETY: palloc returns so many writable bytes or raises an error. One is for the terminator.
        let start = unsafe { pg_sys::palloc(capacity + 1) }.cast();
        Self {
            start,
            n_bytes: 0,
            capacity,
        }
    }

    /// Where the next `n_bytes` go.
    ///
    /// # Panics
    /// If there is no room for them.
    #[inline]
    fn room(&self, n_bytes: usize) -> *mut c_char {
        assert!(
            self.n_bytes + n_bytes <= self.capacity,
            "the text has no room"
        );
        // SAFETY: within the allocation, by the assertion.
        unsafe { self.start.add(self.n_bytes) }
    }

    /// Adds a byte.
    #[inline]
    pub(super) fn push(&mut self, byte: u8) {
        // SAFETY: `room` points to at least one byte of our own.
        unsafe { *self.room(1) = byte as c_char };
        self.n_bytes += 1;
    }

    /// Adds a number, with the fewest digits that read back the same.
    #[inline]
    pub(super) fn push_float(&mut self, x: f32) {
        // SAFETY: `room` points to at least as many bytes as the function writes.
        self.n_bytes +=
            unsafe { float_to_shortest_decimal_bufn(x, self.room(NUMBER_BYTES)) } as usize;
    }

    /// Adds a whole number that is not negative.
    pub(super) fn push_integer(&mut self, n: u32) {
        let mut digits = [0; 10];
        let mut rest = n;
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        for &digit in &digits[first..] {
            self.push(digit);
        }
    }

    /// The text as a C string.
    pub(super) fn into_cstring(self) -> *mut c_char {
        // SAFETY: one byte more than the capacity was allocated.
        unsafe { *self.start.add(self.n_bytes) = 0 };
        self.start
    }
}

/// `x` in the form of [`TextBuf::push_float`], for a message.
#[cold]
pub(super) fn shortest(x: f32) -> String {
    let mut bytes = [0_u8; NUMBER_BYTES];
    // SAFETY: the function writes no more than these bytes.
    let n = unsafe { float_to_shortest_decimal_bufn(x, bytes.as_mut_ptr().cast()) } as usize;
    String::from_utf8_lossy(&bytes[..n]).into_owned()
}
