//! Indexes of strings of bits: searches against a count bit by bit, through insertion, deletion, folding and a check, and what their pages hold.

mod bit_world;

use std::collections::BTreeMap;

use bit_world::{METRICS, build, input, operator, rng, spec_of, strings, tid};
use half::f16;
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::check::check;
use omen_ivf::fold::{fold_list, vacuum_fold};
use omen_ivf::form::RowForm;
use omen_ivf::index::Index;
use omen_ivf::insert::insert;
use omen_ivf::layout::meta::{get_meta, put_meta};
use omen_ivf::mem_store::MemStore;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::settle::Settler;
use omen_ivf::store::PageStore;
use omen_ivf::write_index::{BuildEntry, write_index};
use omen_ivf::{IvfError, Metric, Tid, VectorKind};
use rand::Rng;
use rand::rngs::StdRng;

const DIMS: [u32; 12] = [1, 7, 8, 16, 17, 63, 64, 65, 1000, 2048, 2049, 64_000];

/// All rows of the model in the order of the operator, by a search of all lists; bounds hold.
fn compare(store: &MemStore, index: &Index, model: &BTreeMap<Tid, Vec<bool>>, q: &[bool]) {
    let query = index.prepare(&input(q)).unwrap();
    let k = model.len();
    let mut stats = SearchStats::default();
    let found = search(store, index, &query, index.n_lists(), k, &mut stats).unwrap();
    assert_eq!(found.items.len(), k);
    for item in &found.items {
        let value = operator(index.metric(), q, &model[&item.tid]);
        let (low, high) = (index.lower_bound(item.key), index.upper_bound(item.ceiling));
        assert!(
            low <= value && value <= high,
            "{value} not in {low} to {high}"
        );
        assert!(high - low < 1e-6, "{low} to {high}");
        // What many rows share, as that they have nothing in common, is known exactly.
        if [0.0, 0.5, 0.75, 1.0].contains(&value) || index.metric() == Metric::Hamming {
            assert_eq!((low, high), (value, value));
        }
    }
    if index.metric() == Metric::Hamming {
        // Counts are exact, and equal ones come in any order.
        let mut settler = Settler::default();
        let next_keys = found.items[1..].iter().map(|next| next.key);
        for (item, next_key) in found.items.iter().zip(next_keys.chain([f32::INFINITY])) {
            assert!(settler.settles(index, item, next_key));
        }
    }
    let mut wanted: Vec<f64> = model
        .values()
        .map(|s| operator(index.metric(), q, s))
        .collect();
    wanted.sort_by(f64::total_cmp);
    for (item, wanted) in found.items.iter().zip(&wanted) {
        assert!(index.lower_bound(item.key) <= *wanted);
    }
    let n = k.min(10);
    let few = search(store, index, &query, index.n_lists(), n, &mut stats).unwrap();
    for (item, wanted) in few.items.iter().zip(&wanted) {
        let value = operator(index.metric(), q, &model[&item.tid]);
        assert!((value - wanted).abs() < 1e-6, "{value} for {wanted}");
    }
}

#[test]
fn searches_through_changes() {
    let mut rng = rng();
    for dim in DIMS {
        for metric in METRICS {
            let n = if dim > 10_000 { 60 } else { 300 };
            let all = strings(&mut rng, dim, 2 * n);
            let (store, index) = build(metric, dim, &all[..n], rng.random());
            let mut model: BTreeMap<Tid, Vec<bool>> =
                (0..).map(tid).zip(all[..n].iter().cloned()).collect();
            let queries = |rng: &mut StdRng| {
                [
                    all[rng.random_range(0..all.len())].clone(),
                    vec![false; dim as usize],
                    vec![true; dim as usize],
                ]
            };
            for q in queries(&mut rng) {
                compare(&store, &index, &model, &q);
            }
            for (i, string) in (n as u32..).zip(&all[n..]) {
                assert!(insert(&store, &index, &input(string), tid(i)).unwrap());
                model.insert(tid(i), string.clone());
            }
            let dead: Vec<Tid> = model
                .keys()
                .copied()
                .filter(|_| rng.random_bool(0.3))
                .collect();
            bulk_delete(&store, &index, &mut |tid| dead.contains(&tid)).unwrap();
            model.retain(|tid, _| !dead.contains(tid));
            for q in queries(&mut rng) {
                compare(&store, &index, &model, &q);
            }
            let report = check(&store, &index).unwrap();
            assert!(report.is_sound(), "dim {dim}: {:#?}", report.problems);
            vacuum_fold(&store, &index).unwrap();
            fold_list(&store, &index, rng.random_range(0..index.n_lists())).unwrap();
            for q in queries(&mut rng) {
                compare(&store, &index, &model, &q);
            }
            let report = check(&store, &index).unwrap();
            assert!(report.is_sound(), "dim {dim}: {:#?}", report.problems);
        }
    }
}

