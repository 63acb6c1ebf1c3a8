//! How this benchmark loads a tier and hands it a batch: the only file here that knows `omen_gpu`'s interface.

use crate::folder::Folder;
use half::f16;
use omen_gpu::batch::copy_queries;
use omen_gpu::batch::plan::Tuning;
use omen_gpu::params::QueryBound;
use omen_gpu::{Batch, Gpu, GpuError, Tier, TierBuilder, TierSpec};
use omen_ivf::{Metric, Tid};
use serde_json::{Value, json};
use std::io::Read;
use std::time::Duration;

/// Longest search.
const DEADLINE: Duration = Duration::from_secs(60);

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
    n_lists: usize,
    rounding: f32,
    tuning: Tuning,
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
    builder.set_centroids(&folder.centroids)?;
    Ok(builder.finish()?)
}

impl Searcher {
    /// Gets the queries ready.
    pub fn new(tier: Tier, folder: &Folder) -> Self {
        Self {
            tier,
            dim: folder.dim,
            queries: folder.queries.repeat(2),
            n_lists: folder.n_lists(),
            rounding: omen_ivf::bound::rounding(folder.dim as u32),
            tuning: tuning(),
        }
    }

    /// Most lists that `Lists::Nearest` can name, short of all.
    pub fn max_probes(&self) -> usize {
        self.n_lists
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
        let queries = &self.queries[first * self.dim..][..n * self.dim];
        let mut fill = |from: usize, raw: &mut [f32], bounds: &mut [QueryBound]| {
            copy_queries(&queries[from * self.dim..][..raw.len()], raw);
            bounds.fill(QueryBound::default());
        };
        let mut batch = Batch {
            n_queries: n,
            fill: &mut fill,
            lists: match lists {
                Lists::All => omen_gpu::Lists::All,
                Lists::Nearest(probes) => omen_gpu::Lists::Nearest {
                    probes: probes as u32,
                    spread: f32::INFINITY,
                },
            },
            skipped: &[],
            k,
            want_lists: false,
            tuning: self.tuning,
        };
        let found = self
            .tier
            .search_batch(&mut batch, self.rounding, DEADLINE, &mut || Ok(()))?;
        let mut ids = vec![u32::MAX; n * k];
        for (q, ids) in ids.chunks_exact_mut(k).enumerate() {
            ids.iter_mut()
                .zip(found.of(q))
                .for_each(|(id, item)| *id = item.tid_block);
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

/// The defaults, or what OMEN_TUNING says: `first_rows,first_rows_per_kept,two_halves_queries`.
fn tuning() -> Tuning {
    let mut tuning = Tuning::default();
    let text = std::env::var("OMEN_TUNING").unwrap_or_default();
    let numbers: Vec<usize> = text.split(',').filter_map(|n| n.parse().ok()).collect();
    if let [first_rows, per_kept, two_halves] = numbers[..] {
        tuning.first_rows = first_rows;
        tuning.first_rows_per_kept = per_kept;
        tuning.two_halves_queries = two_halves;
    }
    tuning
}
