//! A search's results against brute force.

use super::{Entry, Fixture, Queries, Query, centroids};
use half::f16;
use omen_gpu::{BatchFound, Lists};
use omen_ivf::topk::Candidate;
use omen_ivf::topk::Candidates;
use omen_ivf::{Metric, Tid};
use std::collections::{HashMap, HashSet};

/// The bound an entry's key may not pass, in f64, and the key as another engine would compute it.
pub fn exact_bound(metric: Metric, g: f32, query: &Query, entry: &Entry) -> (f64, f32) {
    let (mut l2sq, mut dot, mut l1) = (0f64, 0f64, 0f64);
    for (&a, b) in query.q.iter().zip(&entry.row) {
        let (a, b) = (f64::from(a), b.to_f64());
        l2sq += (a - b) * (a - b);
        dot += a * b;
        l1 += (a - b).abs();
    }
    let err = f64::from(entry.err);
    if metric == Metric::NegIp {
        let other = -(dot as f32) - entry.err * (query.norm * (1.0 + 2.0 * g)).next_up();
        let clean = |x: f64| if x.is_nan() { f64::NEG_INFINITY } else { x };
        // The key formula's g pays for the rounding of the sum, which `err` is required to hold: allow it here.
        let norm_h = entry
            .row
            .iter()
            .map(|x| x.to_f64().powi(2))
            .sum::<f64>()
            .sqrt();
        let allowed = -dot - err * f64::from(query.norm)
            + 1.1 * f64::from(g) * f64::from(query.norm) * norm_h;
        (
            clean(allowed),
            if other.is_nan() {
                f32::NEG_INFINITY
            } else {
                other
            },
        )
    } else {
        let distance = if metric == Metric::L1 {
            l1
        } else {
            l2sq.sqrt()
        };
        let bound = (distance - err - f64::from(query.q_err)).max(0.0);
        let other = distance as f32 * (1.0 - 2.0 * g) - (entry.err + query.q_err);
        (bound, if other > 0.0 { other } else { 0.0 })
    }
}

/// Checks results against brute force. `enough`: at least k items must come (or all there are).
pub fn check(
    fixture: &Fixture,
    queries: &Queries,
    results: &[Candidates],
    enough: bool,
    what: &str,
) {
    let metric = fixture.spec.metric;
    let g = omen_ivf::bound::rounding(fixture.spec.dim as u32);
    assert_eq!(results.len(), queries.items.len());
    for (i, (query, found)) in queries.items.iter().zip(results).enumerate() {
        let what = format!("{what}, query {i}, k {}", queries.k);
        let keys: HashMap<Tid, f32> = found.items.iter().map(|c| (c.tid, c.key)).collect();
        assert_eq!(keys.len(), found.items.len(), "{what}: a row came twice");
        for pair in found.items.windows(2) {
            assert!(
                (pair[0].key, pair[0].tid) < (pair[1].key, pair[1].tid),
                "{what}: not ascending"
            );
        }
        assert!(
            found.items.iter().all(|c| c.key <= found.frontier),
            "{what}: item beyond the frontier"
        );
        let (mut met, mut n_live) = (HashSet::new(), 0);
        for &list in &query.lists {
            for entry in fixture.lists[list as usize].iter().filter(|e| e.live) {
                n_live += 1;
                let (bound, other) = exact_bound(metric, g, query, entry);
                if let Some(&key) = keys.get(&entry.tid) {
                    assert!(
                        f64::from(key) <= bound,
                        "{what}: key {key} above the bound {bound}"
                    );
                    let near = (f64::from(other.abs()) + f64::from(query.norm) + 1e3) * 1e-2;
                    assert!(
                        key == other || (f64::from(key) - f64::from(other)).abs() <= near,
                        "{what}: key {key}, not {other}"
                    );
                    met.insert(entry.tid);
                } else {
                    assert!(
                        bound >= f64::from(found.frontier)
                            || queries.losses.forgive(i, query, entry.tid),
                        "{what}: row left out, bound {bound}, frontier {}",
                        found.frontier
                    );
                }
            }
        }
        assert_eq!(
            met.len(),
            keys.len(),
            "{what}: a row that is dead or not in the lists"
        );
        if enough {
            assert!(
                found.items.len() >= queries.k.min(n_live),
                "{what}: {} of {n_live} rows",
                found.items.len()
            );
        }
        if n_live <= queries.k && found.frontier.is_infinite() {
            assert_eq!(
                found.items.len(),
                n_live,
                "{what}: incomplete although complete"
            );
        }
    }
}

/// Checks a batch against brute force: that the lists chosen are the nearest ones, and the answers as [`check`] does over those lists.
pub fn check_batch(
    fixture: &Fixture,
    queries: &Queries,
    lists: Lists,
    skipped: &[u32],
    found: &BatchFound,
    what: &str,
) {
    let searched = searched(fixture, queries, lists, skipped, found, what);
    let mut results = Vec::new();
    for (i, head) in found.heads.iter().enumerate() {
        assert_eq!(head.overflow, 0, "{what}, query {i}");
        results.push(Candidates {
            items: found
                .of(i)
                .iter()
                .map(|f| Candidate {
                    key: f.key,
                    ceiling: f.ceiling,
                    tid: Tid {
                        block: f.tid_block,
                        offset: f.tid_offset,
                    },
                })
                .collect(),
            frontier: head.frontier,
        });
        assert!(
            found.of(i).iter().all(|f| f.key <= f.ceiling),
            "{what}, query {i}: {:?}",
            found.of(i)
        );
    }
    check(fixture, &searched, &results, true, what);
}

