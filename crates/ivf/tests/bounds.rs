//! Keys never promise more than the SQL operators keep, whatever the numbers.

mod common;

use common::executor::float8_cmp;
use common::{METRICS, normals, operator, rng, seed};
use omen_ivf::Metric;
use omen_ivf::bound::upper_bound;
use omen_ivf::layout::group::Filter;
use omen_ivf::query::Query;
use omen_ivf::rotation::Rotation;
use omen_ivf::stored::{Scaling, choose_scale};
use rand::Rng;
use rand::rngs::StdRng;

const DIMS: [usize; 13] = [1, 2, 3, 7, 8, 16, 17, 64, 100, 255, 768, 2000, 16_000];

/// A number of random magnitude, from the subnormal ones to the largest.
fn any_magnitude(rng: &mut StdRng) -> f32 {
    loop {
        let x = f32::from_bits(rng.random());
        if x.is_finite() {
            return x;
        }
    }
}

/// Vectors of many kinds.
fn vector(rng: &mut StdRng, dim: usize) -> Vec<f32> {
    let scale = |rng: &mut StdRng, factor: f32| {
        normals(rng, dim)
            .iter()
            .map(|x| x * factor)
            .collect::<Vec<f32>>()
    };
    match rng.random_range(0..14) {
        0 => vec![0.0; dim],
        1 => scale(rng, 1e30),
        2 => normals(rng, dim)
            .iter()
            .map(|x| x.signum() * rng.random_range(1e38..f32::MAX))
            .collect(),
        3 => scale(rng, 1e-40),
        4 => scale(rng, 1e-20),
        5 => (0..dim).map(|_| any_magnitude(rng)).collect(),
        6 => vec![any_magnitude(rng); dim],
        7 => {
            let mut v = vec![0.0; dim];
            v[rng.random_range(0..dim)] = any_magnitude(rng);
            v
        }
        8 => (0..dim)
            .map(|_| rng.random_range(-3i32..=3) as f32)
            .collect(),
        9 => scale(rng, 1e19),
        10 => scale(rng, 1e4),
        11 => {
            let exp = rng.random_range(-60..60);
            scale(rng, 2f32.powi(exp))
        }
        _ => scale(rng, 1.0),
    }
}

/// A vector in some relation to `v`.
fn relative(rng: &mut StdRng, v: &[f32]) -> Vec<f32> {
    let finite = |x: f32| {
        if x.is_finite() {
            x
        } else {
            f32::MAX.copysign(x)
        }
    };
    match rng.random_range(0..6) {
        0 => v.to_vec(),
        1 => v.iter().map(|x| -x).collect(),
        2 => v.iter().map(|x| finite(x * 1.000001)).collect(),
        3 => v
            .iter()
            .map(|&x| {
                if rng.random_bool(0.1) {
                    x.next_up().min(f32::MAX)
                } else {
                    x
                }
            })
            .collect(),
        4 => v.iter().map(|x| finite(x * 2.5)).collect(),
        _ => vector(rng, v.len()),
    }
}

/// Checks the bound of one pair; gives (lower bound, value, upper bound), or nothing if the row is not indexed.
fn check(scaling: &Scaling, rotation: &Rotation, u: &[f32], x: &[f32]) -> Option<(f64, f64, f64)> {
    let stored = scaling.to_stored(x).unwrap()?;
    assert!(stored.row.iter().all(|h| h.is_finite()) && stored.err >= 0.0);
    let query = Query::new(scaling, Filter::FourBit, rotation, u).unwrap();
    let key = query.key(&stored.row, stored.err);
    assert!(!key.is_nan() && key < f32::INFINITY);
    let bound = query.bound().lower_bound(key);
    let value = operator(scaling.metric, u, x);
    assert!(
        !bound.is_nan() && float8_cmp(bound, value).is_le(),
        "{} bound {bound} above {value}: key {key}, err {}, scale 2^{}, dim {}\nu = {:?}\nx = {:?}",
        scaling.metric.name(),
        stored.err,
        scaling.scale_exp,
        u.len(),
        &u[..u.len().min(20)],
        &x[..x.len().min(20)]
    );
    let ceiling = query.bound().ceiling(query.raw(&stored.row), stored.err);
    assert!(
        !ceiling.is_nan() && ceiling >= key,
        "ceiling {ceiling}, key {key}"
    );
    let upper = upper_bound(scaling.metric, scaling.dim, scaling.scale_exp, ceiling);
    assert!(
        upper == f64::INFINITY || upper >= value,
        "{} value {value} above {upper}: ceiling {ceiling}, err {}, scale 2^{}, dim {}\nu = {:?}\nx = {:?}",
        scaling.metric.name(),
        stored.err,
        scaling.scale_exp,
        u.len(),
        &u[..u.len().min(20)],
        &x[..x.len().min(20)]
    );
    Some((bound, value, upper))
}

