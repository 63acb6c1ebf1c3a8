//! Indexes of strings of bits in memory, and what the operators say of strings.

#![allow(dead_code)]

use half::f16;
use omen_ivf::assign::{Assign, Assigner};
use omen_ivf::form::RowForm;
use omen_ivf::form::bits::input_of;
use omen_ivf::index::Index;
use omen_ivf::kmeans::train;
use omen_ivf::layout::group::Filter;
use omen_ivf::mem_store::MemStore;
use omen_ivf::write_index::{BuildEntry, IndexSpec, write_index};
use omen_ivf::{Metric, Tid, VectorKind};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Of strings of bits.
pub const METRICS: [Metric; 2] = [Metric::Hamming, Metric::Jaccard];

/// A generator with a fresh seed, printed; `OMEN_TEST_SEED` repeats a run.
pub fn rng() -> StdRng {
    let seed = match std::env::var("OMEN_TEST_SEED") {
        Ok(text) => text.parse().expect("OMEN_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("OMEN_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// The row's place.
pub fn tid(i: u32) -> Tid {
    Tid::new(i / 100, (i % 100) as u16 + 1)
}

/// Strings around a few, some with hardly a bit set; the first has none.
pub fn strings(rng: &mut StdRng, dim: u32, n: usize) -> Vec<Vec<bool>> {
    let mut one = |share: f64| -> Vec<bool> { (0..dim).map(|_| rng.random_bool(share)).collect() };
    let centres: Vec<Vec<bool>> = (0..8).map(|i| one([0.5, 0.05][i % 2])).collect();
    let mut all: Vec<Vec<bool>> = (0..n)
        .map(|i| {
            let flip = |&bit: &bool| bit ^ rng.random_bool(0.1);
            centres[i % centres.len()].iter().map(flip).collect()
        })
        .collect();
    all[0].fill(false);
    all
}

/// The input of a string.
pub fn input(string: &[bool]) -> Vec<f32> {
    let mut bytes = vec![0u8; string.len().div_ceil(8)];
    for (i, _) in string.iter().enumerate().filter(|(_, bit)| **bit) {
        bytes[i / 8] |= 0x80 >> (i % 8);
    }
    input_of(string.len() as u32, &bytes)
}

/// The SQL operators `<~>` and `<%>`.
pub fn operator(metric: Metric, a: &[bool], b: &[bool]) -> f64 {
    let pairs = || a.iter().zip(b);
    if metric == Metric::Hamming {
        return pairs().filter(|(a, b)| a != b).count() as f64;
    }
    let both = pairs().filter(|(a, b)| **a && **b).count() as f64;
    let either = pairs().filter(|(a, b)| **a || **b).count() as f64;
    if both == 0.0 {
        1.0
    } else {
        1.0 - both / either
    }
}

/// How such an index is written.
pub fn spec_of(metric: Metric, dim: u32, seed: u64, centroids: Vec<f16>) -> IndexSpec {
    let form = RowForm::new(VectorKind::Bits, metric, dim, 0, seed);
    IndexSpec {
        kind: VectorKind::Bits,
        entries: 0,
        metric,
        dim,
        lists: centroids.len() as u32 / form.coarse_dim(),
        filter: Filter::None,
        lists_option: 0,
        scale_exp: 0,
        rotation_seed: seed,
        centroids,
        built_at: 1,
    }
}

/// Builds as CREATE INDEX does.
pub fn build(metric: Metric, dim: u32, strings: &[Vec<bool>], seed: u64) -> (MemStore, Index) {
    let form = RowForm::new(VectorKind::Bits, metric, dim, 0, seed);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    let inputs: Vec<f32> = strings.iter().flat_map(|s| input(s)).collect();
    let coarse_dim = form.coarse_dim() as usize;
    let sample = form.train_rows(&inputs).unwrap();
    assert_eq!(sample.len(), strings.len() * coarse_dim);
    let trained = train(&sample, coarse_dim, 6, seed, &pool, &mut || Ok(())).unwrap();
    let mut centroids = vec![f16::ZERO; trained.len()];
    omen_distance::f16_from_f32(&trained, &mut centroids);
    let rows: Vec<Vec<f16>> = strings
        .iter()
        .map(|s| form.to_stored(&input(s)).unwrap().unwrap().row)
        .collect();
    let flat = rows.concat();
    let lists = Assigner::new(&centroids, coarse_dim, pool.into()).assign(&form.coarse_rows(&flat));
    let mut entries: Vec<BuildEntry> = (0..)
        .zip(rows)
        .zip(lists)
        .map(|((i, row), list)| BuildEntry {
            list,
            tid: tid(i),
            err: 0.0,
            row,
        })
        .collect();
    entries.sort_by_key(|entry| entry.list);
    let mut entries = entries.into_iter();
    let mut store = MemStore::new();
    let spec = spec_of(metric, dim, seed, centroids);
    write_index(&mut store, &spec, &mut || Ok(entries.next()), &mut |_| ()).unwrap();
    let index = Index::open(&store).unwrap();
    (store, index)
}
