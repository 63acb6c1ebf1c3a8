//! f16 conversions: bit for bit what the `half` crate computes, in all variants.

mod common;

use omen_distance::{f16, variants};
use rand::Rng;

#[test]
fn every_f16_widens_exactly() {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    for v in variants() {
        let mut wide = vec![0.0; all.len()];
        v.f32_from_f16(&all, &mut wide);
        for (h, w) in all.iter().zip(&wide) {
            if h.is_nan() {
                assert!(w.is_nan(), "{v:?}: {:#06x}", h.to_bits());
            } else {
                assert_eq!(
                    w.to_bits(),
                    h.to_f32_const().to_bits(),
                    "{v:?}: {:#06x}",
                    h.to_bits()
                );
            }
        }
    }
}

#[test]
fn rounds_to_nearest_even() {
    let mut rng = common::rng();
    let mut cases: Vec<f32> = vec![
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
    ];
    cases.extend([
        65504.0,
        65519.996,
        65520.0,
        -65520.0,
        f32::MIN_POSITIVE,
        1e-45,
        2f32.powi(-25),
    ]);
    // Halfway between neighbours, and next to it.
    for bits in 0..0x7c00u16 {
        let (low, high) = (
            f16::from_bits(bits).to_f32(),
            f16::from_bits(bits + 1).to_f32(),
        );
        let middle = if high.is_finite() {
            (low + high) / 2.0
        } else {
            65520.0
        };
        cases.extend([middle, -middle, middle.next_up(), middle.next_down(), low]);
    }
    cases.extend((0..100_000).map(|_| f32::from_bits(rng.random())));
    for v in variants() {
        let mut narrow = vec![f16::ZERO; cases.len()];
        v.f16_from_f32(&cases, &mut narrow);
        for (x, h) in cases.iter().zip(&narrow) {
            if x.is_nan() {
                assert!(h.is_nan(), "{v:?}: {x}");
            } else {
                assert_eq!(
                    h.to_bits(),
                    f16::from_f32_const(*x).to_bits(),
                    "{v:?}: {x:e}"
                );
            }
        }
    }
}

/// Any length, any alignment, nothing written outside.
#[test]
fn lengths() {
    let mut rng = common::rng();
    for n in common::LENGTHS {
        let x = common::uniform(&mut rng, n + 1);
        let want: Vec<f16> = x.iter().map(|&x| f16::from_f32_const(x)).collect();
        for v in variants() {
            let mut h = vec![f16::NAN; n + 2];
            v.f16_from_f32(&x[1..], &mut h[1..=n]);
            assert_eq!(h[1..=n], want[1..], "{v:?}, n = {n}");
            assert!(
                h[0].is_nan() && h[n + 1].is_nan(),
                "{v:?} wrote outside, n = {n}"
            );
            let mut back = vec![f32::NAN; n + 2];
            v.f32_from_f16(&h[1..=n], &mut back[1..=n]);
            assert!(
                back[1..=n]
                    .iter()
                    .zip(&want[1..])
                    .all(|(a, b)| *a == b.to_f32_const()),
                "{v:?}, n = {n}"
            );
            assert!(
                back[0].is_nan() && back[n + 1].is_nan(),
                "{v:?} wrote outside, n = {n}"
            );
        }
    }
}
