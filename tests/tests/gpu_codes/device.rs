//! Arrays on the device: each in a buffer of its exact size, so that memcheck sees every step beyond.

use crate::tier_arrays::{finish, to_device};
use omen_gpu::Gpu;
use omen_gpu::buffers::{DeviceBuffer, PinnedBuffer};
use omen_gpu::context::{Context, Stream};
use std::sync::Arc;

/// A device with a stream.
pub struct Device {
    pub ctx: Arc<Context>,
    pub stream: Stream,
}

impl Device {
    pub fn new(gpu: &Gpu) -> Self {
        let ctx = gpu.context().expect("a real device").clone();
        let stream = Stream::new(&ctx).unwrap();
        Self { ctx, stream }
    }

    pub fn put<T: bytemuck::Pod>(&self, items: &[T]) -> DeviceBuffer {
        to_device(&self.ctx, &self.stream, bytemuck::cast_slice(items))
    }

    /// Waits, and copies a whole buffer back.
    pub fn get<T: bytemuck::Pod>(&self, buffer: &DeviceBuffer) -> Vec<T> {
        let mut pinned = PinnedBuffer::new(&self.ctx, buffer.len()).unwrap();
        self.stream
            .download(&mut pinned, buffer, 0..buffer.len())
            .unwrap();
        finish(&self.stream);
        bytemuck::cast_slice(&pinned.bytes()[..buffer.len()]).to_vec()
    }
}
