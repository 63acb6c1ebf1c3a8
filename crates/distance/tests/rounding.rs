//! The error bound of the crate's documentation, against f64, on inputs made to break it.

mod common;

use common::LENGTHS;
use omen_distance::{f16, rounding, variants};
use rand::Rng;

/// Pairs of rows that provoke rounding: each family takes the seed's generator and the length.
fn families(rng: &mut impl Rng, n: usize) -> Vec<(&'static str, Vec<f32>, Vec<f32>)> {
    let uniform = |rng: &mut _| common::uniform(rng, n);
    let mixed = |rng: &mut dyn rand::RngCore| -> Vec<f32> {
        let mut one = || rng.random_range(-1.0f32..1.0) * 2f32.powi(rng.random_range(-20..15));
        (0..n).map(|_| one()).collect()
    };
    let constant = rng.random_range(0.01f32..10.0);
    // Neighbours cancel but for a small rest, within one lane and across lanes.
    let cancelling = |rng: &mut dyn rand::RngCore, period: usize| -> Vec<f32> {
        let big = 1000.0 * rng.random_range(1.0f32..2.0);
        let sign = |i: usize| {
            if (i / period).is_multiple_of(2) {
                1.0
            } else {
                -1.0
            }
        };
        (0..n)
            .map(|i| big * sign(i) + rng.random_range(-0.01f32..0.01))
            .collect()
    };
    let ascending = (0..n).map(|i| (i as f32 + 0.3) / n as f32).collect();
    vec![
        ("uniform", uniform(rng), uniform(rng)),
        ("mixed", mixed(rng), mixed(rng)),
        ("constant", vec![constant; n], vec![constant * 0.3; n]),
        ("1 and small ones", ones_and_small(1, n), vec![1.0; n]),
        ("16 and small ones", ones_and_small(16, n), vec![1.0; n]),
        ("64 and small ones", ones_and_small(64, n), vec![1.0; n]),
        ("cancelling 1", cancelling(rng, 1), vec![constant; n]),
        ("cancelling 64", cancelling(rng, 64), vec![constant; n]),
        ("ascending", ascending, vec![1.0 / 3.0; n]),
        ("near", near(rng, n), vec![constant; n]),
    ]
}

/// `ones` times 1, then numbers a little over half its last place: in a sum that began with 1, all round up.
fn ones_and_small(ones: usize, n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| if i < ones { 1.0 } else { 1.2 * 2f32.powi(-24) })
        .collect()
}

fn near(rng: &mut impl Rng, n: usize) -> Vec<f32> {
    (0..n)
        .map(|_| 1.0 + rng.random_range(-1e-6f32..1e-6))
        .collect()
}

/// Sum of the terms and of their absolute values, in f64.
fn exact(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> (f64, f64) {
    let terms = a
        .iter()
        .zip(b)
        .map(|(&x, &y)| term(f64::from(x), f64::from(y)));
    terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()))
}

#[test]
fn sums_stay_within_the_bound() {
    let mut rng = common::rng();
    let lengths: Vec<usize> = LENGTHS
        .into_iter()
        .chain((0..20).map(|_| rng.random_range(0..5000)))
        .collect();
    let mut worst = 0f64;
    for n in lengths {
        for (family, a, b) in families(&mut rng, n) {
            let h: Vec<f16> = b.iter().map(|&y| f16::from_f32(y)).collect();
            let widened: Vec<f32> = h.iter().map(|y| y.to_f32()).collect();
            let l2sq = exact(&a, &b, |x, y| (x - y) * (x - y));
            let dot = exact(&a, &b, |x, y| x * y);
            let l1 = exact(&a, &b, |x, y| (x - y).abs());
            let l2sq_f16 = exact(&a, &widened, |x, y| (x - y) * (x - y));
            let dot_f16 = exact(&a, &widened, |x, y| x * y);
            let g: Vec<f16> = a.iter().map(|&x| f16::from_f32(x)).collect();
            let both: Vec<f32> = g.iter().map(|x| x.to_f32()).collect();
            let l2sq_halves = exact(&both, &widened, |x, y| (x - y) * (x - y));
            let dot_halves = exact(&both, &widened, |x, y| x * y);
            let l1_halves = exact(&both, &widened, |x, y| (x - y).abs());
            for v in variants() {
                for (name, got, (want, size)) in [
                    ("l2sq", v.l2sq(&a, &b), l2sq),
                    ("dot", v.dot(&a, &b), dot),
                    ("l1", v.l1(&a, &b), l1),
                    ("l2sq_f16", v.l2sq_f16(&a, &h), l2sq_f16),
                    ("dot_f16", v.dot_f16(&a, &h), dot_f16),
                    ("l2sq_halves", v.l2sq_halves(&g, &h), l2sq_halves),
                    ("dot_halves", v.dot_halves(&g, &h), dot_halves),
                    ("l1_halves", v.l1_halves(&g, &h), l1_halves),
                ] {
                    let error = (f64::from(got) - want).abs();
                    let bound = rounding(n) * size + n as f64 * 2f64.powi(-149);
                    assert!(
                        error <= bound,
                        "{v:?} {name}, {family}, n = {n}: {got} for {want}, error {error:e} > {bound:e}"
                    );
                    if bound > 0.0 {
                        worst = worst.max(error / bound);
                    }
                }
            }
        }
    }
    println!("largest error: {worst:.3} of the bound");
}

/// The inputs above are hard enough: a single running sum breaks the bound on one of them.
#[test]
fn one_lane_breaks_the_bound() {
    let n = 16000;
    let a = ones_and_small(1, n);
    let (want, size) = exact(&a, &a, |x, _| x);
    let got: f32 = a.iter().sum();
    assert!(
        (f64::from(got) - want).abs() > rounding(n) * size,
        "{got} for {want}"
    );
}

#[test]
fn bound_as_documented() {
    assert_eq!(rounding(0), 24.0 * 2f64.powi(-24));
    assert_eq!(rounding(768), 120.0 * 2f64.powi(-24));
}
