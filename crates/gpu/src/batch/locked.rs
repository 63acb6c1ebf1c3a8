//! Where a batch's queries come from.

use super::Fill;
use crate::buffers::PinnedBuffer;
use crate::device::Gpu;
use crate::error::GpuError;
use crate::params::QueryBound;

/// Queries and their bounds in memory that the device reads: nothing is copied before a search.
pub struct LockedQueries {
    memory: LockedMemory,
    n: usize,
    dim: usize,
}

enum LockedMemory {
    Cuda(PinnedBuffer),
    #[cfg(feature = "simulated")]
    Simulated(Vec<u64>),
}

impl LockedQueries {
    /// Room for `n` queries of `dim` words of 32 bits, all zero. Errors: those of the device.
    pub fn new(gpu: &Gpu, n: usize, dim: usize) -> Result<Self, GpuError> {
        let bytes = n * dim * 4 + n * size_of::<QueryBound>();
        let memory = match gpu.context() {
            Some(ctx) => LockedMemory::Cuda(PinnedBuffer::new(ctx, bytes)?),
            #[cfg(feature = "simulated")]
            None => LockedMemory::Simulated(vec![0; bytes.div_ceil(8)]),
            #[cfg(not(feature = "simulated"))]
            None => return Err(GpuError::NoDevice),
        };
        Ok(Self { memory, n, dim })
    }

    fn bytes(&self) -> &[u8] {
        match &self.memory {
            LockedMemory::Cuda(buffer) => buffer.bytes(),
            #[cfg(feature = "simulated")]
            LockedMemory::Simulated(words) => bytemuck::cast_slice(words),
        }
    }

    /// The queries, `[n, dim]`, and their bounds, `[n]`, to write.
    pub fn parts_mut(&mut self) -> (&mut [f32], &mut [QueryBound]) {
        let (n, dim) = (self.n, self.dim);
        let bytes = match &mut self.memory {
            LockedMemory::Cuda(buffer) => buffer.bytes_mut(),
            #[cfg(feature = "simulated")]
            LockedMemory::Simulated(words) => bytemuck::cast_slice_mut(words),
        };
        let (raw, bounds) = bytes.split_at_mut(n * dim * 4);
        let bounds = &mut bounds[..n * size_of::<QueryBound>()];
        (
            bytemuck::cast_slice_mut(raw),
            bytemuck::cast_slice_mut(bounds),
        )
    }

    /// `n` queries from `first` on, and their bounds.
    pub(super) fn part(&self, first: usize, n: usize) -> Input<'_> {
        let (raw, bounds) = self.bytes().split_at(self.n * self.dim * 4);
        let raw: &[f32] = bytemuck::cast_slice(raw);
        let bounds: &[QueryBound] =
            bytemuck::cast_slice(&bounds[..self.n * size_of::<QueryBound>()]);
        Input {
            raw: &raw[first * self.dim..(first + n) * self.dim],
            bounds: &bounds[first..first + n],
        }
    }
}

/// A batch's queries where the device reads them.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// `[n, dim]`
    pub raw: &'a [f32],
    /// `[n]`
    pub bounds: &'a [QueryBound],
}

/// Where a batch's queries come from.
pub enum Source<'a> {
    /// They are written when they are wanted.
    Fill(&'a mut Fill<'a>),
    /// They are where the device reads them, from this one on.
    Locked(&'a LockedQueries, usize),
}

impl Source<'_> {
    /// Copies queries `first..` and their bounds.
    pub(super) fn copy(&mut self, first: usize, raw: &mut [f32], bounds: &mut [QueryBound]) {
        match self {
            Self::Fill(fill) => fill(first, raw, bounds),
            Self::Locked(locked, from) => {
                let part = locked.part(*from + first, bounds.len());
                raw.copy_from_slice(part.raw);
                bounds.copy_from_slice(part.bounds);
            }
        }
    }
}
