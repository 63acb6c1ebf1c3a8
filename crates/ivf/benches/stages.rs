//! The stages of building and searching, over pages in memory: `cargo bench -p omen_ivf`. Names are `stage/dimension`, and
//! of a search also the kind of codes, those that new indexes of that dimension do not get included.

#![allow(missing_docs, reason = "the macros of criterion make public items")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use common::{Clusters, build_with, pool, rng};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use half::f16;
use omen_ivf::assign::{Assign, Assigner};
use omen_ivf::coarse::{default_lists, select_lists};
use omen_ivf::index::Index;
use omen_ivf::insert::insert;
use omen_ivf::layout::group::Filter;
use omen_ivf::mem_store::MemStore;
use omen_ivf::query::Query;
use omen_ivf::rabitq::Encoder;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::stored::{Scaling, choose_scale, scale_sample};
use omen_ivf::topk::{Candidate, TopK};
use omen_ivf::{Metric, Tid};
use rand::Rng;

const ROWS: usize = 30_000;
const QUERIES: usize = 50;
/// Candidates that a scan asks for at first.
const K: usize = 16;

/// A clustered set, and queries from outside it.
struct Data {
    dim: usize,
    rows: Vec<f32>,
    queries: Vec<f32>,
}

impl Data {
    fn new(dim: usize) -> Self {
        let mut rng = rng(1);
        let clusters = Clusters::new(&mut rng, dim, 300);
        Self {
            dim,
            rows: clusters.draw(&mut rng, ROWS),
            queries: clusters.draw(&mut rng, QUERIES),
        }
    }

    fn index(&self, filter: Filter) -> (MemStore, Index) {
        let scaling = Scaling {
            metric: Metric::L2,
            dim: self.dim as u32,
            scale_exp: choose_scale(Metric::L2, &self.rows, self.dim),
        };
        let sample = scale_sample(&scaling, &self.rows[..ROWS / 3 * self.dim]).unwrap();
        let lists = default_lists(ROWS as u64) as usize;
        build_with(
            filter,
            MemStore::new(),
            scaling,
            &sample,
            &self.rows,
            lists,
            1,
        )
    }
}

/// Calls `f` with one of `inputs` after the other.
fn in_turn<T>(inputs: &[T], f: impl Fn(&T)) -> impl Fn() {
    let next = Cell::new(0);
    move || {
        f(&inputs[next.get()]);
        next.set((next.get() + 1) % inputs.len());
    }
}

fn searching(c: &mut Criterion) {
    for dim in [32, 100, 384, 768] {
        let data = Data::new(dim);
        let raw: Vec<&[f32]> = data.queries.chunks_exact(dim).collect();
        for filter in [Filter::None, Filter::OneBit, Filter::FourBit] {
            let (store, index) = data.index(filter);
            let prepared: Vec<Query> = raw.iter().map(|q| index.prepare(q).unwrap()).collect();
            let probes = index.n_lists() / 10;
            let search_one = in_turn(&prepared, |query| {
                let mut stats = SearchStats::default();
                black_box(search(&store, &index, query, probes, K, &mut stats).unwrap());
            });
            let name = format!("search/{dim}/{filter:?}");
            c.bench_function(&name, |b| b.iter(&search_one));
            if filter != Filter::for_dim(dim as u32) {
                continue;
            }
            let prepare_one = in_turn(&raw, |q| {
                black_box(index.prepare(q).unwrap());
            });
            c.bench_function(&format!("prepare/{dim}"), |b| b.iter(&prepare_one));
            let select_one = in_turn(&prepared, |query| {
                black_box(select_lists(&store, &index, query, probes).unwrap());
            });
            c.bench_function(&format!("select/{dim}"), |b| b.iter(&select_one));
        }
    }
}

fn building(c: &mut Criterion) {
    for dim in [100, 768] {
        let data = Data::new(dim);
        let (store, index) = data.index(Filter::for_dim(dim as u32));
        let raw: Vec<&[f32]> = data.rows.chunks_exact(dim).take(1000).collect();
        let store_one = in_turn(&raw, |v| {
            black_box(index.to_stored(v).unwrap());
        });
        c.bench_function(&format!("to_stored/{dim}"), |b| b.iter(&store_one));

        let stored: Vec<f16> = raw
            .iter()
            .flat_map(|v| index.to_stored(v).unwrap().unwrap().row)
            .collect();
        let centroids = &stored[..index.n_lists() as usize * dim];
        let mut assigner = Assigner::new(centroids, dim, pool().into());
        c.bench_function(&format!("assign_1000/{dim}"), |b| {
            b.iter(|| black_box(assigner.assign(&stored)));
        });
        let shape = index.meta.shape();
        let encoder = Encoder::new(Metric::L2, shape.filter, &index.rotation, &stored[..dim]);
        let group: Vec<&[f16]> = stored.chunks_exact(dim).take(32).collect();
        let mut bytes = vec![0; shape.bytes()];
        c.bench_function(&format!("encode_32/{dim}"), |b| {
            b.iter(|| encoder.encode_group(&group, &[0.0; 32], &[Tid::default(); 32], &mut bytes));
        });
        let row = Cell::new(1_000_000);
        let insert_one = in_turn(&raw, |v| {
            row.set(row.get() + 1);
            insert(&store, &index, v, Tid::new(row.get(), 1)).unwrap();
        });
        c.bench_function(&format!("insert/{dim}"), |b| b.iter(&insert_one));
    }
}

fn top_k(c: &mut Criterion) {
    let mut rng = rng(2);
    let keys: Vec<f32> = (0..100_000).map(|_| rng.random()).collect();
    for k in [10, 1000, 100_000] {
        let push_all = |mut top: TopK| {
            for (row, &key) in keys.iter().enumerate() {
                let (ceiling, tid) = (key, Tid::new(row as u32, 1));
                top.push(Candidate { key, ceiling, tid }, 0);
            }
            top.into_candidates()
        };
        c.bench_function(&format!("top_k_100000/{k}"), |b| {
            b.iter_batched(|| TopK::new(k), push_all, BatchSize::LargeInput);
        });
    }
}

criterion_group! {
    name = stages;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = searching, building, top_k
}
criterion_main!(stages);
