//! What the search tests share: the SQL operators, generated data, an index over it, and a twin of the executor.
#![allow(dead_code)]

pub mod executor;

use half::f16;
use omen_ivf::assign::{Assign, Assigner};
use omen_ivf::index::Index;
use omen_ivf::kmeans::train;
use omen_ivf::layout::group::Filter;
use omen_ivf::mem_store::MemStore;
use omen_ivf::stored::{Scaling, choose_scale, scale_sample};
use omen_ivf::write_index::{BuildEntry, IndexSpec, write_index};
use omen_ivf::{Metric, Tid};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr_normal::normal;

pub const METRICS: [Metric; 4] = [Metric::L2, Metric::NegIp, Metric::Cosine, Metric::L1];

/// A fresh seed, printed so that a failure can be repeated through OMEN_TEST_SEED.
pub fn seed() -> u64 {
    let seed = match std::env::var("OMEN_TEST_SEED") {
        Ok(text) => text.parse().expect("OMEN_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("OMEN_TEST_SEED={seed}");
    seed
}

pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// The SQL operator of a metric: `<->`, `<#>`, `<=>`, `<+>`.
pub fn operator(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    match metric {
        Metric::L2 => f64::from(omen_distance::l2sq(a, b)).sqrt(),
        Metric::NegIp => f64::from(-omen_distance::dot(a, b)),
        Metric::L1 => f64::from(omen_distance::l1(a, b)),
        Metric::Hamming | Metric::Jaccard => unreachable!("of bits"),
        Metric::Cosine => {
            let norms = f64::from(omen_distance::norm_sq(a)) * f64::from(omen_distance::norm_sq(b));
            let similarity = f64::from(omen_distance::dot(a, b)) / norms.sqrt();
            1.0 - similarity.clamp(-1.0, 1.0)
        }
    }
}

mod rand_distr_normal {
    use rand::Rng;

    /// A standard normal number (Box-Muller).
    pub fn normal(rng: &mut impl Rng) -> f32 {
        let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

/// `n` standard normal numbers.
pub fn normals(rng: &mut StdRng, n: usize) -> Vec<f32> {
    (0..n).map(|_| normal(rng)).collect()
}

/// Overlapping clusters on a few directions, away from the origin: `[n, dim]`.
pub struct Clusters {
    dim: usize,
    centers: Vec<f32>,
    basis: Vec<f32>,
    n_basis: usize,
}

impl Clusters {
    pub fn new(rng: &mut StdRng, dim: usize, n_centers: usize) -> Self {
        let n_basis = 24.min(dim);
        let centers = normals(rng, n_centers * dim);
        let basis = normals(rng, n_basis * dim);
        Self {
            dim,
            centers,
            basis,
            n_basis,
        }
    }

    pub fn draw(&self, rng: &mut StdRng, n: usize) -> Vec<f32> {
        let n_centers = self.centers.len() / self.dim;
        let mut out = Vec::with_capacity(n * self.dim);
        for _ in 0..n {
            let center = rng.random_range(0..n_centers) * self.dim;
            let weights = normals(rng, self.n_basis);
            for d in 0..self.dim {
                let spread: f32 = (0..self.n_basis)
                    .map(|b| weights[b] * self.basis[b * self.dim + d])
                    .sum();
                let noise = 0.3 * normal(rng);
                out.push(0.5 + 0.4 * self.centers[center + d] + 0.3 * spread + noise);
            }
        }
        out
    }
}

/// The tid of the i-th heap row.
pub fn tid(i: usize) -> Tid {
    Tid::new((i / 100) as u32, (i % 100) as u16 + 1)
}

/// The inverse of [`tid`].
pub fn row_of(tid: Tid) -> usize {
    tid.block as usize * 100 + tid.offset as usize - 1
}

pub fn pool() -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap()
}

/// Builds an index over `rows` (`[n, dim]`) as CREATE INDEX does, centroids from all rows. Asks for `lists` lists.
pub fn build(
    store: MemStore,
    metric: Metric,
    dim: usize,
    rows: &[f32],
    lists: usize,
    seed: u64,
) -> (MemStore, Index) {
    let scaling = Scaling {
        metric,
        dim: dim as u32,
        scale_exp: choose_scale(metric, rows, dim),
    };
    let sample = scale_sample(&scaling, rows).unwrap();
    build_from(store, scaling, &sample, rows, lists, seed)
}

/// As [`build`], with the centroids of another sample (`[n, dim]`, scaled).
pub fn build_from(
    store: MemStore,
    scaling: Scaling,
    sample: &[f32],
    rows: &[f32],
    lists: usize,
    seed: u64,
) -> (MemStore, Index) {
    let filter = Filter::for_index(scaling.metric, scaling.dim);
    build_with(filter, store, scaling, sample, rows, lists, seed)
}

/// As [`build_from`], with codes of this kind.
pub fn build_with(
    filter: Filter,
    mut store: MemStore,
    scaling: Scaling,
    sample: &[f32],
    rows: &[f32],
    lists: usize,
    seed: u64,
) -> (MemStore, Index) {
    let dim = scaling.dim as usize;
    let pool = pool();
    let trained = train(sample, dim, lists, seed, &pool, &mut || Ok(())).unwrap();
    let mut centroids = vec![f16::ZERO; trained.len()];
    omen_distance::f16_from_f32(&trained, &mut centroids);
    let mut entries: Vec<BuildEntry> = Vec::new();
    for (i, v) in rows.chunks_exact(dim).enumerate() {
        if let Some(stored) = scaling.to_stored(v).unwrap() {
            entries.push(BuildEntry {
                list: 0,
                tid: tid(i),
                err: stored.err,
                row: stored.row,
            });
        }
    }
    let flat: Vec<f16> = entries
        .iter()
        .flat_map(|entry| entry.row.iter().copied())
        .collect();
    let lists = Assigner::new(&centroids, dim, pool.into()).assign(&flat);
    for (entry, list) in entries.iter_mut().zip(lists) {
        entry.list = list;
    }
    entries.sort_by_key(|entry| entry.list);
    let spec = IndexSpec {
        kind: omen_ivf::VectorKind::Half,
        entries: 0,
        metric: scaling.metric,
        dim: dim as u32,
        lists: (centroids.len() / dim) as u32,
        filter,
        lists_option: 0,
        scale_exp: scaling.scale_exp,
        rotation_seed: seed,
        centroids,
        built_at: 1,
    };
    let mut entries = entries.into_iter();
    write_index(&mut store, &spec, &mut || Ok(entries.next()), &mut |_| ()).unwrap();
    let index = Index::open(&store).unwrap();
    (store, index)
}
