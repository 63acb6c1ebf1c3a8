//! With all lists probed the executor returns exactly what brute force returns, in its order.

mod common;

use std::collections::BTreeMap;

use common::executor::{Scan, execute, float8_cmp};
use common::{Clusters, METRICS, build, build_from, normals, operator, rng, row_of, seed, tid};
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::coarse::{probes_of, select_lists};
use omen_ivf::fold::vacuum_fold;
use omen_ivf::index::Index;
use omen_ivf::insert::insert;
use omen_ivf::mem_store::MemStore;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::stored::{Scaling, scale_sample};
use omen_ivf::{Metric, Tid};
use rand::Rng;
use rand::rngs::StdRng;

/// The rows of a table.
type Table = BTreeMap<Tid, Vec<f32>>;

fn table(rows: &[f32], dim: usize) -> Table {
    rows.chunks_exact(dim)
        .enumerate()
        .map(|(i, v)| (tid(i), v.to_vec()))
        .collect()
}

/// Compares a scan of all lists with brute force: the first `limit` rows, equal values in any order.
fn check_exact(store: &MemStore, index: &Index, table: &Table, q: &[f32], k: usize, limit: usize) {
    let metric = index.metric();
    let indexed = |v: &[f32]| metric != Metric::Cosine || v.iter().any(|&x| x != 0.0);
    let mut expected: Vec<(f64, Tid)> = table
        .iter()
        .filter(|(_, v)| indexed(v))
        .map(|(&tid, v)| (operator(metric, q, v), tid))
        .collect();
    expected.sort_by(|a, b| float8_cmp(a.0, b.0));
    let query = index.prepare(q).unwrap();
    let scan = Scan::new(store, index, &query, index.n_lists(), k);
    let found = execute(scan, limit, |tid| operator(metric, q, &table[&tid]));
    assert_eq!(
        found.len(),
        limit.min(expected.len()),
        "rows of {}",
        metric.name()
    );
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(
            float8_cmp(found.0, expected.0).is_eq(),
            "row {i} of {}: {found:?}, expected {expected:?}",
            metric.name()
        );
    }
}

fn queries(rng: &mut StdRng, rows: &[f32], dim: usize) -> Vec<Vec<f32>> {
    let row = rng.random_range(0..rows.len() / dim);
    let near: Vec<f32> = rows[row * dim..][..dim].iter().map(|x| x * 1.01).collect();
    vec![rows[row * dim..][..dim].to_vec(), near, normals(rng, dim)]
}

#[test]
fn exact_over_dimensions_and_metrics() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [1, 2, 3, 31, 64, 100, 256, 300, 768, 4100] {
        let n = if dim > 1000 { 150 } else { 700 };
        let rows = Clusters::new(&mut rng, dim, 7).draw(&mut rng, n);
        for metric in METRICS {
            let lists = rng.random_range(1..25);
            let store = if rng.random_bool(0.5) {
                MemStore::new()
            } else {
                MemStore::fragmented(seed)
            };
            let (store, index) = build(store, metric, dim, &rows, lists, seed);
            let table = table(&rows, dim);
            for q in queries(&mut rng, &rows, dim) {
                check_exact(
                    &store,
                    &index,
                    &table,
                    &q,
                    rng.random_range(1..20),
                    usize::MAX,
                );
                check_exact(&store, &index, &table, &q, 1000, 50);
            }
        }
    }
}

/// Many equal rows, rows that differ in the last bit, few distinct values.
#[test]
fn exact_with_duplicates() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [2, 40, 300] {
        let base = normals(&mut rng, 5 * dim);
        let mut rows = Vec::new();
        for _ in 0..600 {
            let from = rng.random_range(0..5) * dim;
            let nudge = rng.random_bool(0.3);
            rows.extend(
                base[from..from + dim]
                    .iter()
                    .map(|x| if nudge { x.next_up() } else { *x }),
            );
        }
        for metric in METRICS {
            let (store, index) = build(MemStore::new(), metric, dim, &rows, 12, seed);
            for q in queries(&mut rng, &rows, dim) {
                check_exact(&store, &index, &table(&rows, dim), &q, 3, usize::MAX);
            }
        }
        let equal = base[..dim].repeat(300);
        for metric in METRICS {
            let (store, index) = build(MemStore::new(), metric, dim, &equal, 10, seed);
            check_exact(
                &store,
                &index,
                &table(&equal, dim),
                &normals(&mut rng, dim),
                7,
                usize::MAX,
            );
        }
    }
}

