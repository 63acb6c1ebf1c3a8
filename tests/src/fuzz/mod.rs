//! Bad input of every kind: what a fuzzer runs (`fuzz/`), as plain functions that the tests of this crate run too.
//!
//! Each takes any bytes, panics if the code under test does what it must never do, and tells what became of the input, so that a test can
//! see that not all of it was refused at the door.

pub mod messages;
pub mod pages;
pub mod sparse;
pub mod vectors;

/// Takes numbers from bytes; zeroes once these are used up.
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether there are any left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `N`.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let n = N.min(self.0.len());
        let (now, later) = self.0.split_at(n);
        array[..n].copy_from_slice(now);
        self.0 = later;
        array
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(u16::from_le_bytes(self.array())) % n
    }
}
