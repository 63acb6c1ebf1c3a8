//! Random tiers and queries, and the check of a search against brute force; for the simulated and for a real device.

#![allow(dead_code, unused_imports)]

mod batches;
mod check;
mod losses;
mod refresh;

pub use batches::{check_codes_alone, check_locked_queries, sizes};
pub use check::{check, check_batch, check_slots, exact_bound};
pub use losses::Losses;
pub use refresh::{check_answers, check_refresh_beside_searches, check_refreshes, tier_with_room};

use half::f16;
use omen_gpu::Copiers;
use omen_gpu::batch::tuning::Tuning;
use omen_gpu::memory::Parts;
use omen_gpu::params::QueryBound;
use omen_gpu::{
    Batch, BatchFound, Gpu, GpuError, Lists, Source, Tier, TierBuilder, TierQuery, TierSpec,
};
use omen_ivf::layout::group::{Filter, GroupShape};
use omen_ivf::rabitq::Encoder;
use omen_ivf::rotation::Rotation;
use omen_ivf::topk::Candidates;
use omen_ivf::{Metric, Tid};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// Of rows that are vectors.
pub const METRICS: [Metric; 4] = [Metric::L2, Metric::NegIp, Metric::Cosine, Metric::L1];
/// Of strings of bits.
pub const BIT_METRICS: [Metric; 2] = [Metric::Hamming, Metric::Jaccard];
/// Those that are computed from inner products, and have codes.
pub const DOT_METRICS: [Metric; 3] = [Metric::L2, Metric::NegIp, Metric::Cosine];

/// A generator with a fresh seed, printed; `OMEN_TEST_SEED` repeats a run.
pub fn rng(test: &str) -> ChaCha8Rng {
    let seed = std::env::var("OMEN_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random);
    println!("{test}: OMEN_TEST_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

pub fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f32, f32) = (
        rng.random_range(1e-7..1.0),
        rng.random_range(0.0..std::f32::consts::TAU),
    );
    (-2.0 * u.ln()).sqrt() * v.cos()
}

/// A random string of bits in words of 32, padded with zeros; half of the bits are set, or one in twenty.
pub fn random_bits(rng: &mut impl Rng, n_bits: usize, n_words: usize) -> Vec<f32> {
    let share = [0.5, 0.05][rng.random_range(0..2)];
    let mut words = vec![0u32; n_words];
    for bit in (0..n_bits).filter(|_| rng.random_bool(share)) {
        words[bit / 32] |= 1 << (bit % 32);
    }
    words.into_iter().map(f32::from_bits).collect()
}

pub struct Entry {
    pub tid: Tid,
    pub live: bool,
    pub err: f32,
    pub row: Vec<f16>,
}

/// What rows look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Flavour {
    /// Independent coordinates.
    Plain,
    /// All rows near one far point: the loose bound loses most of its digits.
    Offset,
    /// Few different rows.
    Duplicates,
    /// Rows ordered from far to near the origin, queries at the origin: every round brings nearer rows.
    Approaching,
}

pub struct Fixture {
    pub spec: TierSpec,
    pub flavour: Flavour,
    pub lists: Vec<Vec<Entry>>,
    pub offset: Vec<f32>,
    /// The centroids, where they do not follow the lists.
    kept_centroids: Option<Vec<f16>>,
}

