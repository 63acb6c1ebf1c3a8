//! The rounds of the rotation: all variants against a loop that follows the definition in f64, and bit for bit against each other.

mod common;

use omen_distance::{scalar, variants};
use rand::Rng;

/// What [`omen_distance::rotate`] does, each round in f64.
fn by_definition(x: &[f32], flips: &[u32]) -> Vec<f64> {
    let (n, window) = (x.len(), 1usize << x.len().ilog2());
    let mut y: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    for (round, flips) in flips.chunks_exact(n).enumerate() {
        for (v, &flip) in y.iter_mut().zip(flips) {
            *v = if flip == 0 { *v } else { -*v };
        }
        let start = if round % 2 == 0 { 0 } else { n - window };
        let from = y[start..start + window].to_vec();
        for (i, v) in y[start..start + window].iter_mut().enumerate() {
            let sign = |j: usize| 1.0 - 2.0 * f64::from((i & j).count_ones() % 2);
            let sum: f64 = from.iter().enumerate().map(|(j, v)| sign(j) * v).sum();
            *v = sum / (window as f64).sqrt();
        }
        if window < n {
            for i in 0..n / 2 {
                let (a, b) = (y[i], y[i + n / 2]);
                (y[i], y[i + n / 2]) = ((a + b) / 2f64.sqrt(), (a - b) / 2f64.sqrt());
            }
        }
    }
    y
}

#[test]
fn follows_the_definition_and_all_variants_agree_bit_for_bit() {
    let mut rng = common::rng();
    for n in [
        1usize, 2, 4, 6, 8, 10, 24, 32, 64, 100, 104, 128, 200, 768, 1000, 1536, 2048, 16_000,
    ] {
        for n_rounds in [0, 1, rng.random_range(2..6)] {
            // One in front: no alignment.
            let x = &common::uniform(&mut rng, n + 1)[1..];
            let flips: Vec<u32> = (0..n * n_rounds)
                .map(|_| rng.random_range(0..2) << 31)
                .collect();
            let mut reference = x.to_vec();
            scalar::rotate(&mut reference, &flips);
            // The quadratic loop is slow at the far end, whose variants are compared all the same.
            if n <= 2048 {
                let norm = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                for (i, (&got, want)) in reference.iter().zip(by_definition(x, &flips)).enumerate()
                {
                    assert!(
                        (f64::from(got) - want).abs() <= 1e-5 * norm,
                        "n = {n}, {n_rounds} rounds, i = {i}: {got} for {want}"
                    );
                }
            }
            for v in variants() {
                let mut buffer = [vec![f32::NAN], x.to_vec(), vec![f32::NAN]].concat();
                v.rotate(&mut buffer[1..=n], &flips);
                let bits = |y: &[f32]| y.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(
                    bits(&buffer[1..=n]),
                    bits(&reference),
                    "{v:?}, n = {n}, {n_rounds} rounds"
                );
                assert!(
                    buffer[0].is_nan() && buffer[n + 1].is_nan(),
                    "{v:?} wrote outside, n = {n}"
                );
            }
        }
    }
}

#[test]
#[should_panic(expected = "rotate: 13 flips")]
fn flips_are_of_whole_rounds() {
    omen_distance::rotate(&mut [0.0; 12], &[0; 13]);
}

#[test]
#[should_panic(expected = "rotate: length 13")]
fn odd_lengths_are_refused() {
    omen_distance::rotate(&mut [0.0; 13], &[]);
}
