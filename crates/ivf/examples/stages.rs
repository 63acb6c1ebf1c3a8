//! Times the stages of building and searching, in memory: `cargo run --release --example stages [rows]`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::{Clusters, pool, rng};
use half::f16;
use omen_ivf::assign::Assigner;
use omen_ivf::coarse::{default_lists, select_lists};
use omen_ivf::index::read_entry;
use omen_ivf::kmeans::train;
use omen_ivf::layout::directory::Run;
use omen_ivf::layout::group::Filter;
use omen_ivf::layout::page::content;
use omen_ivf::mem_store::MemStore;
use omen_ivf::rabitq::Encoder;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::scan_lists::scan_lists;
use omen_ivf::store::PageStore;
use omen_ivf::topk::{Candidate, TopK};
use omen_ivf::{Metric, Tid};
use rand::Rng;

fn main() {
    let n: usize = std::env::args()
        .nth(1)
        .map_or(100_000, |text| text.parse().expect("rows"));
    println!("instructions: {}", omen_distance::isa().name());
    for dim in [100, 768] {
        stages(dim, n);
    }
    top_k();
}

/// Seconds of `f`, the best of seven runs.
fn best<T>(mut f: impl FnMut() -> T) -> f64 {
    (0..7)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(f());
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

fn stages(dim: usize, n: usize) {
    let mut rng = rng(1);
    let clusters = Clusters::new(&mut rng, dim, 500);
    let rows = clusters.draw(&mut rng, n);
    let lists = default_lists(n as u64) as usize;
    let pool = pool();
    println!(
        "\n{n} rows of {dim} dimensions, {lists} lists, {} threads for training",
        pool.current_num_threads()
    );
    let start = Instant::now();
    train(&rows, dim, lists, 1, &pool, &mut || Ok(())).unwrap();
    println!(
        "train on all rows        {:8.2} s",
        start.elapsed().as_secs_f64()
    );

    let (store, index) = common::build(MemStore::new(), Metric::L2, dim, &rows, lists, 1);
    let stored: Vec<f16> = rows[..n / 10 * dim]
        .chunks_exact(dim)
        .flat_map(|v| index.to_stored(v).unwrap().unwrap().row)
        .collect();
    let seconds = best(|| {
        rows[..n / 10 * dim]
            .chunks_exact(dim)
            .map(|v| index.to_stored(v))
            .filter(|r| r.is_ok())
            .count()
    });
    println!(
        "to_stored                {:8.2} us a row",
        seconds / (n / 10) as f64 * 1e6
    );
    let assigner = Assigner::new(&stored[..lists * dim], dim);
    let seconds = best(|| assigner.assign(&stored, &pool));
    println!(
        "assign                   {:8.2} us a row",
        seconds / (n / 10) as f64 * 1e6
    );
    let shape = index.meta.shape();
    let encoder = Encoder::new(Metric::L2, shape.filter, &index.rotation, &stored[..dim]);
    let group: Vec<&[f16]> = stored.chunks_exact(dim).take(32).collect();
    let mut bytes = vec![0; shape.bytes()];
    let seconds = best(|| {
        (0..100).for_each(|_| {
            encoder.encode_group(&group, &[0.0; 32], &[Tid::default(); 32], &mut bytes)
        });
    });
    println!(
        "encode                   {:8.2} us a row",
        seconds / 3200.0 * 1e6
    );

    let queries = clusters.draw(&mut rng, 200);
    let queries: Vec<_> = queries.chunks_exact(dim).collect();
    let per_query = |seconds: f64| seconds / queries.len() as f64 * 1e6;
    let seconds = best(|| {
        queries
            .iter()
            .map(|q| index.prepare(q))
            .filter(|q| q.is_ok())
            .count()
    });
    println!(
        "prepare                  {:8.2} us a query",
        per_query(seconds)
    );
    let prepared: Vec<_> = queries.iter().map(|q| index.prepare(q).unwrap()).collect();
    let probes = lists as u32 / 20;
    let select = |probes| {
        prepared
            .iter()
            .map(|q| select_lists(&store, &index, q, probes).unwrap())
            .collect::<Vec<_>>()
    };
    let seconds = best(|| select(probes));
    println!(
        "select {probes:4} lists        {:8.2} us a query",
        per_query(seconds)
    );
    println!(
        "select all lists         {:8.2} us a query",
        per_query(best(|| select(lists as u32)))
    );

    let chosen = select(probes);
    let scan = |exact: bool| {
        let mut stats = SearchStats::default();
        for (query, probes) in prepared.iter().zip(&chosen) {
            let mut top = TopK::new(10);
            scan_lists(&store, &index, query, probes, exact, &mut top, &mut stats).unwrap();
            std::hint::black_box(top.into_candidates());
        }
        stats
    };
    let entries = scan(true).candidates as f64;
    let report = |what: &str, seconds: f64, more: &str| {
        let (query, entry) = (per_query(seconds), seconds / entries * 1e9);
        println!("{what:24} {query:8.2} us a query, {entry:6.2} ns an entry{more}");
    };
    report("scan, no filter", best(|| scan(true)), "");
    if shape.filter != Filter::None {
        let share = scan(false).candidates as f64 / entries * 100.0;
        report(
            "scan, filter",
            best(|| scan(false)),
            &format!(", {share:.1} % computed"),
        );
    }
    // The same distances over the same pages, and nothing else (but for rows that span pages).
    let runs: Vec<Run> = (0..index.n_lists())
        .map(|list| read_entry(&store, &index, list).unwrap().vector_run)
        .collect();
    let seconds = best(|| {
        let mut sum = 0.0;
        for (query, probes) in prepared.iter().zip(&chosen) {
            for run in probes.iter().map(|probe| runs[probe.list as usize]) {
                for block in run.start..run.start + run.len {
                    let rows = |page: &[u8]| {
                        let rows = content(page).chunks_exact(2 * dim);
                        rows.map(|row| query.raw(bytemuck::cast_slice(row)))
                            .sum::<f32>()
                    };
                    sum += store.read(block, rows).unwrap();
                }
            }
        }
        sum
    });
    report("the kernel over pages", seconds, "");
}

fn top_k() {
    let mut rng = rng(2);
    let keys: Vec<f32> = (0..4_000_000).map(|_| rng.random()).collect();
    println!("\n4,000,000 pushes in random order");
    for k in [1, 10, 100, 10_000, 1_000_000] {
        let seconds = best(|| {
            let mut top = TopK::new(k);
            for (i, &key) in keys.iter().enumerate() {
                top.push(
                    Candidate {
                        key,
                        ceiling: key,
                        tid: Tid {
                            block: i as u32,
                            offset: 1,
                        },
                    },
                    0,
                );
            }
            top.into_candidates()
        });
        println!(
            "k = {k:7}              {:8.2} ns a push",
            seconds / keys.len() as f64 * 1e9
        );
    }
}
