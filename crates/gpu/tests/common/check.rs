//! A search's results against brute force.

use super::{Entry, Fixture, Queries, Query};
use omen_ivf::topk::Candidates;
use omen_ivf::{Metric, Tid};
use std::collections::{HashMap, HashSet};

/// The bound an entry's key may not pass, in f64, and the key as another engine would compute it.
pub fn exact_bound(metric: Metric, g: f32, query: &Query, entry: &Entry) -> (f64, f32) {
    let (mut l2sq, mut dot) = (0f64, 0f64);
    for (&a, b) in query.q.iter().zip(&entry.row) {
        let (a, b) = (f64::from(a), b.to_f64());
        l2sq += (a - b) * (a - b);
        dot += a * b;
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
        let bound = (l2sq.sqrt() - err - f64::from(query.q_err)).max(0.0);
        let other = (l2sq as f32).sqrt() * (1.0 - 2.0 * g) - (entry.err + query.q_err);
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
                        bound >= f64::from(found.frontier),
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
