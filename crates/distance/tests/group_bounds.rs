//! Bounds of a group: the same bits in all variants as a loop that follows the definition.

mod common;

use omen_distance::{Estimate, GROUP, GroupFactors, Limit, variants};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

fn naive(
    sums: &[i32; GROUP],
    factors: &GroupFactors,
    e: &Estimate,
    l: &Limit,
) -> ([f32; GROUP], u32) {
    let (mut bounds, mut mask) = ([0.0; GROUP], 0);
    for i in 0..GROUP {
        let inner = e.step * sums[i] as f32 + e.base;
        let mut bound = (factors.add[i] + e.add) + factors.rescale[i] * inner;
        bound -= e.spread * factors.error[i];
        bound -= factors.rescale[i].abs() * e.slack;
        let reach = l.offset + factors.radius[i] * l.slope;
        let limit = if l.square {
            reach * reach * l.factor
        } else {
            reach
        };
        bounds[i] = bound;
        if bound <= limit || bound.is_nan() || limit.is_nan() {
            mask |= 1 << i;
        }
    }
    (bounds, mask)
}

/// Bits, but one NaN is as good as another.
fn bits(bounds: &[f32; GROUP]) -> [u32; GROUP] {
    bounds.map(|x| if x.is_nan() { f32::NAN } else { x }.to_bits())
}

/// Draws factors, an estimate and a limit from `number`, compares all variants, and returns the mask.
fn compare(rng: &mut ChaCha8Rng, mut number: impl FnMut(&mut ChaCha8Rng) -> f32) -> u32 {
    let mut row = |rng: &mut _| -> [f32; GROUP] { std::array::from_fn(|_| number(rng)) };
    let [add, rescale, error, radius] = [(); 4].map(|()| row(rng));
    let [e0, e1, e2, e3, e4, l0, l1, l2] = *row(rng).first_chunk().unwrap();
    let factors = GroupFactors {
        add: &add,
        rescale: &rescale,
        error: &error,
        radius: &radius,
    };
    let estimate = Estimate {
        step: e0,
        base: e1,
        add: e2,
        spread: e3,
        slack: e4,
    };
    let limit = Limit {
        square: rng.random(),
        offset: l0,
        slope: l1,
        factor: l2,
    };
    let shift = rng.random_range(0..31);
    let sums = std::array::from_fn(|_| rng.random::<i32>() >> shift);
    let (want, want_mask) = naive(&sums, &factors, &estimate, &limit);
    for v in variants() {
        let mut got = [f32::NAN; GROUP];
        let mask = v.group_bounds(&sums, &factors, &estimate, &limit, &mut got);
        let inputs = format!("{sums:?} {factors:?} {estimate:?} {limit:?}");
        assert_eq!(bits(&got), bits(&want), "{v:?}: {inputs}");
        assert_eq!(mask, want_mask, "{v:?}: {inputs}");
    }
    want_mask
}

#[test]
fn random_factors() {
    let mut rng = common::rng();
    let mut mixed = 0;
    for _ in 0..5000 {
        let mask = compare(&mut rng, |rng| {
            rng.random_range(-1.0f32..1.0) * 2f32.powi(rng.random_range(-8..8))
        });
        mixed += u32::from(mask != 0 && mask != u32::MAX);
    }
    println!("{mixed} masks with both bits");
    assert!(mixed > 0, "the masks say nothing");
}

/// Any bits at all: NaN, infinities, subnormals, overflow on the way.
#[test]
fn any_bits() {
    let mut rng = common::rng();
    for _ in 0..5000 {
        compare(&mut rng, |rng| f32::from_bits(rng.random()));
    }
}

#[test]
fn special_values() {
    const POOL: [f32; 12] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        1e-45,
        -1e-45,
    ];
    let mut rng = common::rng();
    for _ in 0..5000 {
        // A few values at a time, else NaN and infinity hide everything.
        let few = [(); 3].map(|()| POOL[rng.random_range(0..POOL.len())]);
        compare(&mut rng, |rng| few[rng.random_range(0..few.len())]);
    }
}

/// Each entry has its own bit; a bound that equals the limit is within it.
#[test]
fn each_entry_by_itself() {
    let zeros = [0.0; GROUP];
    let estimate = Estimate {
        step: 1.0,
        base: 0.0,
        add: 0.0,
        spread: 0.0,
        slack: 0.0,
    };
    let limit = Limit {
        square: false,
        offset: 5.0,
        slope: 0.0,
        factor: 0.0,
    };
    for v in variants() {
        for entry in 0..GROUP {
            for (at, inside) in [(5, true), (6, false), (-9, true)] {
                let sums = std::array::from_fn(|i| if i == entry { at } else { 7 });
                let factors = GroupFactors {
                    add: &zeros,
                    rescale: &[1.0; GROUP],
                    error: &zeros,
                    radius: &zeros,
                };
                let mut bounds = [0.0; GROUP];
                let mask = v.group_bounds(&sums, &factors, &estimate, &limit, &mut bounds);
                assert_eq!(mask, u32::from(inside) << entry, "{v:?}, entry {entry}");
                assert_eq!(bounds, sums.map(|sum| sum as f32), "{v:?}, entry {entry}");
            }
        }
    }
}
