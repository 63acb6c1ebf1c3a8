//! A random tier's arrays, in host memory and, copied, on the device.

use crate::common::{normal, random_bits};
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
    /// Dimension, or number of bits.
    pub dim: usize,
    pub rows: Vec<f16>,
    pub norm_sq: Vec<f32>,
    pub err: Vec<f32>,
    pub live: Vec<u32>,
    pub tids: Vec<u64>,
}

impl HostTier {
    pub fn random(rng: &mut impl Rng, metric: Metric, dim: usize, n_slots: usize) -> Self {
        if metric.is_of_bits() {
            return Self::random_bits(rng, metric, dim, n_slots);
        }
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
        Self {
            metric,
            pitch,
            dim,
            rows,
            norm_sq,
            err,
            live: live(rng, n_slots),
            tids: (0..n_slots).map(|_| rng.random()).collect(),
        }
    }

    fn random_bits(rng: &mut impl Rng, metric: Metric, n_bits: usize, n_slots: usize) -> Self {
        let pitch = pitch_of(n_bits.div_ceil(16));
        let mut host = Self {
            metric,
            pitch,
            dim: n_bits,
            rows: Vec::with_capacity(n_slots * pitch),
            norm_sq: Vec::new(),
            err: vec![0.0; n_slots],
            live: live(rng, n_slots),
            tids: (0..n_slots).map(|_| rng.random()).collect(),
        };
        for _ in 0..n_slots {
            let words = random_bits(rng, n_bits, pitch / 2);
            host.rows.extend_from_slice(bytemuck::cast_slice(&words));
        }
        host.count_bits();
        host
    }

    /// Has the numbers of bits set follow the rows.
    pub fn count_bits(&mut self) {
        let rows = self.rows.chunks(self.pitch);
        let ones = |row: &[f16]| row.iter().map(|x| x.to_bits().count_ones()).sum::<u32>();
        self.norm_sq = rows.map(|row| ones(row) as f32).collect();
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

fn live(rng: &mut impl Rng, n_slots: usize) -> Vec<u32> {
    let words = (0..n_slots.div_ceil(32)).map(|_| rng.random::<u32>() | rng.random::<u32>());
    words.collect()
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
