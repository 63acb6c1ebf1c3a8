//! Recall of searches that do not visit every list, and what the filter costs of it.

mod common;

use std::collections::HashSet;

use common::{Clusters, METRICS, build, operator, pool, rng, seed, tid};
use omen_ivf::calibrate::{calibrate, store_calibration};
use omen_ivf::coarse::{Probe, select_lists};
use omen_ivf::index::Index;
use omen_ivf::insert::insert;
use omen_ivf::layout::group::Filter;
use omen_ivf::mem_store::MemStore;
use omen_ivf::probes::Reach;
use omen_ivf::query::Query;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::scan_lists::scan_lists;
use omen_ivf::search::search;
use omen_ivf::topk::TopK;
use omen_ivf::{Metric, Tid};

fn tids(items: &[omen_ivf::topk::Candidate]) -> HashSet<Tid> {
    items.iter().map(|item| item.tid).collect()
}

/// The 10 nearest rows of the lists within `reach`.
fn nearest(store: &MemStore, index: &Index, query: &Query, reach: Reach) -> HashSet<Tid> {
    tids(
        &search(store, index, query, reach, 10, &mut SearchStats::default())
            .unwrap()
            .items,
    )
}

fn brute_force(index: &Index, rows: &[f32], q: &[f32]) -> HashSet<Tid> {
    let values = rows
        .chunks_exact(index.dim())
        .map(|v| operator(index.metric(), q, v));
    let mut order: Vec<(f64, Tid)> = values
        .enumerate()
        .map(|(i, value)| (value, tid(i)))
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    order[..10].iter().map(|(_, tid)| *tid).collect()
}

/// Calibration on rows of the table holds for queries from outside it.
#[test]
fn calibrated_probes_reach_their_recall() {
    let seed = seed();
    let mut rng = rng(seed);
    for (dim, n) in [(48, 12_000), (256, 6000)] {
        let clusters = Clusters::new(&mut rng, dim, 150);
        let rows = clusters.draw(&mut rng, n);
        let queries = clusters.draw(&mut rng, 200);
        for metric in METRICS {
            let (store, index) = build(MemStore::new(), metric, dim, &rows, 100, seed);
            let without = index.reach_for(0.9, 10).probes;
            assert_eq!(without, 6);
            let own: Vec<Tid> = (0..300).map(tid).collect();
            let curve = calibrate(&store, &index, &rows[..300 * dim], &own, None, &pool()).unwrap();
            store_calibration(&store, &curve, 300).unwrap();
            let index = Index::open(&store).unwrap();
            let last = curve.points[curve.points.len() - 1];
            assert_eq!(
                (last.probes, last.recall_10, last.recall_100),
                (100, 1.0, 1.0)
            );
            for target in [0.8, 0.95] {
                let reach = index.reach_for(target, 10);
                let probes = reach.probes;
                let mut found = 0;
                for q in queries.chunks_exact(dim) {
                    let query = index.prepare(q).unwrap();
                    found += nearest(&store, &index, &query, reach)
                        .intersection(&brute_force(&index, &rows, q))
                        .count();
                }
                let recall = found as f32 / 2000.0;
                println!(
                    "{} dim {dim}: target {target}, {probes} probes of 100, recall {recall}",
                    metric.name()
                );
                // Two samples of some hundred queries each: their standard errors are about 0.02.
                assert!(
                    recall > target - 0.06,
                    "{} dim {dim}: {recall} with {probes} probes",
                    metric.name()
                );
                assert!(
                    probes < 90,
                    "{} dim {dim}: {probes} probes for {target}",
                    metric.name()
                );
            }
            assert_eq!(
                index.reach_for(1.0, 10).probes.min(100),
                index.reach_for(1.0, 10).probes
            );
        }
    }
}

