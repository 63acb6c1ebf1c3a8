//! The loose key is a lower bound even where digits cancel and the tensor cores round as badly as they may.

mod common;

use common::{DOT_METRICS, Entry, Query, exact_bound, normal, rng};
use half::f16;
use omen_gpu::TierQuery;
use omen_gpu::params::QueryConsts;
use omen_gpu::query::{prepare, scales};
use omen_gpu::twin::scan::{loose_key, loose_key_l1};
use omen_ivf::{Metric, Tid};
use rand::Rng;

#[test]
fn the_loose_key_never_passes_the_exact_bound() {
    let mut rng = rng("the_loose_key_never_passes_the_exact_bound");
    for dim in [1, 3, 32, 100, 768, 4096, 16_000] {
        let pitch = omen_gpu::memory::pitch_of(dim);
        let g = omen_ivf::bound::rounding(dim as u32);
        let mut useful = 0;
        for trial in 0..(400_000 / dim).clamp(100, 4000) {
            let metric = DOT_METRICS[trial % 3];
            let far = [0.0, 1.0, 30.0, 1000.0, 30_000.0][rng.random_range(0..5)];
            let near = [0.0, 1e-3, 1.0, 20.0][rng.random_range(0..4)];
            let row: Vec<f16> = (0..dim)
                .map(|_| f16::from_f32((far + 10.0 * normal(&mut rng)).clamp(-65504.0, 65504.0)))
                .collect();
            let q: Vec<f32> = row
                .iter()
                .map(|h| h.to_f32() + near * normal(&mut rng))
                .collect();
            let norm = q.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let norm_h = row.iter().map(|x| x.to_f64().powi(2)).sum::<f64>();
            let query = Query {
                q,
                norm: ((norm * (1.0 + 1e-7)) as f32).next_up(),
                q_err: 0.0,
                lists: vec![],
            };
            let err = if rng.random_bool(0.5) {
                0.0
            } else {
                rng.random_range(0.0..1.0)
            };
            let entry = Entry {
                tid: Tid::new(1, 1),
                live: true,
                err,
                row,
            };

            let mut halves = vec![f16::ZERO; 2 * pitch];
            let tier_query = TierQuery {
                q: &query.q,
                q_norm: query.norm,
                q_err: 0.0,
                lists: &[],
                k: 1,
            };
            let consts =
                prepare(metric, &tier_query, g, &mut vec![0.0; pitch], &mut halves).unwrap();
            // The dot product as the halves give it, off by what kernels/loose_key.h allows the tensor cores.
            let (mut dot, mut dot_high) = (0f64, 0f64);
            for (i, h) in entry.row.iter().enumerate() {
                let h = h.to_f64() * f64::from(consts.dot_scale);
                dot += (halves[i].to_f64() + halves[pitch + i].to_f64()) * h;
                dot_high += halves[i].to_f64() * h;
            }
            let allowed = (1.25 * pitch as f64 + 30.0) * 2f64.powi(-23) * norm * norm_h.sqrt();
            let exact = exact_bound(metric, g, &query, &entry).0;
            let sums = [(dot, consts.slack), (dot_high, consts.slack_high)];
            let errors = [-allowed, 0.0, allowed];
            for ((dot, slack), error) in sums.into_iter().flat_map(|s| errors.map(|e| (s, e))) {
                let key = loose_key(
                    metric,
                    scales(g).loose,
                    &consts,
                    slack,
                    (dot + error) as f32,
                    norm_h as f32,
                    err,
                );
                // NegIp: without the g that exact_bound allows to tight keys.
                let bound = if metric == Metric::NegIp {
                    exact - 1.1 * f64::from(g) * f64::from(query.norm) * norm_h.sqrt()
                } else {
                    exact
                };
                let what = format!(
                    "{} dim {dim} far {far} near {near} err {err}",
                    metric.name()
                );
                assert!(
                    f64::from(key) <= bound,
                    "{what}: loose key {key}, bound {bound}"
                );
                useful +=
                    u32::from(f64::from(key) > bound.abs() * -2.0 && key > 0.9 * bound as f32);
            }
        }
        assert!(
            useful > 20,
            "dim {dim}: a bound that is never near is no bound"
        );
    }
}

/// A sum in so many lanes.
fn sum_in(lanes: usize, terms: &[f32]) -> f32 {
    let mut sums = vec![0f32; lanes];
    for (i, term) in terms.iter().enumerate() {
        sums[i % lanes] += term;
    }
    sums.iter().sum()
}

#[test]
fn the_loose_key_of_l1_never_passes_the_tight_one() {
    let mut rng = rng("the_loose_key_of_l1_never_passes_the_tight_one");
    for dim in [1, 3, 32, 100, 768, 4096, 16_000] {
        let scales = scales(omen_ivf::bound::rounding(dim as u32));
        for trial in 0..(400_000 / dim).clamp(100, 4000) {
            let far = [0.0, 1.0, 1000.0, 30_000.0][rng.random_range(0..4)];
            let near = [1e-3, 1.0, 20.0][rng.random_range(0..3)];
            // Sizes that lose the most digits come last, or anywhere.
            let mut terms: Vec<f32> = (0..dim)
                .map(|_| {
                    let h = (far + 10.0 * normal(&mut rng)).clamp(-65504.0, 65504.0);
                    let h = f16::from_f32(h).to_f32();
                    (h + near * normal(&mut rng) - h).abs()
                })
                .collect();
            if trial % 2 == 0 {
                terms.sort_by(|a, b| b.total_cmp(a));
            }
            let exact: f64 = terms.iter().copied().map(f64::from).sum();
            let consts = QueryConsts {
                err: [0.0, exact as f32 * 0.3][trial % 3 % 2],
                ..QueryConsts::default()
            };
            let err = exact as f32 * rng.random_range(0.0..0.5);
            // As on the devices, and as on CPUs.
            let loose = loose_key_l1(scales.loose, &consts, sum_in(16, &terms), err);
            let tight = (sum_in(8, &terms) * scales.tight - (err + consts.err)).max(0.0);
            assert!(loose <= tight, "dim {dim}: loose {loose}, tight {tight}");
            let bound = exact - f64::from(err) - f64::from(consts.err);
            assert!(f64::from(loose) <= bound.max(0.0), "dim {dim}");
            assert!(
                f64::from(loose) >= bound * 0.98 - exact * 0.01,
                "dim {dim}: not near"
            );
        }
    }
}
