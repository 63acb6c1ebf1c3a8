//! A random tier's arrays, in host memory and, copied, on the device.

use crate::common::normal;
use half::f16;
use omen_gpu::Gpu;
use omen_gpu::buffers::{DeviceBuffer, PinnedBuffer};
use omen_gpu::context::{Context, Stream, Wait};
use omen_gpu::memory::pitch_of;
use omen_gpu::params::TierView;
use omen_gpu::twin::TierArrays;
use omen_ivf::Metric;
use rand::Rng;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A tier's arrays.
pub struct HostTier {
    pub metric: Metric,
    pub pitch: usize,
    pub dim: usize,
    pub rows: Vec<f16>,
    pub norm_sq: Vec<f32>,
    pub err: Vec<f32>,
    pub live: Vec<u32>,
    pub tids: Vec<u64>,
}

impl HostTier {
    pub fn random(rng: &mut impl Rng, metric: Metric, dim: usize, n_slots: usize) -> Self {
        let pitch = pitch_of(dim);
        let mut rows = vec![f16::ZERO; n_slots * pitch];
        for row in rows.chunks_mut(pitch) {
            row[..dim]
                .iter_mut()
                .for_each(|x| *x = f16::from_f32(10.0 * normal(rng)));
        }
        let norm_sq = rows
            .chunks(pitch)
            .map(|row| row.iter().map(|x| x.to_f64().powi(2)).sum::<f64>() as f32)
            .collect();
        let err = (0..n_slots)
            .map(|_| {
                if rng.random_range(0..50) == 0 {
                    f32::INFINITY
                } else {
                    rng.random_range(0.0..0.01)
                }
            })
            .collect();
        let live = (0..n_slots.div_ceil(32))
            .map(|_| rng.random::<u32>() | rng.random::<u32>())
            .collect();
        let tids = (0..n_slots).map(|_| rng.random()).collect();
        Self {
            metric,
            pitch,
            dim,
            rows,
            norm_sq,
            err,
            live,
            tids,
        }
    }

    pub fn arrays(&self) -> TierArrays<'_> {
        TierArrays {
            rows: &self.rows,
            norm_sq: &self.norm_sq,
            err: &self.err,
            live: &self.live,
            tids: &self.tids,
            codes: &[],
            factors: &[],
            pitch: self.pitch,
            code_pitch: 0,
            metric: self.metric,
        }
    }
}

/// Copies bytes into a new device buffer.
pub fn to_device(ctx: &Arc<Context>, stream: &Stream, bytes: &[u8]) -> DeviceBuffer {
    let mut pinned = PinnedBuffer::new(ctx, bytes.len()).unwrap();
    pinned.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    let buffer = DeviceBuffer::new(ctx, bytes.len()).unwrap();
    stream.upload(&buffer, 0, &pinned, 0..bytes.len()).unwrap();
    finish(stream);
    buffer
}

pub fn finish(stream: &Stream) {
    stream
        .wait(&mut Wait {
            until: Instant::now() + Duration::from_secs(120),
            poll: &mut || Ok(()),
        })
        .unwrap();
}

/// A tier's arrays on the device, each in a buffer of its exact size (so that memcheck sees every step beyond).
pub struct DeviceTier {
    buffers: [DeviceBuffer; 5],
    pitch: u32,
    metric: u32,
    pub n_slots: u32,
}

impl DeviceTier {
    pub fn new(gpu: &Gpu, host: &HostTier) -> Self {
        let ctx = gpu.context().expect("a real device");
        let stream = Stream::new(ctx).unwrap();
        let put = |bytes: &[u8]| to_device(ctx, &stream, bytes);
        let buffers = [
            put(bytemuck::cast_slice(&host.rows)),
            put(bytemuck::cast_slice(&host.norm_sq)),
            put(bytemuck::cast_slice(&host.err)),
            put(bytemuck::cast_slice(&host.live)),
            put(bytemuck::cast_slice(&host.tids)),
        ];
        Self {
            buffers,
            pitch: host.pitch as u32,
            metric: host.metric as u32,
            n_slots: host.norm_sq.len() as u32,
        }
    }

    pub fn view(&self) -> TierView {
        let [rows, norm_sq, err, live, tids] = self.buffers.each_ref().map(DeviceBuffer::address);
        TierView {
            rows,
            norm_sq,
            err,
            live,
            tids,
            pitch: self.pitch,
            metric: self.metric,
            n_slots: self.n_slots,
            ..TierView::default()
        }
    }
}