/// Data that leaves the range its index was scaled for, in both directions, and zero vectors.
#[test]
fn exact_with_unruly_numbers() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [3, 70, 260] {
        for metric in METRICS {
            let mut rows = normals(&mut rng, 400 * dim);
            for (i, row) in rows.chunks_exact_mut(dim).enumerate() {
                let factor = match i % 8 {
                    0 => 0.0,
                    1 => 1e-38,
                    2 => 1e5,
                    3 => 1e19,
                    4 => 1e37,
                    5 => 1e-7,
                    _ => 1.0,
                };
                row.iter_mut().for_each(|x| *x *= factor);
            }
            let scaling = Scaling {
                metric,
                dim: dim as u32,
                scale_exp: 6,
            };
            let sample = scale_sample(&scaling, &normals(&mut rng, 50 * dim)).unwrap();
            let (store, index) = build_from(MemStore::new(), scaling, &sample, &rows, 9, seed);
            for factor in [0.0, 1.0, 1e-30, 1e18, 1e38] {
                let q: Vec<f32> = normals(&mut rng, dim)
                    .iter()
                    .map(|x| x.clamp(-3.0, 3.0) * factor)
                    .collect();
                check_exact(&store, &index, &table(&rows, dim), &q, 16, usize::MAX);
            }
        }
    }
}

/// An index that lives: inserted, deleted and folded entries, lists without any.
#[test]
fn exact_after_changes() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [5, 100, 256, 4100] {
        let n = if dim > 1000 { 60 } else { 400 };
        for metric in METRICS {
            let clusters = Clusters::new(&mut rng, dim, 5);
            let rows = clusters.draw(&mut rng, n);
            let (store, index) = build(MemStore::new(), metric, dim, &rows, 15, seed);
            let mut table = table(&rows, dim);
            let mut next = n;
            for round in 0..4 {
                for v in clusters.draw(&mut rng, n / 3).chunks_exact(dim) {
                    assert!(insert(&store, &index, v, tid(next)).unwrap());
                    table.insert(tid(next), v.to_vec());
                    next += 1;
                }
                // The first cluster of rows to go takes whole lists with it.
                let share = if round == 2 { 0.95 } else { 0.2 };
                let dead: Vec<Tid> = table
                    .keys()
                    .copied()
                    .filter(|_| rng.random_bool(share))
                    .collect();
                bulk_delete(&store, &index, &mut |tid| dead.contains(&tid)).unwrap();
                table.retain(|tid, _| !dead.contains(tid));
                if round % 2 == 1 {
                    vacuum_fold(&store, &index).unwrap();
                }
                let q = clusters.draw(&mut rng, 1);
                check_exact(&store, &index, &table, &q, 10, usize::MAX);
            }
        }
    }
}

#[test]
fn empty_index_and_small_ones() {
    let seed = seed();
    let mut rng = rng(seed);
    for metric in METRICS {
        let (store, index) = build(MemStore::new(), metric, 6, &[], 5, seed);
        let mut table = Table::new();
        let q = normals(&mut rng, 6);
        check_exact(&store, &index, &table, &q, 10, 10);
        for i in 0..40 {
            let v = normals(&mut rng, 6);
            insert(&store, &index, &v, tid(i)).unwrap();
            table.insert(tid(i), v);
            check_exact(&store, &index, &table, &q, 10, usize::MAX);
        }
    }
}

