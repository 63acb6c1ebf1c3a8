//! Times batches by the metrics that have kernels of their own, on the first GPU: milliseconds per batch, host work included.
//!
//!     cargo run --release -p omen_gpu --example metric_timings [-- rows lists]      (default 1000000 1024)
//!
//! By L1 rows of 768 dimensions, by Hamming's distance strings of 1,024 bits; each list is a cluster around a random row. "floor" is the time to
//! read every row once, at 3 TB/s: of exact searches of a few queries it is what there is to reach.

use half::f16;
use omen_gpu::batch::tuning::Tuning;
use omen_gpu::params::QueryBound;
use omen_gpu::{Batch, Gpu, GpuError, Lists, Source, Tier, TierBuilder, TierSpec};
use omen_ivf::{Metric, Tid};
use std::time::{Duration, Instant};

/// Dimensions of the vectors, bits of the strings.
const DIM: usize = 768;
const BITS: usize = 1024;

/// A fast generator.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between -1 and 1.
    fn real(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Bits of which one in eight is set.
    fn few(&mut self) -> u64 {
        self.next() & self.next() & self.next()
    }
}

/// A row near another one, in words of 16 bits.
fn near(metric: Metric, row: &[f16], random: &mut Xorshift) -> Vec<f16> {
    let vary = |x: &f16| match metric {
        Metric::L1 => f16::from_f32(x.to_f32() + 0.6 * random.real()),
        _ => f16::from_bits(x.to_bits() ^ random.few() as u16),
    };
    row.iter().map(vary).collect()
}

/// What chooses lists.
fn coarse(metric: Metric, row: &[f16]) -> Vec<f32> {
    match metric {
        Metric::L1 => row.iter().map(|x| x.to_f32()).collect(),
        _ => (0..BITS)
            .map(|bit| f32::from(row[bit / 16].to_bits() >> (bit % 16) & 1))
            .collect(),
    }
}

/// A query as the device gets it.
fn words(metric: Metric, row: &[f16]) -> Vec<f32> {
    let mut words = coarse(metric, row);
    if metric.is_of_bits() {
        let pairs = row.as_chunks::<2>().0.iter();
        words.extend(pairs.map(|pair| bytemuck::cast::<[f16; 2], f32>(*pair)));
    }
    words
}

fn spec_of(metric: Metric, n_lists: usize) -> TierSpec {
    let (dim, row_words) = match metric {
        Metric::L1 => (DIM, DIM),
        _ => (BITS, BITS / 16),
    };
    TierSpec {
        metric,
        dim,
        row_words,
        n_lists,
    }
}

fn load(gpu: &Gpu, spec: TierSpec, centres: &[Vec<f16>], rows: usize) -> Result<Tier, GpuError> {
    let mut builder = TierBuilder::begin(gpu, spec, (centres.len() * rows) as u64, 60 << 30)?;
    for (list, centre) in centres.iter().enumerate() {
        let mut random = Xorshift(list as u64 * 0x2545_F491_4F6C_DD1D + 99);
        builder.begin_list(list as u32);
        for slot in 0..rows {
            let row = near(spec.metric, centre, &mut random);
            let tid = Tid::new((list * rows + slot) as u32, 1);
            builder.push(slot as u32, tid, true, 0.0, &row);
        }
        builder.end_list(rows as u32, 1, 0)?;
    }
    let of_centre = |centre: &Vec<f16>| coarse(spec.metric, centre);
    let centroids: Vec<f16> = centres
        .iter()
        .flat_map(of_centre)
        .map(f16::from_f32)
        .collect();
    builder.set_centroids(&centroids)?;
    builder.finish()
}

/// Median milliseconds of a batch.
fn time(tier: &Tier, queries: &[Vec<f32>], lists: Lists) -> Result<f64, GpuError> {
    let words = tier.spec().query_words();
    let mut times = Vec::new();
    for i in 0..24 {
        let mut fill = |first: usize, raw: &mut [f32], bounds: &mut [QueryBound]| {
            for (to, query) in raw.chunks_exact_mut(words).zip(&queries[first..]) {
                to.copy_from_slice(query);
            }
            bounds.fill(QueryBound::default());
        };
        let mut batch = Batch {
            n_queries: queries.len(),
            source: Source::Fill(&mut fill),
            lists,
            skipped: &[],
            k: 10,
            want_lists: false,
            tuning: Tuning::default(),
        };
        let g = omen_ivf::bound::rounding(tier.spec().dim as u32);
        let start = Instant::now();
        let found = tier.search_batch(&mut batch, g, Duration::from_secs(20), &mut || Ok(()))?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        assert!((0..queries.len()).all(|q| found.of(q).len() == 10));
        if i >= 3 {
            times.push(took);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn main() -> Result<(), GpuError> {
    let mut arguments = std::env::args().skip(1).filter_map(|a| a.parse().ok());
    let (rows, n_lists) = (
        arguments.next().unwrap_or(1_000_000),
        arguments.next().unwrap_or(1024usize),
    );
    println!("{:?}", omen_gpu::devices());
    let gpu = Gpu::open(0)?;
    for metric in [Metric::L1, Metric::Hamming, Metric::Jaccard] {
        let spec = spec_of(metric, n_lists);
        let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
        let centres: Vec<Vec<f16>> = (0..n_lists)
            .map(|_| match metric {
                Metric::L1 => (0..DIM).map(|_| f16::from_f32(random.real())).collect(),
                _ => (0..BITS / 16)
                    .map(|_| f16::from_bits(random.next() as u16))
                    .collect(),
            })
            .collect();
        let tier = load(&gpu, spec, &centres, rows / n_lists)?;
        let floor = (rows * spec.row_words * 2) as f64 / 3e12 * 1e3;
        println!("{}: {rows} rows, floor {floor:.3} ms", metric.name());
        println!("  batch  probes         ms");
        for probes in [Some(16), Some(128), None] {
            let lists = probes.map_or(Lists::All, |probes| Lists::Nearest {
                probes,
                spread: f32::INFINITY,
            });
            for n in [1, 16, 256] {
                let queries: Vec<Vec<f32>> = (0..n)
                    .map(|i| {
                        let row = near(metric, &centres[i * 31 % n_lists], &mut random);
                        words(metric, &row)
                    })
                    .collect();
                let ms = time(&tier, &queries, lists)?;
                println!("{n:>7} {:>7} {ms:>10.3}", probes.unwrap_or(0));
            }
        }
    }
    Ok(())
}
