//! A random batch's arrays, in host memory and, copied, on the device.

use crate::common::{normal, random_bits};
use crate::tier_arrays::{DeviceTier, HostTier, finish, to_device};
use half::f16;
use omen_gpu::buffers::{DeviceBuffer, PinnedBuffer};
use omen_gpu::context::{Context, Stream};
use omen_gpu::engine::Scales;
use omen_gpu::memory::{ScratchPlan, ScratchShape, query_words};
use omen_gpu::params::{
    Found, QueryConsts, RerankParams, ScanItem, ScanMode, ScanParams, SelectParams,
};
use omen_gpu::query::{prepare, prepare_bits, scales};
use omen_gpu::{Gpu, TierQuery};
use rand::Rng;
use std::sync::Arc;

/// What lies beyond the survivors; no kernel may touch it.
const GUARD: [u8; 4096] = [0xA5; 4096];

/// The arrays of a batch.
#[derive(Clone)]
pub struct Scratch {
    pub scales: Scales,
    pub n_halves: u32,
    pub keep: usize,
    pub cap: usize,
    pitch: usize,
    of_bits: bool,
    pub queries: Vec<f32>,
    halves: Vec<f16>,
    pub consts: Vec<QueryConsts>,
    pub items: Vec<ScanItem>,
    pub group: Vec<u32>,
    pub thresholds: Vec<f32>,
    pub counts: Vec<u32>,
    pub overflows: Vec<u32>,
    pub survivors: Vec<u64>,
    pub out: Vec<Found>,
    guard: Vec<u8>,
}

impl Scratch {
    /// Random queries; no items, no survivors, no thresholds. The group is all queries in random order.
    pub fn random(
        rng: &mut impl Rng,
        host: &HostTier,
        n_queries: usize,
        keep: usize,
        cap: usize,
    ) -> Self {
        let (pitch, g) = (host.pitch, omen_ivf::bound::rounding(host.dim as u32));
        let of_bits = host.metric.is_of_bits();
        let words = query_words(of_bits, pitch);
        let mut queries = vec![0.0; n_queries * words];
        let mut halves = vec![f16::ZERO; if of_bits { 0 } else { 2 * n_queries * pitch }];
        let mut consts = Vec::new();
        for to in queries.chunks_exact_mut(words).filter(|_| of_bits) {
            let string = random_bits(rng, host.dim, words);
            consts.push(QueryConsts {
                norm: prepare_bits(&string, to),
                ..QueryConsts::default()
            });
        }
        for q in consts.len()..n_queries {
            let vector: Vec<f32> = (0..host.dim).map(|_| 10.0 * normal(rng)).collect();
            let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            let query = TierQuery {
                q: &vector,
                q_norm: norm,
                q_err: 1e-4,
                lists: &[],
                k: 1,
            };
            let (out, halves) = (
                &mut queries[q * pitch..(q + 1) * pitch],
                &mut halves[2 * q * pitch..2 * (q + 1) * pitch],
            );
            consts.push(prepare(host.metric, &query, g, out, halves).unwrap());
        }
        let mut group: Vec<u32> = (0..n_queries as u32).collect();
        for i in 1..n_queries {
            group.swap(i, rng.random_range(0..=i));
        }
        Self {
            scales: scales(g),
            n_halves: 2,
            keep,
            cap,
            pitch,
            of_bits,
            queries,
            halves,
            consts,
            items: Vec::new(),
            group,
            thresholds: vec![f32::INFINITY; n_queries],
            counts: vec![0; n_queries],
            overflows: vec![0; n_queries],
            survivors: vec![u64::MAX; n_queries * cap],
            out: vec![Found::default(); n_queries * keep],
            guard: GUARD.to_vec(),
        }
    }

    /// What rows are compared to.
    pub fn query(&self, q: usize) -> &[f32] {
        let words = query_words(self.of_bits, self.pitch);
        &self.queries[q * words..][..words]
    }

    /// Sets each query's threshold to the key of a random survivor of the scan before.
    pub fn thresholds_from_survivors(&mut self, rng: &mut impl Rng) {
        for q in 0..self.counts.len() {
            if self.counts[q] > 0 {
                let x = self.survivors[q * self.cap + rng.random_range(0..self.counts[q] as usize)];
                self.thresholds[q] = omen_gpu::params::from_ordered_bits((x >> 32) as u32);
            }
        }
    }

    pub fn clear_survivors(&mut self) {
        self.counts.fill(0);
        self.survivors.fill(u64::MAX);
    }

    pub fn guard_is_intact(&self) -> bool {
        self.guard == GUARD
    }

