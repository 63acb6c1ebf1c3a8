//! How this benchmark loads a tier and hands it a batch: the only file here that knows `omen_gpu`'s interface.

use crate::folder::Folder;
use half::f16;
use omen_gpu::{Gpu, GpuError, Tier, TierBuilder, TierQuery, TierSpec};
use omen_ivf::{Metric, Tid};
use serde_json::{Value, json};
use std::io::Read;
use std::time::Duration;

/// Longest search.
const DEADLINE: Duration = Duration::from_secs(60);
/// Most lists whose order is worked out for each query.
const MAX_PROBES: usize = 1024;

/// Which lists a batch searches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lists {
    /// So many of the nearest.
    Nearest(usize),
    /// All.
    All,
}

/// A loaded tier and the queries of the folder, twice over, so that every run of up to all of them is one slice.
pub struct Searcher {
    tier: Tier,
    dim: usize,
    queries: Vec<f32>,
    all: Vec<u32>,
    /// `[nq, n_near]`: the nearest lists of each query, nearest first.
    near: Vec<u32>,
    n_near: usize,
    rounding: f32,
}

/// Loads all rows. They count as exact: their radius is 0.
pub fn load(gpu: &Gpu, folder: &Folder) -> Result<Tier, Box<dyn std::error::Error>> {
    let spec = TierSpec {
        metric: Metric::L2,
        dim: folder.dim,
        n_lists: folder.n_lists(),
    };
    // A tenth is left to what the driver takes for itself.
    let byte_limit = gpu.memory()?.0 / 10 * 9;
    let mut builder = TierBuilder::begin(gpu, spec, folder.n as u64, byte_limit)?;
    let mut file = folder.rows()?;
    let mut rows: Vec<f16> = Vec::new();
    for (list, range) in folder.offsets.windows(2).enumerate() {
        let (first, end) = (range[0] as usize, range[1] as usize);
        rows.resize((end - first) * folder.dim, f16::ZERO);
        file.read_exact(bytemuck::cast_slice_mut(&mut rows))?;
        builder.begin_list(list as u32);
        for (slot, row) in rows.chunks_exact(folder.dim).enumerate() {
            let tid = Tid::new(folder.ids[first + slot], 1);
            builder.push(slot as u32, tid, true, 0.0, row);
        }
        builder.end_list((end - first) as u32, 1, 0)?;
    }
    Ok(builder.finish()?)
}

impl Searcher {
    /// Gets the queries ready.
    pub fn new(tier: Tier, folder: &Folder) -> Self {
        let n_near = folder.n_lists().min(MAX_PROBES);
        Self {
            tier,
            dim: folder.dim,
            queries: folder.queries.repeat(2),
            all: (0..folder.n_lists() as u32).collect(),
            near: nearest_lists(folder, n_near),
            n_near,
            rounding: omen_ivf::bound::rounding(folder.dim as u32),
        }
    }

    /// Most lists that `Lists::Nearest` can name, short of all.
    pub fn max_probes(&self) -> usize {
        self.n_near
    }

    /// Searches the queries `first..first + n` (first below nq, n at most nq) for the `k` nearest. Row numbers, `[n, k]`, nearest
    /// first, `u32::MAX` where a query found fewer.
    pub fn search(
        &self,
        first: usize,
        n: usize,
        lists: Lists,
        k: usize,
    ) -> Result<Vec<u32>, GpuError> {
        let n_queries = self.near.len() / self.n_near;
        let queries: Vec<TierQuery<'_>> = (first..first + n)
            .map(|i| TierQuery {
                q: &self.queries[i * self.dim..(i + 1) * self.dim],
                q_norm: 0.0,
                q_err: 0.0,
                lists: match lists {
                    Lists::All => &self.all,
                    Lists::Nearest(probes) => {
                        &self.near[i % n_queries * self.n_near..][..probes.min(self.n_near)]
                    }
                },
                k,
            })
            .collect();
        let found = self
            .tier
            .search(&queries, self.rounding, DEADLINE, &mut || Ok(()))?;
        let mut ids = vec![u32::MAX; n * k];
        for (candidates, ids) in found.iter().zip(ids.chunks_exact_mut(k)) {
            ids.iter_mut()
                .zip(&candidates.items)
                .for_each(|(id, candidate)| *id = candidate.tid.block);
        }
        Ok(ids)
    }

    /// Bytes of device memory held.
    pub fn bytes(&self) -> u64 {
        self.tier.bytes()
    }

    /// Where the time of the last search went, microseconds.
    pub fn split_us(&self) -> Value {
        let times = self.tier.last_times();
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        json!({"plan": us(times.plan), "fill": us(times.fill), "device": us(times.device), "collect": us(times.collect)})
    }
}

/// The `n_near` nearest lists of each query, nearest first, worked out with all cores before anything is timed.
fn nearest_lists(folder: &Folder, n_near: usize) -> Vec<u32> {
    let dim = folder.dim;
    let centroids: Vec<f32> = folder.centroids.iter().map(|x| x.to_f32()).collect();
    let mut near = vec![0; folder.n_queries() * n_near];
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = folder.n_queries().div_ceil(threads);
    std::thread::scope(|scope| {
        for (queries, near) in folder
            .queries
            .chunks(share * dim)
            .zip(near.chunks_mut(share * n_near))
        {
            let centroids = &centroids;
            scope.spawn(move || {
                for (query, near) in queries.chunks(dim).zip(near.chunks_mut(n_near)) {
                    let mut order: Vec<(f32, u32)> = centroids
                        .chunks(dim)
                        .map(|c| distance(query, c))
                        .zip(0..)
                        .collect();
                    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
                    near.iter_mut().zip(order).for_each(|(n, o)| *n = o.1);
                }
            });
        }
    });
    near
}

/// Squared distance, in sixteen lanes so that the compiler uses wide registers.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a16
        .remainder()
        .iter()
        .zip(b16.remainder())
        .map(|(x, y)| (x - y) * (x - y))
        .sum();
    for (x, y) in a16.zip(b16) {
        for i in 0..16 {
            lanes[i] += (x[i] - y[i]) * (x[i] - y[i]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}
