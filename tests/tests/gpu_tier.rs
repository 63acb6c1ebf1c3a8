//! From pages to device and back: an index is built, loaded into a hot tier, and searched there. Checked against the SQL
//! operators over the rows as the user wrote them. On the simulated device always, on a real one if there is one.

#[path = "../../crates/ivf/tests/bit_world/mod.rs"]
mod bit_world;
#[path = "gpu_tier/bits.rs"]
mod bits;
#[path = "../../crates/ivf/tests/common/mod.rs"]
mod common;

use common::{Clusters, METRICS, build, normals, operator, rng, row_of, seed};
use half::f16;
use omen_gpu::memory::Parts;
use omen_gpu::{Copiers, Gpu, GpuError, LoadError, Tier, TierBuilder, TierQuery, TierSpec};
use omen_ivf::Metric;
use omen_ivf::coarse::select_lists;
use omen_ivf::export::export_list;
use omen_ivf::index::Index;
use omen_ivf::mem_store::MemStore;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::topk::Candidates;
use std::collections::HashSet;
use std::time::Duration;

/// The simulated device, and the first real one or the reason why there is none.
fn devices() -> Vec<Gpu> {
    let mut devices = vec![Gpu::open_simulated()];
    match Gpu::open(0) {
        Ok(gpu) => devices.push(gpu),
        Err(error) => println!("skipped: {error}"),
    }
    devices
}

/// Loads all lists; returns which rows each list holds as well.
fn load(gpu: &Gpu, store: &MemStore, index: &Index) -> Result<(Tier, Vec<Vec<usize>>), GpuError> {
    let spec = TierSpec::of(index);
    let parts = Parts::of(index.meta.shape().filter);
    let copiers = Copiers::with_threads(1);
    let mut builder = TierBuilder::with_parts(gpu, spec, parts, 10_000, 1 << 30, copiers)?;
    let lists: Vec<u32> = (0..index.n_lists()).collect();
    match builder.load_lists(store, index, &lists) {
        Err(LoadError::Gpu(error)) => return Err(error),
        loaded => loaded.expect("the index can be read"),
    }
    let rows_of = |&list: &u32| {
        let mut rows = Vec::new();
        let mut take = |_, tid, _, _, _: &[f16]| rows.push(row_of(tid));
        export_list(store, index, list, &mut take).expect("the index can be read");
        rows
    };
    let rows = lists.iter().map(rows_of).collect();
    Ok((builder.finish()?, rows))
}

/// Nothing the tier says contradicts the operator, and nothing near is missing.
fn check(
    index: &Index,
    found: &Candidates,
    rows: &HashSet<usize>,
    value: impl Fn(usize) -> f64,
    k: usize,
    what: &str,
) {
    let came: HashSet<usize> = found.items.iter().map(|item| row_of(item.tid)).collect();
    assert_eq!(came.len(), found.items.len(), "{what}: a row came twice");
    assert!(came.is_subset(rows), "{what}: a row of another list");
    assert!(
        came.len() >= k.min(rows.len()),
        "{what}: {} rows",
        came.len()
    );
    for item in &found.items {
        let (bound, exact) = (index.lower_bound(item.key), value(row_of(item.tid)));
        assert!(bound <= exact, "{what}: bound {bound} above {exact}");
    }
    let frontier = index.lower_bound(found.frontier);
    for &row in rows.difference(&came) {
        assert!(
            value(row) >= frontier,
            "{what}: row {row} of {} left out before {frontier}",
            value(row)
        );
    }
}

#[test]
fn a_tier_answers_as_the_operators_do() {
    let seed = seed();
    let mut rng = rng(seed);
    for gpu in devices() {
        for metric in METRICS {
            for dim in [3, 100, 300, 600] {
                let clusters = Clusters::new(&mut rng, dim, 12);
                let rows = clusters.draw(&mut rng, 3000);
                let (store, index) = build(MemStore::new(), metric, dim, &rows, 12, seed);
                let (tier, of_list) = load(&gpu, &store, &index).expect("the tier fits");
                for probes in [1, 4, 12] {
                    let k = 10;
                    let vector: Vec<f32> = if probes == 4 {
                        normals(&mut rng, dim)
                    } else {
                        clusters.draw(&mut rng, 1)
                    };
                    let query = index
                        .prepare(&vector)
                        .expect("a query of the index's dimension");
                    let lists: Vec<u32> = select_lists(&store, &index, &query, probes)
                        .expect("lists")
                        .iter()
                        .map(|p| p.list)
                        .collect();
                    let bound = query.bound();
                    assert!(bound.is_plain());
                    let asked = TierQuery {
                        q: query.vector(),
                        q_norm: bound.q_norm(),
                        q_err: bound.q_err(),
                        lists: &lists,
                        k,
                    };
                    let found = tier
                        .search(
                            &[asked],
                            bound.rounding(),
                            Duration::from_secs(30),
                            &mut || Ok(()),
                        )
                        .expect("the search succeeds")
                        .remove(0);
                    let probed: HashSet<usize> = lists
                        .iter()
                        .flat_map(|&l| of_list[l as usize].iter().copied())
                        .collect();
                    let what = format!("{} dim {dim} probes {probes}", metric.name());
                    let value =
                        |row: usize| operator(metric, &vector, &rows[row * dim..(row + 1) * dim]);
                    check(&index, &found, &probed, value, k, &what);
                    if probes == 12 && metric != Metric::NegIp {
                        // The CPU's exact search finds the same nearest rows (as far as its own bounds tell them apart).
                        let cpu =
                            search(&store, &index, &query, 12, k, &mut SearchStats::default())
                                .expect("search");
                        for (a, b) in cpu.items.iter().zip(&found.items) {
                            assert!(
                                (a.key - b.key).abs() <= 1e-4 * (1.0 + a.key.abs()),
                                "{what}: {a:?}, tier {b:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}