#[test]
fn lists_near_the_query_hold_its_neighbours() {
    let mut rng = rng();
    for dim in [256, 1024, 3000] {
        for metric in METRICS {
            let all = strings(&mut rng, dim, 1200);
            let (store, index) = build(metric, dim, &all[..1000], rng.random());
            let mut n_found = 0;
            for q in &all[1000..] {
                let query = index.prepare(&input(q)).unwrap();
                let mut stats = SearchStats::default();
                let few = search(&store, &index, &query, 2, 10, &mut stats).unwrap();
                let mut values: Vec<f64> =
                    all[..1000].iter().map(|s| operator(metric, q, s)).collect();
                values.sort_by(f64::total_cmp);
                n_found += few
                    .items
                    .iter()
                    .filter(|item| index.lower_bound(item.key) <= values[9])
                    .count();
            }
            assert!(n_found >= 1800, "{metric:?}, {dim} bits: {n_found} of 2000");
        }
    }
}

/// By the offsets of layout/README.md alone.
#[test]
fn pages_as_documented() {
    let mut rng = rng();
    for dim in [1, 16, 100, 5000] {
        let all = strings(&mut rng, dim, 40);
        let seed = rng.random();
        let (store, index) = build(Metric::Jaccard, dim, &all, seed);
        let u32_at =
            |page: &[u8], at: usize| u32::from_ne_bytes(page[at..at + 4].try_into().unwrap());
        store
            .read(0, |page| {
                assert_eq!(u32_at(page, 72), 6);
                assert_eq!(u32_at(page, 76), dim);
                assert_eq!(u32_at(page, 88), 0);
                assert_eq!(u32_at(page, 92), 2);
                assert_eq!(u32_at(page, 1496), dim.div_ceil(16));
                assert_eq!(u32_at(page, 1500), if dim <= 2048 { dim } else { 1024 });
            })
            .unwrap();
        // Of list 0 the rows, packed, the first bit the highest of the first byte.
        let directory = index.meta.directory.start;
        let (count, start) = store
            .read(directory, |page| {
                (u32_at(page, 64 + 8), u32_at(page, 64 + 24))
            })
            .unwrap();
        let bytes = 2 * dim.div_ceil(16) as usize;
        let rows = (8064 / bytes).min(count as usize);
        let packed = |string: &Vec<bool>| -> Vec<u8> {
            let mut out = vec![0u8; bytes];
            for (i, _) in string.iter().enumerate().filter(|(_, bit)| **bit) {
                out[i / 8] |= 1 << (7 - i % 8);
            }
            out
        };
        let known: Vec<Vec<u8>> = all.iter().map(packed).collect();
        store
            .read(start, |page| {
                for row in page[64..][..rows * bytes].chunks_exact(bytes) {
                    assert!(known.iter().any(|known| known == row));
                }
            })
            .unwrap();
    }
}

#[test]
fn metapages_that_cannot_be_are_refused() {
    let mut rng = rng();
    let all = strings(&mut rng, 100, 50);
    let (store, index) = build(Metric::Hamming, 100, &all, 1);
    let changes: [&dyn Fn(&mut omen_ivf::layout::meta::MetaPage); 9] = [
        &|meta| meta.metric = 1,
        &|meta| meta.metric = 4,
        &|meta| meta.vector_kind = 1,
        &|meta| meta.vector_kind = 9,
        &|meta| meta.filter = 1,
        &|meta| meta.dim = 64_001,
        &|meta| meta.row_words += 1,
        &|meta| meta.coarse_dim = 1,
        &|meta| meta.scale_exp = 3,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut page = store.read(0, |page| page.to_vec()).unwrap();
        let mut meta = index.meta;
        change(&mut meta);
        put_meta(&mut page, &meta);
        let outcome = get_meta(&page);
        assert!(
            matches!(outcome, Err(IvfError::Corrupt { .. })),
            "change {i}"
        );
    }
    assert!(matches!(
        index.prepare(&input(&[true; 99])),
        Err(IvfError::Dimension {
            expected: 100,
            found: 99
        })
    ));
}

#[test]
fn a_check_finds_stray_bits() {
    let mut rng = rng();
    let all = strings(&mut rng, 100, 50);
    let mut spec = spec_of(Metric::Hamming, 100, 1, vec![f16::ZERO; 100]);
    spec.lists = 1;
    let mut row = index_row(&all[1]);
    // Bits 96 to 111 share a word, of which four are in use.
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut row);
    bytes[13] |= 1;
    let mut entries = vec![BuildEntry {
        list: 0,
        tid: tid(0),
        err: 0.0,
        row,
    }]
    .into_iter();
    let mut store = MemStore::new();
    write_index(&mut store, &spec, &mut || Ok(entries.next()), &mut |_| ()).unwrap();
    let report = check(&store, &Index::open(&store).unwrap()).unwrap();
    assert!(
        report
            .problems
            .iter()
            .any(|f| f.what.contains("bits beyond the last"))
    );
}

fn index_row(string: &[bool]) -> Vec<f16> {
    let form = RowForm::new(VectorKind::Bits, Metric::Hamming, string.len() as u32, 0, 1);
    form.to_stored(&input(string)).unwrap().unwrap().row
}