/// The curve is the same from any number of threads, also where lists are too large to be kept, and where entries are appended; an error of the
/// store, or an interrupt, ends it.
#[test]
fn threads_calibrate_as_one_does() {
    let seed = seed();
    let mut rng = rng(seed);
    let threads = |n| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build()
            .unwrap()
    };
    for (dim, n, lists) in [(8, 3000, 40), (64, 4000, 30), (700, 14_000, 3)] {
        let rows = Clusters::new(&mut rng, dim, 50).draw(&mut rng, n);
        for metric in METRICS {
            let (store, index) = build(MemStore::new(), metric, dim, &rows, lists, seed);
            for (i, row) in rows.chunks_exact(dim).take(200).enumerate() {
                insert(&store, &index, row, tid(n + i)).unwrap();
            }
            let own: Vec<Tid> = (0..150).map(tid).collect();
            let curve_of =
                |n| calibrate(&store, &index, &rows[..150 * dim], &own, None, &threads(n));
            let curve = curve_of(1).unwrap();
            assert!(!curve.points.is_empty());
            for n in [2, 5] {
                assert_eq!(curve_of(n).unwrap(), curve, "{} dim {dim}", metric.name());
            }
            for calls in [1, 100, 3000] {
                store.fail_after(calls);
                assert!(curve_of(3).is_err());
            }
        }
    }
}

/// The filter skips most entries and hardly ever a true neighbour.
#[test]
fn filter_keeps_the_neighbours() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [40, 100, 256, 700] {
        let clusters = Clusters::new(&mut rng, dim, 100);
        let rows = clusters.draw(&mut rng, 6000);
        let has_codes = |&metric: &Metric| Filter::for_index(metric, dim as u32) != Filter::None;
        for metric in METRICS.into_iter().filter(has_codes) {
            let (store, index) = build(MemStore::new(), metric, dim, &rows, 20, seed);
            let (mut missed, mut stats) = (0, SearchStats::default());
            let queries = clusters.draw(&mut rng, 100);
            for q in queries.chunks_exact(dim) {
                let query = index.prepare(q).unwrap();
                let lists = select_lists(&store, &index, &query, 19).unwrap();
                let scan = |exact: bool, stats: &mut SearchStats| {
                    let mut top = TopK::new(10);
                    scan_lists(&store, &index, &query, &lists, exact, &mut top, stats).unwrap();
                    tids(&top.into_candidates().items)
                };
                missed += scan(true, &mut SearchStats::default())
                    .difference(&scan(false, &mut stats))
                    .count();
            }
            let share = stats.filtered as f64 / (stats.filtered + stats.candidates) as f64;
            println!(
                "{} dim {dim}: {missed} of 1000 missed, {share:.3} skipped",
                metric.name()
            );
            assert!(
                missed <= 2,
                "{} dim {dim}: {missed} of 1000 neighbours skipped",
                metric.name()
            );
            assert!(share > 0.5, "{} dim {dim}: {share} skipped", metric.name());
        }
    }
}

/// Lists chosen through codes are the nearest ones.
#[test]
fn selects_the_nearest_lists() {
    let seed = seed();
    let mut rng = rng(seed);
    let dim = 300;
    let clusters = Clusters::new(&mut rng, dim, 100);
    let rows = clusters.draw(&mut rng, 4000);
    for metric in METRICS {
        let (store, index) = build(MemStore::new(), metric, dim, &rows, 400, seed);
        let mut missed = 0;
        for q in clusters.draw(&mut rng, 50).chunks_exact(dim) {
            let query = index.prepare(q).unwrap();
            let all = select_lists(&store, &index, &query, 400).unwrap();
            assert_eq!(all.len(), 400);
            let rank = |probe: &Probe| {
                if metric == omen_ivf::Metric::NegIp {
                    -probe.ip
                } else {
                    probe.l2sq
                }
            };
            assert!(all.windows(2).all(|w| rank(&w[0]) <= rank(&w[1])));
            for probes in [1, 5, 50] {
                let some = select_lists(&store, &index, &query, probes).unwrap();
                assert_eq!(some.len(), probes as usize);
                let lists: HashSet<u32> = some.iter().map(|probe| probe.list).collect();
                missed += all[..probes as usize]
                    .iter()
                    .filter(|probe| !lists.contains(&probe.list))
                    .count();
            }
        }
        assert!(missed <= 2, "{}: {missed} of 2800 lists", metric.name());
    }
}
