//! Indexes of sparse vectors: bounds against the operators for any numbers, and searches through insertion, deletion, folding and a check.

use std::collections::BTreeMap;

use half::f16;
use omen_distance::Sparse;
use omen_ivf::assign::{Assign, Assigner};
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::check::check;
use omen_ivf::fold::vacuum_fold;
use omen_ivf::form::RowForm;
use omen_ivf::form::sparse::{MAX_NNZ, input_of};
use omen_ivf::index::Index;
use omen_ivf::insert::insert;
use omen_ivf::kmeans::train;
use omen_ivf::layout::group::Filter;
use omen_ivf::layout::meta::{MetaPage, get_meta, put_meta};
use omen_ivf::mem_store::MemStore;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::store::PageStore;
use omen_ivf::write_index::{BuildEntry, IndexSpec, write_index};
use omen_ivf::{IvfError, Metric, Tid, VectorKind};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const METRICS: [Metric; 4] = [Metric::L2, Metric::NegIp, Metric::Cosine, Metric::L1];

fn rng() -> StdRng {
    let seed = match std::env::var("OMEN_TEST_SEED") {
        Ok(text) => text.parse().expect("OMEN_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("OMEN_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

#[derive(Debug, Clone, Default)]
struct Value {
    indices: Vec<i32>,
    x: Vec<f32>,
}

impl Value {
    fn input(&self, dim: u32) -> Vec<f32> {
        input_of(dim, &self.indices, &self.x)
    }
}

/// Up to `most` elements, of magnitudes around `scale`: of both signs; or of one, or all equal, where sums err most.
fn value(rng: &mut StdRng, dim: u32, most: usize, scale: f32) -> Value {
    let n = rng.random_range(0..=most.min(dim as usize));
    // Dimensions in common are what matters.
    let range = dim.min(3 * most as u32) as i32;
    let mut indices: Vec<i32> = (0..n).map(|_| rng.random_range(0..range)).collect();
    indices.sort_unstable();
    indices.dedup();
    let spread = rng.random_range(0..12);
    let mut number = || {
        let x = rng.random_range(0.1f32..1.0) * scale;
        x * 2f32.powi(-rng.random_range(0..=spread))
    };
    let mut x: Vec<f32> = indices.iter().map(|_| number()).collect();
    let term = number();
    match rng.random_range(0..4) {
        0 => (),
        1 => x.fill(term),
        _ => x.iter_mut().for_each(|x| {
            if rng.random() {
                *x = -*x;
            }
        }),
    }
    Value { indices, x }
}

/// As many elements as rows may have, all equal, in the first dimensions.
fn equal_terms(rng: &mut StdRng) -> Value {
    Value {
        indices: (0..MAX_NNZ as i32).collect(),
        x: vec![rng.random_range(0.1..1.0); MAX_NNZ],
    }
}

fn operator(metric: Metric, a: &Value, b: &Value) -> f64 {
    let sparse = |v: &Value| -> (Vec<i32>, Vec<f32>) { (v.indices.clone(), v.x.clone()) };
    let ((a_i, a_x), (b_i, b_x)) = (sparse(a), sparse(b));
    let a = Sparse {
        indices: &a_i,
        x: &a_x,
    };
    let b = Sparse {
        indices: &b_i,
        x: &b_x,
    };
    match metric {
        Metric::L2 => f64::from(a.l2sq(b)).sqrt(),
        Metric::NegIp => -f64::from(a.dot(b)),
        Metric::L1 => a.l1(b).into(),
        _ => {
            let norms = f64::from(a.norm_sq()) * f64::from(b.norm_sq());
            1.0 - (f64::from(a.dot(b)) / norms.sqrt()).clamp(-1.0, 1.0)
        }
    }
}

fn spec_of(form: &RowForm, seed: u64, centroids: Vec<f16>) -> IndexSpec {
    IndexSpec {
        kind: VectorKind::Sparse,
        entries: form.entries(),
        metric: form.metric(),
        dim: form.dim(),
        lists: centroids.len() as u32 / form.coarse_dim(),
        filter: Filter::None,
        lists_option: 0,
        scale_exp: form.scale_exp(),
        rotation_seed: seed,
        centroids,
        built_at: 1,
    }
}

fn tid(i: u32) -> Tid {
    Tid::new(i / 100, (i % 100) as u16 + 1)
}

/// Builds as CREATE INDEX does.
fn build(metric: Metric, dim: u32, values: &[Value], lists: usize, seed: u64) -> (MemStore, Index) {
    let inputs: Vec<f32> = values.iter().flat_map(|v| v.input(dim)).collect();
    let form = RowForm::for_sample(VectorKind::Sparse, metric, dim, seed, &inputs);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    let coarse_dim = form.coarse_dim() as usize;
    let sample = form.train_rows(&inputs).unwrap();
    let trained = train(&sample, coarse_dim, lists, seed, &pool, &mut || Ok(())).unwrap();
    let mut centroids = vec![f16::ZERO; trained.len()];
    omen_distance::f16_from_f32(&trained, &mut centroids);
    let mut entries: Vec<BuildEntry> = Vec::new();
    for (i, v) in (0..).zip(values) {
        if let Some(stored) = form.to_stored(&v.input(dim)).unwrap() {
            entries.push(BuildEntry {
                list: 0,
                tid: tid(i),
                err: stored.err,
                row: stored.row,
            });
        }
    }
    let flat: Vec<f16> = entries.iter().flat_map(|e| e.row.iter().copied()).collect();
    let assigned =
        Assigner::new(&centroids, coarse_dim, pool.into()).assign(&form.coarse_rows(&flat));
    for (entry, list) in entries.iter_mut().zip(assigned) {
        entry.list = list;
    }
    entries.sort_by_key(|entry| entry.list);
    let mut entries = entries.into_iter();
    let mut store = MemStore::new();
    let spec = spec_of(&form, seed, centroids);
    write_index(&mut store, &spec, &mut || Ok(entries.next()), &mut |_| ()).unwrap();
    let index = Index::open(&store).unwrap();
    assert_eq!(index.form, form);
    (store, index)
}

/// A search of all lists gives the order of the operator, and bounds hold.
fn compare(store: &MemStore, index: &Index, model: &BTreeMap<Tid, Value>, q: &Value) {
    let (dim, metric) = (index.meta.dim, index.metric());
    let query = index.prepare(&q.input(dim)).unwrap();
    assert_eq!(index.is_unordered(&q.input(dim)), query.unordered());
    if query.unordered() {
        return;
    }
    let mut stats = SearchStats::default();
    let found = search(
        store,
        index,
        &query,
        index.n_lists(),
        model.len(),
        &mut stats,
    )
    .unwrap();
    assert_eq!(found.items.len(), model.len());
    for item in &found.items {
        let value = operator(metric, q, &model[&item.tid]);
        let (low, high) = (index.lower_bound(item.key), index.upper_bound(item.ceiling));
        assert!(
            value.is_nan() || low <= value && value <= high,
            "{metric:?}: {value} not in {low} to {high}\n{q:?}\n{:?}",
            model[&item.tid]
        );
    }
}

#[test]
fn searches_through_changes() {
    let mut rng = rng();
    for (dim, most) in [
        (1, 1),
        (40, 40),
        (3000, 50),
        (1_000_000_000, 300),
        (50_000, 1500),
    ] {
        for metric in METRICS {
            for scale in [1.0, 1e-6, 1e8] {
                let n = if most > 1000 { 30 } else { 120 };
                let all: Vec<Value> = (0..2 * n)
                    .map(|_| value(&mut rng, dim, most, scale))
                    .collect();
                let (store, index) = build(metric, dim, &all[..n], 5, rng.random());
                let is_indexed = |v: &Value| metric != Metric::Cosine || !v.x.is_empty();
                let mut model: BTreeMap<Tid, Value> = (0..)
                    .map(tid)
                    .zip(all[..n].iter().cloned())
                    .filter(|(_, v)| is_indexed(v))
                    .collect();
                let mut queries =
                    || [&all[1], &all[n + 1], &all[rng.random_range(0..n)]].map(Clone::clone);
                for q in queries() {
                    compare(&store, &index, &model, &q);
                }
                for (i, v) in (n as u32..).zip(&all[n..]) {
                    assert_eq!(
                        insert(&store, &index, &v.input(dim), tid(i)).unwrap(),
                        is_indexed(v)
                    );
                    if is_indexed(v) {
                        model.insert(tid(i), v.clone());
                    }
                }
                let dead: Vec<Tid> = model.keys().copied().step_by(3).collect();
                bulk_delete(&store, &index, &mut |tid| dead.contains(&tid)).unwrap();
                model.retain(|tid, _| !dead.contains(tid));
                for q in queries() {
                    compare(&store, &index, &model, &q);
                }
                assert!(check(&store, &index).unwrap().is_sound());
                vacuum_fold(&store, &index).unwrap();
                for q in queries() {
                    compare(&store, &index, &model, &q);
                }
                let report = check(&store, &index).unwrap();
                assert!(report.is_sound(), "{:#?}", report.problems);
            }
        }
    }
}

/// Bounds of rows that keep all of their elements are close; of the number of elements that rows may have, for all kinds of numbers.
#[test]
fn bounds_hold_and_are_close() {
    let mut rng = rng();
    let dim = 20_000;
    for metric in METRICS {
        for most in [3, 100, 1000, MAX_NNZ] {
            let mut values: Vec<Value> = (0..30).map(|_| value(&mut rng, dim, most, 1.0)).collect();
            if most == MAX_NNZ {
                values[..5].fill_with(|| equal_terms(&mut rng));
            }
            let (store, index) = build(metric, dim, &values, 1, 7);
            let model: BTreeMap<Tid, Value> = (0..)
                .map(tid)
                .zip(values.iter().cloned())
                .filter(|(_, v)| metric != Metric::Cosine || !v.x.is_empty())
                .collect();
            for q in &values {
                compare(&store, &index, &model, q);
                if most > 1000 || q.x.is_empty() {
                    continue;
                }
                let query = index.prepare(&q.input(dim)).unwrap();
                let mut stats = SearchStats::default();
                let found = search(&store, &index, &query, 1, 30, &mut stats).unwrap();
                for item in found.items {
                    let v = &model[&item.tid];
                    let size = |v: &Value| v.x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
                    let norm = |v: &Value| {
                        v.x.iter()
                            .map(|&x| f64::from(x).powi(2))
                            .sum::<f64>()
                            .sqrt()
                    };
                    let unit = match metric {
                        Metric::L1 => size(q) + size(v),
                        Metric::NegIp => norm(q) * norm(v),
                        Metric::Cosine => 1.0,
                        _ => norm(q) + norm(v),
                    };
                    let width = index.upper_bound(item.ceiling) - index.lower_bound(item.key);
                    assert!(
                        width <= 0.02 * unit + 1e-30,
                        "{metric:?}, {most}: {width} of {unit}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_refused() {
    let mut rng = rng();
    let many = Value {
        indices: (0..=MAX_NNZ as i32).collect(),
        x: vec![1.0; MAX_NNZ + 1],
    };
    let values: Vec<Value> = (0..50).map(|_| value(&mut rng, 9000, 30, 1.0)).collect();
    let (store, index) = build(Metric::L2, 9000, &values, 3, 7);
    assert!(matches!(
        insert(&store, &index, &many.input(9000), tid(999)),
        Err(IvfError::Elements { .. })
    ));
    assert!(matches!(
        index.prepare(&values[0].input(9001)),
        Err(IvfError::Dimension {
            expected: 9000,
            found: 9001
        })
    ));
    // A query may have as many elements as it likes: nothing is promised of its distances, so that all are looked at.
    let query = index.prepare(&many.input(9000)).unwrap();
    let found = search(&store, &index, &query, 3, 5, &mut SearchStats::default()).unwrap();
    assert!(
        found
            .items
            .iter()
            .all(|item| index.lower_bound(item.key) == 0.0)
    );
    let changes: [&dyn Fn(&mut MetaPage); 6] = [
        &|meta| meta.metric = 5,
        &|meta| meta.filter = 2,
        &|meta| meta.dim = 1_000_000_001,
        &|meta| meta.row_words += 1,
        &|meta| meta.row_words = 0,
        &|meta| meta.coarse_dim = 9000,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut page = store.read(0, |page| page.to_vec()).unwrap();
        let mut meta = index.meta;
        change(&mut meta);
        put_meta(&mut page, &meta);
        assert!(
            matches!(get_meta(&page), Err(IvfError::Corrupt { .. })),
            "change {i}"
        );
    }
}

/// A row as layout/README.md has it, and what a check finds in one that is not.
#[test]
fn rows_as_documented() {
    let form = RowForm::new(VectorKind::Sparse, Metric::L2, 100_000, 3, 1).with_entries(4);
    let v = Value {
        indices: vec![2, 70_000, 90_000],
        x: vec![1.0, -2.0, 0.25],
    };
    let stored = form.to_stored(&v.input(100_000)).unwrap().unwrap();
    let bits: Vec<u16> = stored.row.iter().map(|x| x.to_bits()).collect();
    assert_eq!(bits[..4], [2, 70_000u32 as u16, 90_000u32 as u16, 0xFFFF]);
    assert_eq!(bits[4..8], [0, 1, 1, 0xFFFF]);
    let x: Vec<f32> = stored.row[8..].iter().map(|x| x.to_f32()).collect();
    assert_eq!(x, [8.0, -16.0, 2.0, 0.0]);
    assert_eq!(stored.err, 0.0);
    // Of more elements the smallest go, into the radius.
    let form = form.with_entries(2);
    let cut = form.to_stored(&v.input(100_000)).unwrap().unwrap();
    assert!((2.0..2.001).contains(&cut.err), "{}", cut.err);

    for (at, bits) in [(3, 0xFFFF), (5, 0), (4, 0x7C00), (2, 9)] {
        let mut row = cut.row.clone();
        row[at] = f16::from_bits(bits);
        let mut spec = spec_of(&form, 1, vec![f16::ZERO; form.coarse_dim() as usize]);
        spec.lists = 1;
        let mut entries = vec![BuildEntry {
            list: 0,
            tid: tid(0),
            err: 2.1,
            row,
        }]
        .into_iter();
        let mut store = MemStore::new();
        write_index(&mut store, &spec, &mut || Ok(entries.next()), &mut |_| ()).unwrap();
        let report = check(&store, &Index::open(&store).unwrap()).unwrap();
        assert!(!report.is_sound(), "word {at} = {bits:#x}");
    }
}
