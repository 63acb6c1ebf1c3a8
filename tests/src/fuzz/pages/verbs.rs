//! All that is done with an index.

use omen_gpu::batch::tuning::Tuning;
use omen_gpu::memory::Parts;
use omen_gpu::params::QueryBound;
use omen_gpu::{Batch, Copiers, Gpu, LoadError, Source, Tier, TierBuilder, TierQuery, TierSpec};
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::check::check;
use omen_ivf::coarse::select_lists;
use omen_ivf::count::count;
use omen_ivf::export::export_list;
use omen_ivf::fold::{fold_list, vacuum_fold};
use omen_ivf::index::{Index, read_entries};
use omen_ivf::insert::insert;
use omen_ivf::mem_store::MemStore;
use omen_ivf::probes::Reach;
use omen_ivf::reclaim::reclaim;
use omen_ivf::rerank::{SlotBound, rerank};
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::topk::TopK;
use omen_ivf::{IvfError, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::time::Duration;

use super::super::Bytes;
use super::store_world::{read_all, tid, vector};
use super::{Outcome, kinds};

/// Verbs called at most.
const MOST_CALLS: usize = 12;

/// Opens the index, and calls verbs until the input is used up.
pub(super) fn use_index(store: &MemStore, input: &mut Bytes, outcome: &mut Outcome) {
    outcome.calls += 1;
    let Some(index) = taken(Index::open(store), outcome) else {
        return;
    };
    let mut rng = StdRng::seed_from_u64(input.u32().into());
    for _ in 0..MOST_CALLS {
        outcome.calls += 1;
        call(store, &index, input, &mut rng, outcome);
        assert_eq!(store.n_locks(), 0, "a lock is left");
        assert_eq!(store.n_pins(), 0, "a pin is left");
        if input.is_empty() {
            break;
        }
    }
}

/// What a verb returned, if that was no error. Panics if it is an error that is not for a damaged index.
fn taken<T>(result: Result<T>, outcome: &mut Outcome) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(IvfError::Corrupt { .. } | IvfError::Version { .. }) => {
            outcome.noticed += 1;
            None
        }
        Err(error) => panic!("an error that does not say that the index is damaged: {error}"),
    }
}

fn call(store: &MemStore, index: &Index, input: &mut Bytes, rng: &mut StdRng, out: &mut Outcome) {
    let list = input.below(index.n_lists() as usize) as u32;
    let value = |rng: &mut StdRng| kinds::input(rng, index.form.kind(), index.meta.dim);
    match input.u8() % 14 {
        0 => drop(taken(read_all(store, index), out)),
        1 => {
            let dead = u32::from(input.u8() % 7) + 2;
            let mut is_dead = |tid: omen_ivf::Tid| tid.offset.is_multiple_of(dead);
            taken(bulk_delete(store, index, &mut is_dead), out);
        }
        2 => drop(taken(fold_list(store, index, list), out)),
        3 => drop(taken(vacuum_fold(store, index), out)),
        4 => drop(taken(check(store, index), out)),
        5 => drop(taken(count(store, index), out)),
        6 => drop(taken(reclaim(store, index, &mut |_| ()), out)),
        7 => drop(taken(
            export_list(store, index, list, &mut |_, _, _, _, _| ()),
            out,
        )),
        8 | 9 => {
            let query = index.prepare(&value(rng)).expect("of its dimension");
            let (recall, k) = (0.5 + f32::from(input.u8()) / 512.0, 1 + input.below(300));
            let reach = match input.u8() % 3 {
                0 => index.reach_for(recall, k as u64),
                1 => Reach::from(1 + input.below(5) as u32),
                _ => Reach::from(index.n_lists()),
            };
            let mut stats = SearchStats::default();
            taken(search(store, index, &query, reach, k, &mut stats), out);
        }
        10 => named_slots(store, index, input, rng, out),
        11 => hot_tier(store, index, input, rng, out),
        _ => {
            for i in 0..=u32::from(input.u8() % 30) {
                let inserted = insert(store, index, &value(rng), tid(90_000 + i));
                if taken(inserted, out).is_none() {
                    break;
                }
            }
        }
    }
}