#[test]
fn bounds_hold_for_any_numbers() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in DIMS {
        let rotation = Rotation::new(1, dim, dim.next_multiple_of(64));
        for _ in 0..(400_000 / dim).clamp(100, 20_000) {
            let u = vector(&mut rng, dim);
            let x = relative(&mut rng, &u);
            for metric in METRICS {
                let scale_exp = match rng.random_range(0..4) {
                    0 => choose_scale(metric, &u, dim),
                    1 => choose_scale(metric, &x, dim),
                    2 if metric != Metric::Cosine => rng.random_range(-119..=157),
                    _ => choose_scale(metric, &vector(&mut rng, dim), dim),
                };
                let scaling = Scaling {
                    metric,
                    dim: dim as u32,
                    scale_exp,
                };
                check(&scaling, &rotation, &u, &x);
            }
        }
    }
}

/// Rows that share a metric's scale but lie at the borders of what it holds: saturation, subnormal binary16.
#[test]
fn bounds_hold_at_the_borders_of_binary16() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [1, 3, 64, 300] {
        let rotation = Rotation::new(1, dim, dim.next_multiple_of(64));
        for metric in METRICS {
            for scale_exp in [-30, -7, 0, 7, 30] {
                let scaling = Scaling {
                    metric,
                    dim: dim as u32,
                    scale_exp: scale_exp.min(15),
                };
                for _ in 0..300 {
                    let mut at = || {
                        let exp = *[-25, -24, -14, 0, 8, 15, 16, 17, 24]
                            .get(rng.random_range(0..9usize))
                            .unwrap();
                        let factor = 2f32.powi(exp - scaling.scale_exp);
                        let wiggle: Vec<f32> = normals(&mut rng, dim);
                        wiggle.iter().map(|x| x * factor).collect::<Vec<f32>>()
                    };
                    let (u, x) = (at(), at());
                    check(&scaling, &rotation, &u, &x);
                }
            }
        }
    }
}

/// A bound that is always minus infinity would hold too: for ordinary data bounds must be close.
#[test]
fn bounds_are_tight_for_ordinary_data() {
    let seed = seed();
    let mut rng = rng(seed);
    for dim in [4, 100, 768] {
        let rotation = Rotation::new(1, dim, dim.next_multiple_of(64));
        for factor in [1e-3, 1.0, 1e5] {
            let rows: Vec<f32> = normals(&mut rng, 200 * dim)
                .iter()
                .map(|x| x * factor)
                .collect();
            for metric in METRICS {
                let scaling = Scaling {
                    metric,
                    dim: dim as u32,
                    scale_exp: choose_scale(metric, &rows, dim),
                };
                let unit = match metric {
                    Metric::L2 => f64::from(factor) * (dim as f64).sqrt(),
                    Metric::NegIp => f64::from(factor) * f64::from(factor) * dim as f64,
                    Metric::Cosine => 1.0,
                    _ => f64::from(factor) * dim as f64,
                };
                for pair in rows.chunks_exact(2 * dim) {
                    let (u, x) = pair.split_at(dim);
                    let query = Query::new(&scaling, Filter::None, &rotation, u).unwrap();
                    assert!(query.bound().is_plain());
                    let (bound, value, upper) = check(&scaling, &rotation, u, x).unwrap();
                    assert!(
                        value - bound < 2e-3 * unit && upper - value < 2e-3 * unit,
                        "{} {value} of {bound} to {upper}, unit {unit}",
                        metric.name()
                    );
                }
            }
        }
    }
}

/// What plain queries promise: the key formula alone holds, without the test for the operator's overflow.
#[test]
fn plain_queries_need_no_entry_by_entry_test() {
    let seed = seed();
    let mut rng = rng(seed);
    for _ in 0..20_000 {
        let dim = rng.random_range(1..40);
        let (u, x) = (vector(&mut rng, dim), vector(&mut rng, dim));
        let scale_exp = choose_scale(Metric::NegIp, &vector(&mut rng, dim), dim);
        let scaling = Scaling {
            metric: Metric::NegIp,
            dim: dim as u32,
            scale_exp,
        };
        let query = Query::new(
            &scaling,
            Filter::OneBit,
            &Rotation::new(1, dim, dim.next_multiple_of(64)),
            &u,
        )
        .unwrap();
        let stored = scaling.to_stored(&x).unwrap().unwrap();
        if query.bound().is_plain() {
            let slack = stored.err
                * query.bound().q_norm()
                * (1.0 + 2.0 * query.bound().rounding())
                * (1.0 + 1e-6);
            let key = -query.raw(&stored.row) - slack;
            let key = if key.is_nan() { f32::NEG_INFINITY } else { key };
            let value = operator(Metric::NegIp, &u, &x);
            assert!(
                float8_cmp(query.bound().lower_bound(key), value).is_le(),
                "u {u:?}, x {x:?}, scale 2^{scale_exp}"
            );
        }
    }
}

#[test]
fn lower_bound_is_monotone() {
    let seed = seed();
    let mut rng = rng(seed);
    for metric in METRICS {
        for _ in 0..2000 {
            let (dim, scale_exp) = (rng.random_range(1..=16_000), rng.random_range(-119..=157));
            let mut keys = [any_magnitude(&mut rng), any_magnitude(&mut rng)];
            if metric != Metric::NegIp {
                keys = keys.map(f32::abs);
            }
            keys.sort_unstable_by(f32::total_cmp);
            let bounds = keys.map(|key| omen_ivf::bound::lower_bound(metric, dim, scale_exp, key));
            assert!(bounds[0] <= bounds[1], "{metric:?} {keys:?} {bounds:?}");
        }
    }
}
