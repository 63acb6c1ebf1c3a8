//! What the machine allows: the bus, page-locking, and threads that do nothing but copy.

use omen_gpu::buffers::{DeviceBuffer, PinnedBuffer};
use omen_gpu::context::{Stream, Wait};
use omen_gpu::{Gpu, GpuError};
use std::time::{Duration, Instant};

/// Bytes a second of one copy of page-locked memory to the device, the best of five. NaN without a device.
pub fn plain_copy(gpu: &Gpu) -> Result<f64, GpuError> {
    let Some(ctx) = gpu.context() else {
        return Ok(f64::NAN);
    };
    let bytes = 256 << 20;
    let (stream, to) = (Stream::new(ctx)?, DeviceBuffer::new(ctx, bytes)?);
    let from = PinnedBuffer::new(ctx, bytes)?;
    let mut best = 0f64;
    for _ in 0..5 {
        let start = Instant::now();
        stream.upload(&to, 0, &from, 0..bytes)?;
        stream.wait(&mut Wait {
            until: Instant::now() + Duration::from_secs(10),
            poll: &mut || Ok(()),
        })?;
        best = best.max(bytes as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Milliseconds to page-lock 16 MB. NaN without a device.
pub fn page_lock(gpu: &Gpu) -> Result<f64, GpuError> {
    let Some(ctx) = gpu.context() else {
        return Ok(f64::NAN);
    };
    let start = Instant::now();
    let buffer = PinnedBuffer::new(ctx, 16 << 20)?;
    let took = start.elapsed();
    drop(buffer);
    Ok(took.as_secs_f64() * 1e3)
}

/// Bytes a second that `n` threads copy from all over `from` to 16 MB together, the best of three.
pub fn copies_alone(from: &[u8], n: usize) -> f64 {
    const JOB: usize = 128 << 10;
    let (share, room) = (from.len() / n, ((16 << 20) / n / JOB).max(1) * JOB);
    // Not zero: every page of it is there before the clock runs.
    let mut to = vec![1u8; n * room];
    let mut best = 0f64;
    for _ in 0..3 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (from, to) in from.chunks_exact(share).zip(to.chunks_exact_mut(room)) {
                scope.spawn(move || {
                    for (i, job) in from.chunks_exact(JOB).enumerate() {
                        let at = i * JOB % room;
                        to[at..at + JOB].copy_from_slice(job);
                    }
                });
            }
        });
        best = best.max((share * n) as f64 / start.elapsed().as_secs_f64());
    }
    std::hint::black_box(&to);
    best
}
