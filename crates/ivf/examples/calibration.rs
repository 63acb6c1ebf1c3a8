//! Time of a calibration of clustered vectors, in memory: `cargo run --release --example calibration [ROWS] [DIM] [QUERIES] [THREADS]`;
//! with half of the threads, and so on, too.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::{Clusters, build, rng, tid};
use omen_ivf::calibrate::calibrate;
use omen_ivf::coarse::default_lists;
use omen_ivf::mem_store::MemStore;
use omen_ivf::{Metric, Tid};
use rayon::ThreadPoolBuilder;

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .map(|arg| arg.parse::<usize>().expect("a number"));
    let mut next = |default| args.next().unwrap_or(default);
    let (n, dim, n_queries, mut threads) = (next(100_000), next(768), next(1000), next(2));
    let mut rng = rng(1);
    let rows = Clusters::new(&mut rng, dim, 300).draw(&mut rng, n);
    let lists = default_lists(n as u64) as usize;
    let (store, index) = build(MemStore::new(), Metric::L2, dim, &rows, lists, 1);
    let own: Vec<Tid> = (0..n_queries).map(tid).collect();
    while threads > 0 {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.expect("threads");
        let start = Instant::now();
        let curve = calibrate(&store, &index, &rows[..n_queries * dim], &own, None, &pool).unwrap();
        let took = start.elapsed().as_secs_f64();
        let at = curve.points.iter().find(|point| point.recall_10 >= 0.95);
        println!(
            "{n} rows of {dim}, {lists} lists, {n_queries} queries, {threads} threads: {took:.2} s; {at:?}"
        );
        threads /= 2;
    }
}