impl Fixture {
    pub fn random(
        rng: &mut ChaCha8Rng,
        metric: Metric,
        dim: usize,
        sizes: &[usize],
        flavour: Flavour,
    ) -> Self {
        let offset: Vec<f32> = (0..dim)
            .map(|_| {
                if flavour == Flavour::Offset {
                    100.0 * normal(rng)
                } else {
                    0.0
                }
            })
            .collect();
        let total: usize = sizes.iter().sum();
        let mut templates: Vec<Vec<f16>> = Vec::new();
        let mut n = 0;
        let mut lists = Vec::new();
        for &size in sizes {
            let mut list = Vec::new();
            for _ in 0..size {
                let scale = if flavour == Flavour::Approaching {
                    10.0 * ((total - n) as f32 / total as f32).powi(4)
                } else {
                    10.0
                };
                let row: Vec<f16> = if flavour == Flavour::Duplicates && templates.len() >= 5 {
                    templates[rng.random_range(0..5)].clone()
                } else {
                    offset
                        .iter()
                        .map(|o| f16::from_f32(o + scale * normal(rng)))
                        .collect()
                };
                if templates.len() < 5 {
                    templates.push(row.clone());
                }
                n += 1;
                let err = match rng.random_range(0..200) {
                    0 if matches!(flavour, Flavour::Offset | Flavour::Duplicates) => f32::INFINITY,
                    1..20 => 0.0,
                    _ if flavour == Flavour::Approaching => 1e-6,
                    _ => rng.random_range(0.0..1e-3) * (dim as f32).sqrt(),
                };
                list.push(Entry {
                    tid: Tid::new(n as u32 / 7, (n % 7 + 1) as u16),
                    live: rng.random_range(0..10) != 0,
                    err,
                    row,
                });
            }
            lists.push(list);
        }
        Self {
            spec: TierSpec::of_vectors(metric, dim, sizes.len()),
            flavour,
            lists,
            offset,
            kept_centroids: None,
        }
    }

    pub fn n_slots(&self) -> u64 {
        self.lists.iter().map(|l| l.len() as u64).sum()
    }

    pub fn load(&self, gpu: &Gpu, byte_limit: u64) -> Result<Tier, GpuError> {
        let mut builder = TierBuilder::begin(gpu, self.spec, self.n_slots(), byte_limit)?;
        for (i, list) in self.lists.iter().enumerate() {
            builder.begin_list(i as u32);
            for (slot, e) in list.iter().enumerate() {
                builder.push(slot as u32, e.tid, e.live, e.err, &e.row);
            }
            builder.end_list(list.len() as u32, 1, i as u32)?;
        }
        builder.set_centroids(&centroids(self))?;
        builder.finish()
    }

    /// As `load`, with one-bit codes, for 512 dimensions and more.
    pub fn load_with_codes(&self, gpu: &Gpu, byte_limit: u64) -> Result<Tier, GpuError> {
        self.load_parts(gpu, Parts::RowsAndCodes, byte_limit)
    }

    /// As `load_with_codes`, of these parts, which have codes.
    pub fn load_parts(&self, gpu: &Gpu, parts: Parts, byte_limit: u64) -> Result<Tier, GpuError> {
        self.load_into(gpu, parts, self.n_slots(), byte_limit)
    }

    /// The same, of any parts, with room for `n` entries.
    pub fn load_into(
        &self,
        gpu: &Gpu,
        parts: Parts,
        n: u64,
        byte_limit: u64,
    ) -> Result<Tier, GpuError> {
        let dim = self.spec.dim;
        let copiers = Copiers::none();
        let mut builder = TierBuilder::with_parts(gpu, self.spec, parts, n, byte_limit, copiers)?;
        let shape = GroupShape::new(Filter::OneBit, dim as u32);
        let rotation = Rotation::new(17, dim, shape.code_dim as usize);
        builder.set_rotation(&rotation);
        let centroids = centroids(self);
        builder.set_centroids(&centroids)?;
        for (i, list) in self.lists.iter().enumerate() {
            builder.begin_list(i as u32);
            for (slot, e) in list.iter().enumerate() {
                builder.push(slot as u32, e.tid, e.live, e.err, &e.row);
            }
            let n = list.len() as u32;
            if !parts.codes() {
                builder.end_list(n, 1, i as u32)?;
                continue;
            }
            let centroid = &centroids[i * dim..][..dim];
            let encoder = Encoder::new(self.spec.metric, Filter::OneBit, &rotation, centroid);
            builder.end_list_encoded(n, 1, i as u32, &encoder)?;
        }
        builder.finish()
    }

    /// The centroids stay as they are now, whatever becomes of the lists.
    pub fn keep_centroids(&mut self) {
        self.kept_centroids = Some(centroids(self));
    }

