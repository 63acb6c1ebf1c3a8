//! Times searches of random clustered tiers on the first GPU: milliseconds per batch, host work included.
//!
//!     cargo run --release -p omen_gpu --example gpu_timings [-- rows dim lists ...]      (default 350000 100 1183, 1000000 768 4096)
//!
//! Each list is a cluster around a random centroid; queries are noisy centroids. "floor" is the time to read every row that
//! the batch touches once, at 3 TB/s. The last columns are the parts of one search: planning, preparing, device, collecting.

use half::f16;
use omen_gpu::batch::tuning::Tuning;
use omen_gpu::params::QueryBound;
use omen_gpu::{
    Batch, Gpu, GpuError, Lists, SearchTimes, Source, Tier, TierBuilder, TierQuery, TierSpec,
};
use omen_ivf::{Metric, Tid};
use std::time::{Duration, Instant};

/// A fast generator: the data need only be spread out.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // Sum of four bytes: near enough to a bell.
        let bytes = self.0.to_le_bytes();
        (bytes[0] as f32 + bytes[1] as f32 + bytes[2] as f32 + bytes[3] as f32 - 510.0) / 148.0
    }
}

struct Data {
    dim: usize,
    centroids: Vec<f32>,
    rows_per_list: usize,
}

impl Data {
    fn new(rows: usize, dim: usize, lists: usize) -> Self {
        let mut random = Xorshift(std::process::id() as u64 * 0x9E37_79B9_7F4A_7C15 + 1);
        Self {
            dim,
            centroids: (0..lists * dim).map(|_| 20.0 * random.next()).collect(),
            rows_per_list: rows / lists,
        }
    }

    fn n_lists(&self) -> usize {
        self.centroids.len() / self.dim
    }

    fn list(&self, list: usize) -> Vec<f16> {
        let mut random = Xorshift(list as u64 * 0x2545_F491_4F6C_DD1D + 99);
        let centroid = &self.centroids[list * self.dim..(list + 1) * self.dim];
        (0..self.rows_per_list)
            .flat_map(|_| centroid.iter())
            .map(|c| f16::from_f32(c + 12.0 * random.next()))
            .collect()
    }

    fn load(&self, gpu: &Gpu) -> Result<Tier, GpuError> {
        let spec = TierSpec::of_vectors(Metric::L2, self.dim, self.n_lists());
        let n_slots = (self.n_lists() * self.rows_per_list) as u64;
        let mut builder = TierBuilder::begin(gpu, spec, n_slots, 60 << 30)?;
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        for first in (0..self.n_lists()).step_by(threads) {
            let lists = first..(first + threads).min(self.n_lists());
            let generated: Vec<Vec<f16>> = std::thread::scope(|scope| {
                let running: Vec<_> = lists
                    .clone()
                    .map(|list| scope.spawn(move || self.list(list)))
                    .collect();
                running
                    .into_iter()
                    .map(|thread| thread.join().expect("generator"))
                    .collect()
            });
            for (list, rows) in lists.zip(generated) {
                builder.begin_list(list as u32);
                for (slot, row) in rows.chunks(self.dim).enumerate() {
                    builder.push(
                        slot as u32,
                        Tid::new((list * self.rows_per_list + slot) as u32, 1),
                        true,
                        0.01,
                        row,
                    );
                }
                builder.end_list(self.rows_per_list as u32, 1, 0)?;
            }
        }
        let centroids: Vec<f16> = self.centroids.iter().map(|c| f16::from_f32(*c)).collect();
        builder.set_centroids(&centroids)?;
        builder.finish()
    }

    /// A query and the lists nearest to it.
    fn query(&self, random: &mut Xorshift, probes: usize) -> (Vec<f32>, Vec<u32>) {
        let at = (random.next().abs() * 1e6) as usize % self.n_lists();
        let q: Vec<f32> = self.centroids[at * self.dim..(at + 1) * self.dim]
            .iter()
            .map(|c| c + 12.0 * random.next())
            .collect();
        if probes == 0 {
            return (q, Vec::new());
        }
        let mut lists: Vec<(f32, u32)> = self
            .centroids
            .chunks(self.dim)
            .zip(0..)
            .map(|(c, list)| (c.iter().zip(&q).map(|(a, b)| (a - b) * (a - b)).sum(), list))
            .collect();
        lists.sort_by(|a, b| a.0.total_cmp(&b.0));
        (q, lists.into_iter().take(probes).map(|l| l.1).collect())
    }
}

fn time(
    tier: &Tier,
    data: &Data,
    batch: usize,
    probes: usize,
    k: usize,
    repeats: usize,
) -> Result<(f64, f64, SearchTimes), GpuError> {
    let mut random = Xorshift(batch as u64 * 77 + probes as u64 + 5);
    let sets: Vec<Vec<(Vec<f32>, Vec<u32>)>> = (0..4)
        .map(|_| {
            (0..batch)
                .map(|_| data.query(&mut random, probes))
                .collect()
        })
        .collect();
    let mut touched = vec![false; data.n_lists()];
    sets[0]
        .iter()
        .flat_map(|(_, lists)| lists)
        .for_each(|&l| touched[l as usize] = true);
    let bytes = touched.iter().filter(|t| **t).count() * data.rows_per_list * data.dim * 2;
    let mut times = Vec::new();
    for i in 0..repeats + 3 {
        let queries: Vec<TierQuery<'_>> = sets[i % sets.len()]
            .iter()
            .map(|(q, lists)| TierQuery {
                q,
                q_norm: 0.0,
                q_err: 0.0,
                lists,
                k,
            })
            .collect();
        let start = Instant::now();
        let found = tier.search(
            &queries,
            omen_ivf::bound::rounding(data.dim as u32),
            Duration::from_secs(20),
            &mut || Ok(()),
        )?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        assert!(
            found.iter().all(|c| c.items.len() >= k),
            "fewer than k candidates"
        );
    }
    let mut steady = times.split_off(3);
    steady.sort_by(f64::total_cmp);
    Ok((
        steady[steady.len() / 2],
        bytes as f64 / 3e12 * 1e3,
        tier.last_times(),
    ))
}

