//! Indexes of strings of bits: the tier's keys are those of the operators, whatever way it is searched, and the CPU's.

use crate::bit_world::{METRICS, build, input, operator, rng, strings, tid};
use crate::devices;
use omen_gpu::batch::tuning::Tuning;
use omen_gpu::memory::Parts;
use omen_gpu::params::QueryBound;
use omen_gpu::{Batch, BatchFound, Copiers, Gpu, Lists, Source, Tier, TierBuilder, TierSpec};
use omen_gpu::{LockedQueries, TierQuery};
use omen_ivf::Metric;
use omen_ivf::Tid;
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::coarse::select_lists;
use omen_ivf::export::export_list;
use omen_ivf::index::{Index, read_entry, see_list, see_lists};
use omen_ivf::insert::insert;
use omen_ivf::list_reader::ListReader;
use omen_ivf::mem_store::MemStore;
use omen_ivf::query::Query;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::topk::{Candidate, Candidates};
use rand::Rng;
use std::collections::BTreeMap;
use std::time::Duration;

type Model = BTreeMap<Tid, Vec<bool>>;

fn load(gpu: &Gpu, store: &MemStore, index: &Index) -> Tier {
    let (spec, copiers) = (TierSpec::of(index), Copiers::with_threads(1));
    let mut builder =
        TierBuilder::with_parts(gpu, spec, Parts::Rows, 10_000, 1 << 30, copiers).unwrap();
    builder.align_lists();
    let lists: Vec<u32> = (0..index.n_lists()).collect();
    builder.load_centroids(store, index).unwrap();
    builder.load_lists(store, index, &lists).unwrap();
    builder.finish().unwrap()
}

/// Brings a tier up to date, in place where there is room.
fn refresh(tier: &mut Tier, store: &MemStore, index: &Index) {
    let begun = tier.begin_refresh().unwrap();
    let mut builder = TierBuilder::refresh(begun, Copiers::none()).unwrap();
    let lists: Vec<u32> = (0..index.n_lists()).collect();
    let seen = see_lists(store, index, &lists).unwrap();
    let as_seen = lists.iter().copied().zip(seen);
    let left = builder.renew_lists(store, index, as_seen, None).unwrap();
    builder.load_lists(store, index, &left).unwrap();
    // Where there was no room in place for all that was appended.
    let lacks = |&list: &u32| {
        let seen = see_list(store, index, list).unwrap();
        let here = builder.lists()[list as usize].expect("all lists are there");
        let mut reader = ListReader::new();
        let all = reader.appended_up_to(store, index, list, &seen, usize::MAX, 0, |_, _, _, _| ());
        all.unwrap() != Some(here.appended)
    };
    let behind: Vec<u32> = lists.iter().copied().filter(lacks).collect();
    builder.load_lists(store, index, &behind).unwrap();
    tier.end_refresh(builder.end().unwrap().lists).unwrap();
}

/// Keys and ceilings are the operator's values, or next to them, and nothing nearer was left out of the model.
fn check(index: &Index, found: &Candidates, model: &Model, q: &[bool], k: usize, what: &str) {
    let n = found.items.len();
    assert!(n >= k.min(model.len()), "{what}: {n} of {}", model.len());
    assert!(found.items.is_sorted_by_key(|c| (c.key, c.tid)), "{what}");
    let mut met = BTreeMap::new();
    for item in &found.items {
        let string = model.get(&item.tid).expect("a row of these lists");
        let value = operator(index.metric(), q, string);
        let (low, high) = (index.lower_bound(item.key), index.upper_bound(item.ceiling));
        assert!(
            low <= value && value <= high,
            "{what}: {value} not in {low} to {high}"
        );
        assert!(high - low < 1e-6, "{what}: {low} to {high}");
        assert!(
            met.insert(item.tid, ()).is_none(),
            "{what}: a row came twice"
        );
    }
    let frontier = index.lower_bound(found.frontier);
    for (tid, string) in model.iter().filter(|(tid, _)| !met.contains_key(tid)) {
        let value = operator(index.metric(), q, string);
        assert!(
            value >= frontier,
            "{what}: {tid:?} of {value} left out before {frontier}"
        );
    }
}