/// Whatever k and probes: the answer is the head of the visited entries' order, and the frontier bounds the rest.
#[test]
fn frontier_bounds_what_is_missing() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [20, 256] {
        let clusters = Clusters::new(&mut rng, dim, 10);
        let rows = clusters.draw(&mut rng, 2000);
        for metric in METRICS {
            let (store, index) = build(MemStore::new(), metric, dim, &rows, 30, seed);
            let query = index.prepare(&clusters.draw(&mut rng, 1)).unwrap();
            let all = search(
                &store,
                &index,
                &query,
                30,
                5000,
                &mut SearchStats::default(),
            )
            .unwrap();
            assert_eq!((all.items.len(), all.frontier), (2000, f32::INFINITY));
            for k in [1, 2, 7, 8, 9, 100, 1999, 2000, 2001] {
                let found =
                    search(&store, &index, &query, 30, k, &mut SearchStats::default()).unwrap();
                assert_eq!(found.items.len(), k.min(2000));
                let rest = &all.items[k.min(2000)..];
                assert!(rest.iter().all(|item| item.key >= found.frontier));
                assert_eq!(rest.is_empty(), found.frontier == f32::INFINITY);
                let keys = |items: &[omen_ivf::topk::Candidate]| {
                    items.iter().map(|i| i.key).collect::<Vec<_>>()
                };
                assert_eq!(keys(&found.items), keys(&all.items[..k.min(2000)]));
            }
            let some =
                search(&store, &index, &query, 3, 5000, &mut SearchStats::default()).unwrap();
            assert!(some.items.len() < 2000 && some.frontier == f32::INFINITY);
            assert!(some.items.iter().all(|item| row_of(item.tid) < 2000));
        }
    }
}

#[test]
fn wrong_dimension_is_an_error() {
    let (_, index) = build(MemStore::new(), Metric::L2, 3, &[1.0, 2.0, 3.0], 1, 1);
    let expected = omen_ivf::IvfError::Dimension {
        expected: 3,
        found: 2,
    };
    assert_eq!(index.prepare(&[1.0, 2.0]).unwrap_err(), expected);
    assert_eq!(index.to_stored(&[1.0, 2.0]).unwrap_err(), expected);
}

#[test]
fn a_query_for_a_device_is_that_of_the_cpu() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [3, 20, 600] {
        let rows = normals(&mut rng, 300 * dim);
        for metric in METRICS {
            let (_, index) = build(MemStore::new(), metric, dim, &rows, 5, seed);
            let mut out = vec![f32::NAN; dim];
            for q in queries(&mut rng, &rows, dim) {
                let query = index.prepare(&q).unwrap();
                let bound = index.prepare_into(&q, &mut out).unwrap();
                assert_eq!(out, query.vector(), "seed {seed}");
                assert_eq!(index.is_unordered(&q), query.unordered(), "seed {seed}");
                if let Some(bound) = bound {
                    assert_eq!(&bound, query.bound());
                    assert!(bound.is_plain() && bound.q_err().is_finite() && !query.unordered());
                }
            }
            // What the formula of the keys says nothing of.
            let bad: &[f32] = match metric {
                Metric::L2 => &[1e30],
                Metric::Cosine => &[0.0, 1e25],
                Metric::NegIp => &[1e30],
                _ => &[1e25, 1e38],
            };
            for &x in bad {
                let q = vec![x; dim];
                assert_eq!(
                    index.prepare_into(&q, &mut out).unwrap(),
                    None,
                    "{metric:?} {x}"
                );
                assert!(out.iter().all(|x| x.is_finite()));
            }
            let ordinary = vec![0.5; dim];
            let bound = index.prepare_into(&ordinary, &mut out).unwrap();
            assert!(bound.is_some(), "{metric:?}");
        }
    }
}

#[test]
fn lists_given_are_measured_as_those_chosen() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [20, 100, 600] {
        let rows = normals(&mut rng, 300 * dim);
        for metric in METRICS {
            let (store, index) = build(MemStore::new(), metric, dim, &rows, 12, seed);
            for q in queries(&mut rng, &rows, dim) {
                let query = index.prepare(&q).unwrap();
                let chosen = select_lists(&store, &index, &query, 5).unwrap();
                let lists: Vec<u32> = chosen.iter().map(|probe| probe.list).collect();
                let given = probes_of(&store, &index, &query, &lists).unwrap();
                for (given, chosen) in given.iter().zip(&chosen) {
                    assert_eq!(
                        (given.list, given.ip),
                        (chosen.list, chosen.ip),
                        "seed {seed}"
                    );
                    // Without codes nothing needs it under NegIp.
                    assert!(
                        chosen.l2sq == 0.0 || given.l2sq == chosen.l2sq,
                        "seed {seed}"
                    );
                }
            }
        }
    }
}
