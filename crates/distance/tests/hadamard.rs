//! The Hadamard transform against its definition.

mod common;

use omen_distance::variants;

/// `y_i = sum_j (-1)^popcount(i & j) x_j`, in f64.
fn by_definition(x: &[f32]) -> Vec<f64> {
    let sign = |i: usize, j: usize| {
        if (i & j).count_ones().is_multiple_of(2) {
            1.0
        } else {
            -1.0
        }
    };
    let sum = |i| {
        x.iter()
            .enumerate()
            .map(|(j, &v)| sign(i, j) * f64::from(v))
            .sum()
    };
    (0..x.len()).map(sum).collect()
}

#[test]
fn matches_the_definition_and_all_variants_agree_bit_for_bit() {
    let mut rng = common::rng();
    for log in 0..=14 {
        let n = 1usize << log;
        // One in front: no alignment.
        let x = &common::uniform(&mut rng, n + 1)[1..];
        let mut reference = x.to_vec();
        omen_distance::scalar::hadamard(&mut reference);
        // The quadratic loop is slow at the far end, where transforming twice checks as much.
        if log <= 12 {
            let tolerance =
                x.iter().map(|v| f64::from(v.abs())).sum::<f64>() * f64::from(log) * 2f64.powi(-24);
            for (i, (&got, want)) in reference.iter().zip(by_definition(x)).enumerate() {
                assert!(
                    (f64::from(got) - want).abs() <= tolerance,
                    "n = {n}, i = {i}: {got} for {want}"
                );
            }
        }
        for v in variants() {
            let mut buffer = [vec![f32::NAN], x.to_vec(), vec![f32::NAN]].concat();
            v.hadamard(&mut buffer[1..=n]);
            let bits = |y: &[f32]| y.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&buffer[1..=n]), bits(&reference), "{v:?}, n = {n}");
            assert!(
                buffer[0].is_nan() && buffer[n + 1].is_nan(),
                "{v:?} wrote outside, n = {n}"
            );
            v.hadamard(&mut buffer[1..=n]);
            for (&twice, &once) in buffer[1..].iter().zip(x) {
                let error = (twice / n as f32 - once).abs();
                assert!(error <= 1e-4, "{v:?}, n = {n}: {twice} / n for {once}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "power of two")]
fn other_lengths_are_refused() {
    omen_distance::hadamard(&mut [0.0; 12]);
}