/// Searches a batch of queries, as they are filled in or where the device reads them.
fn search_batch(
    gpu: &Gpu,
    tier: &Tier,
    index: &Index,
    inputs: &[Vec<f32>],
    lists: Lists,
    (k, is_locked): (usize, bool),
) -> BatchFound {
    let words = index.query_words();
    let mut write = |first: usize, to: &mut [f32], bounds: &mut [QueryBound]| {
        let queries = to.chunks_exact_mut(words).zip(&inputs[first..]);
        for ((to, input), bound) in queries.zip(bounds) {
            let prepared = index.prepare_into(input, to).expect("of its length");
            *bound = QueryBound::from(&prepared.expect("for devices"));
        }
    };
    let mut locked = LockedQueries::new(gpu, inputs.len(), words).unwrap();
    let (to, bounds) = locked.parts_mut();
    write(0, to, bounds);
    let mut batch = Batch {
        n_queries: inputs.len(),
        source: match is_locked {
            true => Source::Locked(&locked, 0),
            false => Source::Fill(&mut write),
        },
        lists,
        skipped: &[],
        k,
        want_lists: true,
        tuning: Tuning::default(),
    };
    let g = omen_ivf::bound::rounding(index.meta.dim);
    tier.search_batch(&mut batch, g, Duration::from_secs(60), &mut || Ok(()))
        .unwrap()
}

/// The answer to query `q` of a batch.
fn answer(found: &BatchFound, q: usize) -> Candidates {
    assert_eq!(found.heads[q].overflow, 0);
    let items = found.of(q).iter().map(|f| Candidate {
        key: f.key,
        ceiling: f.ceiling,
        tid: Tid {
            block: f.tid_block,
            offset: f.tid_offset,
        },
    });
    Candidates {
        items: items.collect(),
        frontier: found.heads[q].frontier,
    }
}

/// The rows of some lists, those that were appended included.
fn of_lists(store: &MemStore, index: &Index, model: &Model, lists: &[u32]) -> Model {
    let mut here = Model::new();
    let mut add = |tid, live| {
        if live {
            here.insert(tid, model[&tid].clone());
        }
    };
    for &list in lists {
        export_list(store, index, list, &mut |_, tid, live, _, _| add(tid, live)).unwrap();
        let entry = read_entry(store, index, list).unwrap();
        ListReader::new()
            .appended_up_to(
                store,
                index,
                list,
                &entry.into(),
                usize::MAX,
                0,
                |tid, live, _, _| {
                    add(tid, live);
                },
            )
            .unwrap();
    }
    here
}

/// All ways to search.
fn check_tier(
    (gpu, tier): (&Gpu, &Tier),
    (store, index): (&MemStore, &Index),
    model: &Model,
    queries: &[Vec<bool>],
) {
    let inputs: Vec<Vec<f32>> = queries.iter().map(|q| input(q)).collect();
    let prepared: Vec<Query> = inputs.iter().map(|q| index.prepare(q).unwrap()).collect();
    let n_lists = index.n_lists();
    let all: Vec<u32> = (0..n_lists).collect();
    let g = omen_ivf::bound::rounding(index.meta.dim);
    for k in [1, 10, model.len()] {
        let what = format!("{} {} bits, k {k}", index.metric().name(), index.meta.dim);
        let asked: Vec<TierQuery<'_>> = prepared
            .iter()
            .map(|query| TierQuery {
                q: query.words(),
                q_norm: 0.0,
                q_err: 0.0,
                lists: &all,
                k,
            })
            .collect();
        let given = tier
            .search(&asked, g, Duration::from_secs(60), &mut || Ok(()))
            .unwrap();
        for ((q, query), found) in queries.iter().zip(&prepared).zip(&given) {
            check(index, found, model, q, k, &format!("{what}, lists given"));
            let mut stats = SearchStats::default();
            let cpu = search(store, index, query, n_lists, k, &mut stats).unwrap();
            let pairs = cpu.items.iter().zip(&found.items).take(k.min(model.len()));
            for (a, b) in pairs {
                assert_eq!(
                    (a.key, a.ceiling),
                    (b.key, b.ceiling),
                    "{what}: the CPU's keys"
                );
            }
        }
        if k > 1000 {
            continue; // more than batches take
        }
        for (probes, is_locked) in [(1, false), (n_lists.div_ceil(2), true), (n_lists, false)] {
            let spread = f32::INFINITY;
            let batch = (k, is_locked);
            let found = search_batch(
                gpu,
                tier,
                index,
                &inputs,
                Lists::Nearest { probes, spread },
                batch,
            );
            let single = search_batch(
                gpu,
                tier,
                index,
                &inputs[..1],
                Lists::Nearest { probes, spread },
                batch,
            );
            assert_eq!(answer(&single, 0), answer(&found, 0), "{what}: alone");
            for (i, q) in queries.iter().enumerate() {
                let lists = match found.n_probes.get(i) {
                    Some(&n) => found.lists[i * found.probes..][..n as usize].to_vec(),
                    None => all.clone(),
                };
                // As many as the CPU would choose, and as near; of equally near ones either does.
                let chosen = select_lists(store, index, &prepared[i], probes).unwrap();
                assert_eq!(lists.len(), chosen.len(), "{what}");
                let here = of_lists(store, index, model, &lists);
                check(
                    index,
                    &answer(&found, i),
                    &here,
                    q,
                    k,
                    &format!("{what}, {probes} lists"),
                );
            }
        }
        let found = search_batch(gpu, tier, index, &inputs, Lists::All, (k, false));
        for (i, q) in queries.iter().enumerate() {
            check(
                index,
                &answer(&found, i),
                model,
                q,
                k,
                &format!("{what}, all"),
            );
        }
    }
}