/// Times batches that the device answers on its own; `probes`: None for an exact search.
fn time_batch(
    tier: &Tier,
    data: &Data,
    batch: usize,
    probes: Option<u32>,
    k: usize,
    repeats: usize,
) -> Result<(f64, SearchTimes), GpuError> {
    let mut random = Xorshift(batch as u64 * 77 + 5);
    let sets: Vec<Vec<f32>> = (0..4)
        .map(|_| {
            (0..batch)
                .flat_map(|_| data.query(&mut random, 0).0)
                .collect()
        })
        .collect();
    let mut times = Vec::new();
    for i in 0..repeats + 3 {
        let queries = &sets[i % sets.len()];
        let start = Instant::now();
        let mut fill = |first: usize, raw: &mut [f32], bounds: &mut [QueryBound]| {
            raw.copy_from_slice(&queries[first * data.dim..][..raw.len()]);
            bounds.fill(QueryBound::default());
        };
        let found = tier.search_batch(
            &mut Batch {
                n_queries: batch,
                source: Source::Fill(&mut fill),
                lists: probes.map_or(Lists::All, |probes| Lists::Nearest {
                    probes,
                    spread: f32::INFINITY,
                }),
                skipped: &[],
                k,
                want_lists: false,
                tuning: Tuning::default(),
            },
            omen_ivf::bound::rounding(data.dim as u32),
            Duration::from_secs(20),
            &mut || Ok(()),
        )?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        assert!(
            (0..batch).all(|q| found.of(q).len() == k),
            "fewer than k candidates"
        );
    }
    let mut steady = times.split_off(3);
    steady.sort_by(f64::total_cmp);
    Ok((steady[steady.len() / 2], tier.last_times()))
}

/// The first GPU; with the feature `simulated` and OMEN_TIMINGS_SIMULATED set, the simulated one (for the host's part).
fn open() -> Result<Gpu, GpuError> {
    #[cfg(feature = "simulated")]
    if std::env::var_os("OMEN_TIMINGS_SIMULATED").is_some() {
        return Ok(Gpu::open_simulated());
    }
    Gpu::open(0)
}

fn main() -> Result<(), GpuError> {
    let arguments: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse().ok())
        .collect();
    let sizes = if arguments.len() >= 3 {
        arguments
    } else {
        vec![350_000, 100, 1183, 1_000_000, 768, 4096]
    };
    let repeats = std::env::var("OMEN_TIMINGS_REPEATS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(21);
    println!("{:?}", omen_gpu::devices());
    let start = Instant::now();
    let gpu = open()?;
    println!("context: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    for size in sizes.chunks_exact(3) {
        let data = Data::new(size[0], size[1], size[2]);
        let start = Instant::now();
        let tier = data.load(&gpu)?;
        println!(
            "{} x {}: {} lists, {} MB, loaded (and generated) in {:.1} s",
            size[0],
            size[1],
            size[2],
            tier.bytes() >> 20,
            start.elapsed().as_secs_f64()
        );
        println!("batches: size, probes, k, ms, fill us, device us, collect us");
        for (probes, k) in [
            (Some(64), 10),
            (Some(128), 10),
            (Some(128), 100),
            (None, 10),
        ] {
            let sizes: &[usize] = match probes {
                Some(_) => &[1, 16, 128, 1024, 10_000],
                None => &[1, 16, 256, 1024],
            };
            for &batch in sizes {
                let (ms, t) = time_batch(&tier, &data, batch, probes, k, repeats)?;
                let [fill, device, collect] = [t.fill, t.device, t.collect].map(|t| t.as_micros());
                let probes = probes.unwrap_or(0);
                println!(
                    "{batch:>7} {probes:>7} {k:>5} {ms:>10.3} {fill:>8} {device:>7} {collect:>11}"
                );
            }
        }
        println!(
            "  batch  probes     k         ms   floor ms  plan us  fill us  dev us  collect us"
        );
        for (probes, k) in [(64, 10), (data.n_lists(), 10), (data.n_lists(), 1000)] {
            for batch in [1, 16, 256] {
                let (ms, floor, t) = time(&tier, &data, batch, probes, k, repeats)?;
                let [plan, fill, device, collect] =
                    [t.plan, t.fill, t.device, t.collect].map(|t| t.as_micros());
                println!(
                    "{batch:>7} {probes:>7} {k:>5} {ms:>10.3} {floor:>10.3} {plan:>8} {fill:>8} {device:>7} {collect:>11}"
                );
            }
        }
    }
    Ok(())
}
