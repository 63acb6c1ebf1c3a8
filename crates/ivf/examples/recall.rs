//! Recall and time against probes on a set of vectors, in memory:
//! `cargo run --release --example recall METRIC BASE.fvecs QUERIES.fvecs [LISTS]`, METRIC one of l2, ip, cosine.
//!
//! The true neighbours come from brute force with the SQL operator.

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::HashSet;
use std::time::Instant;

use common::{operator, pool, tid};
use omen_ivf::calibrate::{calibrate, store_calibration};
use omen_ivf::coarse::default_lists;
use omen_ivf::index::Index;
use omen_ivf::mem_store::MemStore;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::{Metric, Tid};
use rayon::prelude::*;

/// Rows used as queries of the calibration.
const CALIBRATION: usize = 200;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let metric = [Metric::L2, Metric::NegIp, Metric::Cosine]
        .into_iter()
        .find(|m| m.name() == args[1]);
    let metric = metric.expect("l2, ip or cosine");
    let (dim, rows) = read_fvecs(&args[2]);
    let (query_dim, queries) = read_fvecs(&args[3]);
    assert_eq!(dim, query_dim);
    let n = rows.len() / dim;
    let lists = args
        .get(4)
        .map_or(default_lists(n as u64) as usize, |text| {
            text.parse().expect("lists")
        });

    let start = Instant::now();
    let (store, index) = common::build(MemStore::new(), metric, dim, &rows, lists, 1);
    println!(
        "{n} rows of {dim}, {} lists, built in {:.1} s",
        index.n_lists(),
        start.elapsed().as_secs_f64()
    );
    let start = Instant::now();
    let step = (n / CALIBRATION).max(1);
    let sample: Vec<usize> = (0..n).step_by(step).collect();
    let own: Vec<Tid> = sample.iter().map(|&i| tid(i)).collect();
    let sample: Vec<f32> = sample
        .iter()
        .flat_map(|&i| &rows[i * dim..][..dim])
        .copied()
        .collect();
    let points = calibrate(&store, &index, &sample, &own, None, &pool()).unwrap();
    store_calibration(&store, &points, own.len() as u32).unwrap();
    let index = Index::open(&store).unwrap();
    println!(
        "calibrated by {} rows in {:.1} s",
        own.len(),
        start.elapsed().as_secs_f64()
    );

    let truth: Vec<Vec<Tid>> = pool().install(|| {
        queries
            .par_chunks_exact(dim)
            .map(|q| brute_force(metric, &rows, q))
            .collect()
    });
    println!("target probes recall@10 recall@100    us/query computed filtered");
    for target in [0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0] {
        report(&store, &index, &queries, &truth, target);
    }
}

fn report(store: &MemStore, index: &Index, queries: &[f32], truth: &[Vec<Tid>], target: f32) {
    let reach = index.reach_for(target, 10);
    let probes = reach.probes;
    let mut stats = SearchStats::default();
    let mut found = [0; 2];
    let mut seconds = 0.0;
    for (q, truth) in queries.chunks_exact(index.dim()).zip(truth) {
        let start = Instant::now();
        let query = index.prepare(q).unwrap();
        let near = search(store, index, &query, reach, 10, &mut stats).unwrap();
        seconds += start.elapsed().as_secs_f64();
        let deep = search(
            store,
            index,
            &query,
            reach,
            100,
            &mut SearchStats::default(),
        )
        .unwrap();
        for (found, (items, k)) in found.iter_mut().zip([(near.items, 10), (deep.items, 100)]) {
            let truth: HashSet<Tid> = truth[..k].iter().copied().collect();
            *found += items
                .iter()
                .filter(|item| truth.contains(&item.tid))
                .count();
        }
    }
    let n = truth.len() as f64;
    println!(
        "{target:6} {probes:6} {:9.4} {:10.4} {:11.1} {:8.0} {:8.0}",
        found[0] as f64 / n / 10.0,
        found[1] as f64 / n / 100.0,
        seconds / n * 1e6,
        stats.candidates as f64 / n,
        stats.filtered as f64 / n
    );
}

/// The 100 nearest rows by the operator.
fn brute_force(metric: Metric, rows: &[f32], q: &[f32]) -> Vec<Tid> {
    let values = rows.chunks_exact(q.len()).map(|v| operator(metric, q, v));
    let mut order: Vec<(f64, Tid)> = values
        .enumerate()
        .map(|(i, value)| (value, tid(i)))
        .collect();
    let k = 100.min(order.len());
    order.select_nth_unstable_by(k - 1, |a, b| a.0.total_cmp(&b.0));
    order.truncate(k);
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    order.into_iter().map(|(_, tid)| tid).collect()
}

/// Dimension and vectors (`[n, dim]`) of an fvecs file: each vector is its dimension (i32) and so many f32.
fn read_fvecs(path: &str) -> (usize, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let dim = i32::from_le_bytes(bytes[..4].try_into().expect("a dimension")) as usize;
    let rows = bytes.chunks_exact(4 * dim + 4);
    assert!(
        rows.remainder().is_empty(),
        "{path} ends in the middle of a vector"
    );
    let number = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
    (
        dim,
        rows.flat_map(|row| row[4..].chunks_exact(4).map(number).collect::<Vec<f32>>())
            .collect(),
    )
}