#[test]
fn tiers_of_strings_of_bits_answer_as_the_operators_do() {
    let mut rng = rng();
    for gpu in devices() {
        for metric in METRICS {
            for dim in [1, 16, 33, 64, 1000, 2048, 2049, 64_000] {
                let n = if dim > 10_000 { 60 } else { 900 };
                let all = strings(&mut rng, dim, n + 20);
                let (store, index) = build(metric, dim, &all[..n], rng.random());
                let mut model: Model = (0..).map(tid).zip(all[..n].iter().cloned()).collect();
                let mut queries = vec![all[3].clone(), all[n + 7].clone()];
                queries.extend([vec![false; dim as usize], vec![true; dim as usize]]);
                queries.extend_from_slice(&all[n..n + 7]);
                let mut tier = load(&gpu, &store, &index);
                check_tier((&gpu, &tier), (&store, &index), &model, &queries);
                // Some die, others are appended; what is there is brought up to date, or all is loaded anew.
                bulk_delete(&store, &index, &mut |at| at.as_u64() % 3 == 0).unwrap();
                model.retain(|at, _| at.as_u64() % 3 != 0);
                for (i, string) in (n as u32..).zip(&all[n..]) {
                    insert(&store, &index, &input(string), tid(i)).unwrap();
                    model.insert(tid(i), string.clone());
                }
                refresh(&mut tier, &store, &index);
                let anew = load(&gpu, &store, &index);
                for tier in [&tier, &anew] {
                    check_tier((&gpu, tier), (&store, &index), &model, &queries[..3]);
                }
            }
        }
    }
}

#[test]
fn rows_that_are_all_as_far_are_found() {
    let mut rng = rng();
    for gpu in devices() {
        // Nothing in common with the query but for a few, and many equal strings.
        let n = 3000;
        let mut all: Vec<Vec<bool>> = (0..n).map(|_| vec![false; 96]).collect();
        for (i, string) in all.iter_mut().enumerate() {
            let half = if i % 500 == 7 { 48..96 } else { 0..48 };
            half.for_each(|bit| string[bit] = rng.random_bool(0.1));
        }
        let query: Vec<bool> = (0..96).map(|bit| bit >= 48).collect();
        for metric in METRICS {
            let (store, index) = build(metric, 96, &all, rng.random());
            let model: Model = (0..).map(tid).zip(all.iter().cloned()).collect();
            let tier = load(&gpu, &store, &index);
            let queries = std::slice::from_ref(&query);
            check_tier((&gpu, &tier), (&store, &index), &model, queries);
            assert!(metric == Metric::Hamming || index.lower_bound(1.0) == 1.0);
        }
    }
}
