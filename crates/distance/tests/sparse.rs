//! Sums over sparse rows are those over the rows with their zeros; distances of bit strings are counts of their bits.

mod common;

use omen_distance::{Sparse, hamming, jaccard};
use rand::Rng;
use rand::seq::index::sample;

/// A row of `dim`, and its elements that are not zero.
struct Row {
    dense: Vec<f64>,
    indices: Vec<i32>,
    x: Vec<f32>,
}

impl Row {
    /// `nnz` elements at random places.
    fn new(rng: &mut impl Rng, dim: usize, nnz: usize) -> Row {
        let mut places = sample(rng, dim, nnz).into_vec();
        places.sort_unstable();
        let mut dense = vec![0.0; dim];
        let x: Vec<f32> = places
            .iter()
            .map(|_| rng.random_range(0.1..1.0) * if rng.random() { 1.0 } else { -1.0 })
            .collect();
        for (&i, &x) in places.iter().zip(&x) {
            dense[i] = f64::from(x);
        }
        let indices = places.into_iter().map(|i| i as i32).collect();
        Row { dense, indices, x }
    }

    fn sparse(&self) -> Sparse<'_> {
        Sparse {
            indices: &self.indices,
            x: &self.x,
        }
    }
}

#[test]
fn sums_are_those_of_the_rows_with_zeros() {
    let mut rng = common::rng();
    for _ in 0..2000 {
        let dim = rng.random_range(1..60);
        let (n_a, n_b) = (rng.random_range(0..=dim), rng.random_range(0..=dim));
        let (a, b) = (Row::new(&mut rng, dim, n_a), Row::new(&mut rng, dim, n_b));
        let sum = |term: fn(f64, f64) -> f64| -> (f64, f64) {
            let terms = a.dense.iter().zip(&b.dense).map(|(&x, &y)| term(x, y));
            terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()))
        };
        let (sa, sb) = (a.sparse(), b.sparse());
        for (name, got, back, (want, size)) in [
            (
                "l2sq",
                sa.l2sq(sb),
                sb.l2sq(sa),
                sum(|x, y| (x - y).powi(2)),
            ),
            ("l1", sa.l1(sb), sb.l1(sa), sum(|x, y| (x - y).abs())),
            ("dot", sa.dot(sb), sb.dot(sa), sum(|x, y| x * y)),
            ("norm_sq", sa.norm_sq(), sa.dot(sa), sum(|x, _| x * x)),
        ] {
            let m = (n_a + n_b + 3) as f64 * 2f64.powi(-24);
            let error = (f64::from(got) - want).abs();
            assert!(error <= m / (1.0 - m) * size, "{name}: {got} for {want}");
            assert_eq!(got.to_bits(), back.to_bits(), "{name}, the other way round");
        }
    }
}

#[test]
fn bit_strings_are_counted() {
    let mut rng = common::rng();
    for n in (0..70).chain([1000, 8000]) {
        for share in [0.0, 0.01, 0.5, 1.0] {
            let mut bytes = || -> Vec<u8> {
                let mut byte = || (0..8).fold(0, |b, _| b << 1 | u8::from(rng.random_bool(share)));
                (0..n).map(|_| byte()).collect()
            };
            let (a, b) = (bytes(), bytes());
            let count = |f: fn(u8, u8) -> u8| -> u64 {
                let ones = a.iter().zip(&b).map(|(&a, &b)| f(a, b).count_ones());
                ones.map(u64::from).sum()
            };
            assert_eq!(hamming(&a, &b), count(|a, b| a ^ b));
            let (both, either) = (count(|a, b| a & b), count(|a, b| a | b));
            let want = if both == 0 {
                1.0
            } else {
                1.0 - both as f64 / either as f64
            };
            assert_eq!(jaccard(&a, &b), want);
        }
    }
}
