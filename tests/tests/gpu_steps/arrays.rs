//! Arrays that kernels write. Natively a guard lies behind each; small ones end with their buffer, so that memcheck sees every step beyond.

use crate::device::Device;
use crate::real_gpu::small;
use bytemuck::Pod;
use omen_gpu::buffers::{DeviceBuffer, PinnedBuffer};
use std::marker::PhantomData;

/// What lies behind an array; no kernel may touch it.
const GUARD: [u8; 4096] = [0xA5; 4096];

/// `before`, and behind it the guard unless sizes are small.
fn guarded<T: Pod>(before: &[T]) -> Vec<u8> {
    let mut bytes = bytemuck::cast_slice(before).to_vec();
    if !small() {
        bytes.extend_from_slice(&GUARD);
    }
    bytes
}

/// The array in front of the guard, which must be intact.
fn checked<T: Pod>(bytes: &[u8], len: usize, what: &str) -> Vec<T> {
    let (array, guard) = bytes.split_at(len * size_of::<T>());
    if let Some(at) = guard.iter().zip(&GUARD).position(|(a, b)| a != b) {
        panic!("{what}: byte {at} behind the array was written");
    }
    array
        .chunks_exact(size_of::<T>())
        .map(bytemuck::pod_read_unaligned)
        .collect()
}

/// An array on the device.
pub struct OnDevice<T> {
    buffer: DeviceBuffer,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> OnDevice<T> {
    pub fn new(device: &Device, before: &[T]) -> Self {
        Self {
            buffer: device.put(&guarded(before)),
            len: before.len(),
            of: PhantomData,
        }
    }

    pub fn address(&self) -> u64 {
        self.buffer.address()
    }

    /// Waits for what was launched, and copies the array back.
    pub fn get(&self, device: &Device, what: &str) -> Vec<T> {
        let bytes: Vec<u8> = device.get(&self.buffer);
        checked(&bytes[..self.buffer.len()], self.len, what)
    }
}

/// An array in the host's page-locked memory, which kernels read and write in place.
pub struct OnHost<T> {
    buffer: PinnedBuffer,
    bytes: usize,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> OnHost<T> {
    pub fn new(device: &Device, before: &[T]) -> Self {
        let bytes = guarded(before);
        let mut buffer = PinnedBuffer::new(&device.ctx, bytes.len()).unwrap();
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
        Self {
            buffer,
            bytes: bytes.len(),
            len: before.len(),
            of: PhantomData,
        }
    }

    pub fn address(&self) -> u64 {
        self.buffer.address()
    }

    /// Waits for what was launched, and copies the array.
    pub fn get(&self, device: &Device, what: &str) -> Vec<T> {
        crate::tier_arrays::finish(&device.stream);
        checked(&self.buffer.bytes()[..self.bytes], self.len, what)
    }
}