    fn plan(&self) -> ScratchPlan {
        ScratchPlan::new(ScratchShape {
            n_queries: self.consts.len(),
            pitch: self.pitch,
            of_bits: self.of_bits,
            keep: self.keep,
            cap: self.cap,
            n_items: self.items.len(),
            n_group: self.group.len(),
        })
    }

    /// Copies everything to the device.
    pub fn upload(&self, gpu: &Gpu) -> LoadedScratch {
        let ctx = gpu.context().expect("a real device").clone();
        let stream = Stream::new(&ctx).unwrap();
        let plan = self.plan();
        let mut bytes = vec![0u8; plan.bytes];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(plan.queries, bytemuck::cast_slice(&self.queries));
        put(plan.halves, bytemuck::cast_slice(&self.halves));
        put(plan.consts, bytemuck::cast_slice(&self.consts));
        put(plan.items, bytemuck::cast_slice(&self.items));
        put(plan.group, bytemuck::cast_slice(&self.group));
        put(plan.thresholds, bytemuck::cast_slice(&self.thresholds));
        put(plan.counts, bytemuck::cast_slice(&self.counts));
        put(plan.overflows, bytemuck::cast_slice(&self.overflows));
        put(plan.out, bytemuck::cast_slice(&self.out));
        put(plan.survivors, bytemuck::cast_slice(&self.survivors));
        bytes.truncate(plan.survivors + self.survivors.len() * 8);
        bytes.extend_from_slice(&GUARD);
        let buffer = to_device(&ctx, &stream, &bytes);
        LoadedScratch {
            stream,
            ctx,
            buffer,
            plan,
            scales: self.scales,
            n_halves: self.n_halves,
        }
    }
}

/// A batch's arrays on the device.
pub struct LoadedScratch {
    pub stream: Stream,
    pub ctx: Arc<Context>,
    buffer: DeviceBuffer,
    plan: ScratchPlan,
    scales: Scales,
    n_halves: u32,
}

impl LoadedScratch {
    fn at(&self, offset: usize) -> u64 {
        self.buffer.address() + offset as u64
    }

    pub fn scan_params(&self, tier: &DeviceTier) -> ScanParams {
        ScanParams {
            tier: tier.view(),
            halves: self.at(self.plan.halves),
            queries: self.at(self.plan.queries),
            consts: self.at(self.plan.consts),
            items: self.at(self.plan.items),
            group: self.at(self.plan.group),
            thresholds: self.at(self.plan.thresholds),
            counts: self.at(self.plan.counts),
            survivors: self.at(self.plan.survivors),
            cap: self.plan.shape.cap as u32,
            loose_scale: self.scales.loose,
            mode: ScanMode::Append as u32,
            n_halves: self.n_halves,
            ..ScanParams::default()
        }
    }

    pub fn select_params(&self) -> SelectParams {
        SelectParams {
            survivors: self.at(self.plan.survivors),
            counts: self.at(self.plan.counts),
            thresholds: self.at(self.plan.thresholds),
            overflows: self.at(self.plan.overflows),
            cap: self.plan.shape.cap as u32,
            keep: self.plan.shape.keep as u32,
        }
    }

    pub fn rerank_params(&self, tier: &DeviceTier) -> RerankParams {
        RerankParams {
            tier: tier.view(),
            queries: self.at(self.plan.queries),
            consts: self.at(self.plan.consts),
            survivors: self.at(self.plan.survivors),
            counts: self.at(self.plan.counts),
            out: self.at(self.plan.out),
            cap: self.plan.shape.cap as u32,
            keep: self.plan.shape.keep as u32,
            tight_scale: self.scales.tight,
            wide_scale: self.scales.wide,
            ..RerankParams::default()
        }
    }

    /// Waits, and copies back what kernels write.
    pub fn download(&self, to: &mut Scratch) {
        let mut pinned = PinnedBuffer::new(&self.ctx, self.buffer.len()).unwrap();
        self.stream
            .download(&mut pinned, &self.buffer, 0..self.buffer.len())
            .unwrap();
        finish(&self.stream);
        let bytes = pinned.bytes();
        fn get<T: bytemuck::Pod>(bytes: &[u8], at: usize, into: &mut [T]) {
            let part = &bytes[at..at + size_of_val(into)];
            into.copy_from_slice(bytemuck::cast_slice(part));
        }
        get(bytes, self.plan.thresholds, &mut to.thresholds);
        get(bytes, self.plan.counts, &mut to.counts);
        get(bytes, self.plan.overflows, &mut to.overflows);
        get(bytes, self.plan.out, &mut to.out);
        get(bytes, self.plan.survivors, &mut to.survivors);
        let end = self.plan.survivors + to.survivors.len() * 8;
        to.guard = bytes[end..end + GUARD.len()].to_vec();
    }
}