/// Checks what a tier of codes alone names against brute force: the lists chosen, that bounds ascend and are hardly ever above the keys,
/// and that the named entries, by their keys, are the nearest ones up to the frontier. `slots`: the list and the slot in it of a slot of
/// the tier.
pub fn check_slots(
    fixture: &Fixture,
    queries: &Queries,
    lists: Lists,
    skipped: &[u32],
    found: &BatchFound,
    slots: impl Fn(u32) -> (u32, u32),
    what: &str,
) {
    let (metric, g) = (
        fixture.spec.metric,
        omen_ivf::bound::rounding(fixture.spec.dim as u32),
    );
    let searched = searched(fixture, queries, lists, skipped, found, what);
    assert!(found.items.is_empty(), "{what}");
    let mut results = Vec::new();
    for (i, (query, head)) in searched.items.iter().zip(&found.heads).enumerate() {
        let what = format!("{what}, query {i}");
        assert_eq!(head.overflow, 0, "{what}");
        let bounds: Vec<f32> = found.slots_of(i).map(|near| near.bound).collect();
        assert!(bounds.is_sorted(), "{what}: bounds do not ascend");
        assert!(bounds.iter().all(|&b| b <= head.frontier), "{what}");
        let mut items = Vec::new();
        for near in found.slots_of(i) {
            let (list, slot) = slots(near.slot);
            let entry = &fixture.lists[list as usize][slot as usize];
            assert!(entry.live, "{what}: dead entry");
            let (_, key) = exact_bound(metric, g, query, entry);
            assert!(
                near.bound <= key || queries.losses.forgive(i, query, entry.tid),
                "{what}: bound {} above {key}",
                near.bound
            );
            if key <= head.frontier {
                items.push(Candidate {
                    key,
                    ceiling: f32::INFINITY,
                    tid: entry.tid,
                });
            }
        }
        items.sort_by(|a, b| a.key.total_cmp(&b.key).then(a.tid.cmp(&b.tid)));
        results.push(Candidates {
            items,
            frontier: head.frontier,
        });
    }
    check(fixture, &searched, &results, false, what);
}

/// The queries with the lists that were searched for each, which are the nearest ones.
fn searched(
    fixture: &Fixture,
    queries: &Queries,
    lists: Lists,
    skipped: &[u32],
    found: &BatchFound,
    what: &str,
) -> Queries {
    let all: Vec<u32> = (0..fixture.spec.n_lists as u32).collect();
    let centroids = centroids(fixture);
    let search_one = |(i, query): (usize, &Query)| {
        let what = format!("{what}, query {i}");
        let of_query = if found.lists.is_empty() {
            all.clone()
        } else {
            let chosen = &found.lists[i * found.probes..(i + 1) * found.probes];
            let n = found.n_probes[i];
            check_lists(fixture, query, lists, chosen, n, &centroids, &what);
            chosen[..n as usize].to_vec()
        };
        Query {
            q: query.q.clone(),
            norm: query.norm,
            q_err: query.q_err,
            lists: of_query
                .into_iter()
                .filter(|l| !skipped.contains(l))
                .collect(),
        }
    };
    Queries {
        items: queries.items.iter().enumerate().map(search_one).collect(),
        k: queries.k,
        losses: queries.losses.clone(),
    }
}

/// Checks the lists chosen for a query: all different, nearest first, none left out that is nearer, up to rounding.
fn check_lists(
    fixture: &Fixture,
    query: &Query,
    lists: Lists,
    chosen: &[u32],
    n_probes: u32,
    centroids: &[f16],
    what: &str,
) {
    let metric = fixture.spec.metric;
    let norm = query.q.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
    let mut size = norm;
    let ranks: Vec<f64> = centroids
        .chunks_exact(fixture.spec.dim)
        .map(|centroid| {
            let (mut l2sq, mut dot, mut length) = (0f64, 0f64, 0f64);
            for (&q, c) in query.q.iter().zip(centroid) {
                let (q, c) = (f64::from(q), c.to_f64());
                l2sq += (q - c) * (q - c);
                dot += q * c;
                length += c * c;
            }
            size = size.max(length);
            if metric == Metric::NegIp { -dot } else { l2sq }
        })
        .collect();
    let slack = 1e-5 * size;
    let distinct: HashSet<u32> = chosen.iter().copied().collect();
    assert_eq!(distinct.len(), chosen.len(), "{what}: a list twice");
    let rank = |list: u32| ranks[list as usize];
    for pair in chosen.windows(2) {
        assert!(
            rank(pair[0]) <= rank(pair[1]) + slack,
            "{what}: lists out of order"
        );
    }
    let last = chosen
        .iter()
        .map(|&l| rank(l))
        .fold(f64::NEG_INFINITY, f64::max);
    for list in (0..ranks.len() as u32).filter(|l| !distinct.contains(l)) {
        assert!(rank(list) >= last - slack, "{what}: list {list} is nearer");
    }
    let Lists::Nearest { spread, .. } = lists else {
        return assert_eq!(n_probes as usize, chosen.len(), "{what}");
    };
    for (i, &list) in chosen.iter().enumerate() {
        let nearest = rank(chosen[0]);
        let (farther, slack) = if metric == Metric::NegIp {
            let length = f64::from(query.norm);
            ((rank(list) - nearest) / length, 2.0 * slack / length)
        } else {
            let give = 2.0 * slack / nearest.max(slack).sqrt();
            (rank(list).sqrt() - nearest.sqrt(), give)
        };
        if (i as u32) < n_probes {
            assert!(
                farther <= f64::from(spread) + slack,
                "{what}: list {i} too far"
            );
        } else {
            assert!(
                farther >= f64::from(spread) - slack,
                "{what}: list {i} left out"
            );
        }
    }
}