    pub fn queries(&self, rng: &mut ChaCha8Rng, n: usize, k: usize) -> Queries {
        let n_lists = self.lists.len();
        let items = (0..n)
            .map(|i| {
                let scale = match (self.flavour, i % 4) {
                    (Flavour::Approaching, _) => 1e-3,
                    (_, 0) => 1e-6,
                    (_, 1) => 300.0,
                    _ => 10.0,
                };
                let q: Vec<f32> = self
                    .offset
                    .iter()
                    .map(|o| o + scale * normal(rng))
                    .collect();
                let norm = q.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                let all = self.flavour == Flavour::Approaching || rng.random_bool(0.3);
                let mut lists: Vec<u32> = (0..n_lists as u32)
                    .filter(|_| all || rng.random_bool(0.5))
                    .collect();
                if self.flavour != Flavour::Approaching && !lists.is_empty() {
                    let at = rng.random_range(0..lists.len());
                    lists.rotate_left(at);
                }
                Query {
                    q,
                    norm: ((norm * (1.0 + 1e-7)) as f32).next_up(),
                    q_err: if i % 3 == 0 { 1e-3 } else { 0.0 },
                    lists,
                }
            })
            .collect();
        Queries {
            items,
            k,
            losses: Losses::default(),
        }
    }
}

pub struct Query {
    pub q: Vec<f32>,
    pub norm: f32,
    pub q_err: f32,
    pub lists: Vec<u32>,
}

pub struct Queries {
    pub items: Vec<Query>,
    pub k: usize,
    /// Errors of codes that are allowed: none unless a test says so.
    pub losses: Losses,
}

impl Queries {
    pub fn tier_queries(&self) -> Vec<TierQuery<'_>> {
        self.items
            .iter()
            .map(|q| TierQuery {
                q: &q.q,
                q_norm: q.norm,
                q_err: q.q_err,
                lists: &q.lists,
                k: self.k,
            })
            .collect()
    }
}

pub fn search(tier: &Tier, queries: &Queries) -> Result<Vec<Candidates>, GpuError> {
    let g = omen_ivf::bound::rounding(tier.spec().dim as u32);
    tier.search(
        &queries.tier_queries(),
        g,
        Duration::from_secs(60),
        &mut || Ok(()),
    )
}

/// The centroids of a fixture's lists: their means, or something near the offset for empty lists; `[n_lists, dim]`.
pub fn centroids(fixture: &Fixture) -> Vec<f16> {
    if let Some(kept) = &fixture.kept_centroids {
        return kept.clone();
    }
    let dim = fixture.spec.dim;
    let mut all = Vec::new();
    for (i, list) in fixture.lists.iter().enumerate() {
        let n = list.len().max(1) as f32;
        all.extend((0..dim).map(|d| {
            let sum: f32 = list.iter().map(|e| e.row[d].to_f32()).sum();
            // No two alike, so that there are no ties.
            f16::from_f32(sum / n + 0.01 * ((i * 31 + d * 7) % 101) as f32)
        }));
    }
    all
}

/// Searches a batch on the device. The queries' own lists are not used.
pub fn search_batch(
    tier: &Tier,
    queries: &Queries,
    lists: Lists,
    skipped: &[u32],
) -> Result<BatchFound, GpuError> {
    let dim = tier.spec().dim;
    let g = omen_ivf::bound::rounding(dim as u32);
    let mut fill = |first: usize, raw: &mut [f32], bounds: &mut [QueryBound]| {
        let rows = raw.chunks_exact_mut(dim).zip(bounds);
        for ((row, bound), query) in rows.zip(&queries.items[first..]) {
            row.copy_from_slice(&query.q);
            *bound = QueryBound {
                q_norm: query.norm,
                q_err: query.q_err,
            };
        }
    };
    let mut batch = Batch {
        n_queries: queries.items.len(),
        source: Source::Fill(&mut fill),
        lists,
        skipped,
        k: queries.k,
        want_lists: true,
        tuning: Tuning::default(),
    };
    tier.search_batch(&mut batch, g, Duration::from_secs(60), &mut || Ok(()))
}
