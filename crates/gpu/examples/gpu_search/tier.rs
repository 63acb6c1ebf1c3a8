//! How this benchmark loads a tier and hands it a batch: the only file here that knows `omen_gpu`'s interface.

use crate::folder::Folder;
use half::f16;
use omen_gpu::batch::tuning::Tuning;
use omen_gpu::memory::{Parts, TierPlan};
use omen_gpu::{Batch, Copiers, Gpu, GpuError, LockedQueries, Source, Tier, TierBuilder, TierSpec};
use omen_ivf::layout::group::{Filter, GroupShape};
use omen_ivf::rabitq::Encoder;
use omen_ivf::rotation::Rotation;
use omen_ivf::{Metric, Tid};
use serde_json::{Value, json};
use std::io::Read;
use std::time::Duration;

/// Longest search.
const DEADLINE: Duration = Duration::from_secs(60);

/// Seed of the rotation of the codes.
const ROTATION_SEED: u64 = 1;

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
    /// In page-locked memory, twice over, so that a batch may begin anywhere.
    queries: LockedQueries,
    n_lists: usize,
    rounding: f32,
    tuning: Tuning,
}

fn spec(folder: &Folder) -> TierSpec {
    TierSpec::of_vectors(Metric::L2, folder.dim, folder.n_lists())
}

/// Loads all rows and the centroids; with `codes`, one-bit codes too. Rows count as exact: their radius is 0.
pub fn load(gpu: &Gpu, folder: &Folder, codes: bool) -> Result<Tier, Box<dyn std::error::Error>> {
    let parts = if codes {
        Parts::RowsAndCodes
    } else {
        Parts::Rows
    };
    // A tenth is left to what the driver takes for itself.
    let byte_limit = gpu.memory()?.0 / 10 * 9;
    let (spec, n) = (spec(folder), folder.n as u64);
    let mut builder = TierBuilder::with_parts(gpu, spec, parts, n, byte_limit, Copiers::none())?;
    builder.set_centroids(&folder.centroids)?;
    let shape = GroupShape::new(Filter::OneBit, folder.dim as u32);
    let rotation = Rotation::new(ROTATION_SEED, folder.dim, shape.code_dim as usize);
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
        let n_slots = (end - first) as u32;
        if codes {
            let centroid = &folder.centroids[list * folder.dim..][..folder.dim];
            let encoder = Encoder::new(Metric::L2, Filter::OneBit, &rotation, centroid);
            builder.end_list_encoded(n_slots, 1, 0, &encoder)?;
        } else {
            builder.end_list(n_slots, 1, 0)?;
        }
    }
    builder.set_rotation(&rotation);
    Ok(builder.finish()?)
}

/// Bytes of device memory that the folder's rows take with rows alone, with rows and codes, with codes alone.
pub fn planned_bytes(folder: &Folder) -> Result<[usize; 3], GpuError> {
    let mut bytes = [0; 3];
    for (bytes, parts) in bytes
        .iter_mut()
        .zip([Parts::Rows, Parts::RowsAndCodes, Parts::Codes])
    {
        *bytes = TierPlan::new(&spec(folder), parts, folder.n as u64)?.bytes;
    }
    Ok(bytes)
}

impl Searcher {
    /// Gets the queries ready.
    pub fn new(gpu: &Gpu, tier: Tier, folder: &Folder) -> Result<Self, GpuError> {
        let twice = folder.queries.repeat(2);
        let mut queries = LockedQueries::new(gpu, 2 * folder.n_queries(), folder.dim)?;
        queries.parts_mut().0.copy_from_slice(&twice);
        Ok(Self {
            tier,
            queries,
            n_lists: folder.n_lists(),
            rounding: omen_ivf::bound::rounding(folder.dim as u32),
            tuning: tuning_of(&std::env::var("OMEN_TUNING").unwrap_or_default()),
        })
    }

    /// Searches with other settings from now on.
    pub fn set_tuning(&mut self, tuning: Tuning) {
        self.tuning = tuning;
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
        let mut batch = Batch {
            n_queries: n,
            source: Source::Locked(&self.queries, first),
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

/// The defaults but for what `text` says, `name=number,...`.
pub fn tuning_of(text: &str) -> Tuning {
    let mut tuning = Tuning::default();
    for (name, number) in text.split(',').filter_map(|part| part.split_once('=')) {
        let number = number.parse().expect("a number");
        match name {
            "first_rows" => tuning.first_rows = number,
            "exact_first_rows" => tuning.exact.first_rows = number,
            "exact_denser" => tuning.exact.denser = number,
            "exact_few_first_rows" => tuning.exact_few.first_rows = number,
            "exact_few_denser" => tuning.exact_few.denser = number,
            "first_rows_large" => tuning.first_rows_large = number,
            "first_rows_per_kept" => tuning.first_rows_per_kept = number,
            "two_halves_queries" => tuning.two_halves_queries = number,
            "code_sharing" => tuning.code_sharing = number,
            "code_first_rows" => tuning.code_first_rows = number,
            "code_queries" => tuning.code_queries = number,
            "wgmma_from" => tuning.wgmma_from = number,
            _ => panic!("no tuning of the name {name}"),
        }
    }
    tuning
}