/// What is done with the answers of a tier of codes alone.
fn named_slots(
    store: &MemStore,
    index: &Index,
    input: &mut Bytes,
    rng: &mut StdRng,
    out: &mut Outcome,
) {
    let value = kinds::input(rng, index.form.kind(), index.meta.dim);
    let query = index.prepare(&value).expect("fits");
    let Some(probes) = taken(select_lists(store, index, &query, Reach::from(3)), out) else {
        return;
    };
    let lists: Vec<u32> = probes.iter().map(|probe| probe.list).collect();
    let Some(entries) = taken(read_entries(store, index, &lists), out) else {
        return;
    };
    let lists: Vec<_> = probes.into_iter().zip(entries).collect();
    let candidates: Vec<SlotBound> = (0..input.below(40))
        .map(|i| SlotBound {
            probe: input.below(lists.len()) as u32,
            slot: input.below(400) as u32,
            bound: i as f32,
        })
        .collect();
    let (mut top, mut stats) = (TopK::new(10), SearchStats::default());
    let outcome = rerank(
        store,
        index,
        &query,
        &lists,
        &candidates,
        &mut top,
        &mut stats,
    );
    taken(outcome, out);
}

/// Loads a tier to the simulated device and searches it.
fn hot_tier(
    store: &MemStore,
    index: &Index,
    input: &mut Bytes,
    rng: &mut StdRng,
    out: &mut Outcome,
) {
    if index.cpu_only().is_some() {
        // Nobody loads it.
        return;
    }
    let lists: Vec<u32> = (0..index.n_lists()).collect();
    let Some(entries) = taken(read_entries(store, index, &lists), out) else {
        return;
    };
    let n_slots: u64 = entries.iter().map(|e| u64::from(e.frozen_count)).sum();
    let spec = TierSpec::of(index);
    let parts = match (index.meta.shape().filter, input.u8() % 3) {
        (omen_ivf::layout::group::Filter::OneBit, 0) => Parts::Codes,
        (omen_ivf::layout::group::Filter::OneBit, 1) => Parts::RowsAndCodes,
        _ => Parts::Rows,
    };
    let gpu = Gpu::open_simulated();
    let copiers = Copiers::none();
    let builder = TierBuilder::with_parts(&gpu, spec, parts, n_slots, 1 << 28, copiers);
    let mut builder = builder.expect("there is room");
    let loaded = builder
        .load_lists(store, index, &lists)
        .and_then(|()| builder.load_centroids(store, index));
    match loaded {
        Ok(()) => {}
        Err(LoadError::Index(error)) => {
            taken::<()>(Err(error), out);
            return;
        }
        // Sessions go on with the CPU.
        Err(LoadError::Gpu(_)) => return,
    }
    if let Ok(tier) = builder.finish() {
        search_tier(&tier, index, &lists, rng);
    }
}

/// An answer, or an error of the device's: of either the session can make something.
fn search_tier(tier: &Tier, index: &Index, lists: &[u32], rng: &mut StdRng) {
    let q = vector(rng, index.query_words() as u32);
    let query = TierQuery {
        q: &q,
        q_norm: 2.0 * (q.len() as f32).sqrt(),
        q_err: 0.0,
        lists,
        k: 10,
    };
    let (g, deadline) = (index.meta.rounding, Duration::from_secs(60));
    let found = tier.search(&[query], g, deadline, &mut || Ok(()));
    for candidates in found.unwrap_or_default() {
        assert!(
            candidates
                .items
                .is_sorted_by(|a, b| a.key.total_cmp(&b.key).is_le())
        );
    }
    let mut fill = |_: usize, rows: &mut [f32], bounds: &mut [QueryBound]| {
        rows.copy_from_slice(&q);
        bounds[0] = QueryBound {
            q_norm: query.q_norm,
            q_err: 0.0,
        };
    };
    let mut batch = Batch {
        n_queries: 1,
        source: Source::Fill(&mut fill),
        lists: omen_gpu::Lists::Nearest {
            probes: 2,
            spread: f32::INFINITY,
        },
        skipped: &[],
        k: 10,
        want_lists: true,
        tuning: Tuning::default(),
    };
    let Ok(found) = tier.search_batch(&mut batch, g, deadline, &mut || Ok(())) else {
        return;
    };
    let slots = if tier.parts().rows() {
        Vec::new()
    } else {
        found.slots_of(0).collect()
    };
    for named in slots {
        assert!(tier.place_of(named.slot).is_some(), "{named:?}");
    }
}
