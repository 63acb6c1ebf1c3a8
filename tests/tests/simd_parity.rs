//! Every variant this machine can run gives the bits of the scalar reference: one runner, lengths around register widths.

use omen_distance::{Variant, f16, scalar, variants};
use omen_tests::rng;
use rand::Rng;

const LENGTHS: [usize; 24] = [
    0, 1, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 257, 384, 513, 768,
    1536, 16000,
];

/// A sum of two rows as a variant and the reference compute it, and its term.
type Case = (
    &'static str,
    fn(&Variant, &Pair) -> f32,
    fn(&Pair) -> f32,
    fn(f64, f64) -> f64,
);

const CASES: [Case; 8] = [
    (
        "l2sq",
        |v, p| v.l2sq(p.a(), p.b()),
        |p| scalar::l2sq(p.a(), p.b()),
        |x, y| (x - y).powi(2),
    ),
    (
        "dot",
        |v, p| v.dot(p.a(), p.b()),
        |p| scalar::dot(p.a(), p.b()),
        |x, y| x * y,
    ),
    (
        "l1",
        |v, p| v.l1(p.a(), p.b()),
        |p| scalar::l1(p.a(), p.b()),
        |x, y| (x - y).abs(),
    ),
    (
        "l2sq_f16",
        |v, p| v.l2sq_f16(p.a(), p.h()),
        |p| scalar::l2sq_f16(p.a(), p.h()),
        |x, y| (x - y).powi(2),
    ),
    (
        "dot_f16",
        |v, p| v.dot_f16(p.a(), p.h()),
        |p| scalar::dot_f16(p.a(), p.h()),
        |x, y| x * y,
    ),
    (
        "l2sq_halves",
        |v, p| v.l2sq_halves(p.g(), p.h()),
        |p| scalar::l2sq_halves(p.g(), p.h()),
        |x, y| (x - y).powi(2),
    ),
    (
        "dot_halves",
        |v, p| v.dot_halves(p.g(), p.h()),
        |p| scalar::dot_halves(p.g(), p.h()),
        |x, y| x * y,
    ),
    (
        "l1_halves",
        |v, p| v.l1_halves(p.g(), p.h()),
        |p| scalar::l1_halves(p.g(), p.h()),
        |x, y| (x - y).abs(),
    ),
];

/// Two rows, both also rounded to f16, that start one element into their buffers and have NaN around them:
/// unaligned, and whatever reads outside them shows.
struct Pair {
    a: Vec<f32>,
    b: Vec<f32>,
    g: Vec<f16>,
    h: Vec<f16>,
}

impl Pair {
    fn new(a: &[f32], b: &[f32]) -> Pair {
        let guarded = |x: &[f32]| [&[f32::NAN], x, &[f32::NAN]].concat();
        let (a, b) = (guarded(a), guarded(b));
        let rounded = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x)).collect();
        let (g, h) = (rounded(&a), rounded(&b));
        Pair { a, b, g, h }
    }
    fn a(&self) -> &[f32] {
        &self.a[1..self.a.len() - 1]
    }
    fn b(&self) -> &[f32] {
        &self.b[1..self.b.len() - 1]
    }
    fn g(&self) -> &[f16] {
        &self.g[1..self.g.len() - 1]
    }
    fn h(&self) -> &[f16] {
        &self.h[1..self.h.len() - 1]
    }
}

/// The same bits, but one NaN is as good as another.
fn assert_parity(pair: &Pair, what: &str) {
    let n = pair.a().len();
    for (name, variant_sum, scalar_sum, _) in CASES {
        let want = scalar_sum(pair);
        for v in variants() {
            let got = variant_sum(v, pair);
            let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
            assert!(same, "{v:?} {name}, {what}, n = {n}: {got:e} for {want:e}");
        }
    }
}

/// Register widths, and whatever lengths chance brings.
fn lengths(rng: &mut impl Rng) -> Vec<usize> {
    let random = (0..100).map(|i| rng.random_range(0..if i % 2 == 0 { 200 } else { 3000 }));
    LENGTHS.into_iter().chain(random).collect()
}

#[test]
fn random_rows() {
    let mut rng = rng();
    for n in lengths(&mut rng) {
        for scale in [1.0f32, 256.0] {
            let mut row = || -> Vec<f32> {
                (0..n)
                    .map(|_| scale * rng.random_range(-1.0..1.0))
                    .collect()
            };
            assert_parity(&Pair::new(&row(), &row()), "random");
        }
    }
}

/// Terms of very different sizes: almost any other order or rounding of the sum would show.
#[test]
fn mixed_sizes() {
    let mut rng = rng();
    for n in lengths(&mut rng) {
        let mut row = || -> Vec<f32> {
            let mut one = || rng.random_range(-1.0f32..1.0) * 2f32.powi(rng.random_range(-20..15));
            (0..n).map(|_| one()).collect()
        };
        assert_parity(&Pair::new(&row(), &row()), "mixed sizes");
    }
}

/// Any bits at all, with or without infinities and NaN.
#[test]
fn any_bits() {
    let mut rng = rng();
    for n in lengths(&mut rng) {
        for only_finite in [true, false] {
            let mut row = || -> Vec<f32> {
                let mut one = || loop {
                    let x = f32::from_bits(rng.random());
                    if x.is_finite() || !only_finite {
                        return x;
                    }
                };
                (0..n).map(|_| one()).collect()
            };
            assert_parity(&Pair::new(&row(), &row()), "any bits");
        }
    }
}

/// The order is the documented one, in every variant: written out here once more.
#[test]
fn order_as_documented() {
    let mut rng = rng();
    for n in lengths(&mut rng) {
        let mut row = || -> Vec<f32> { (0..n).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let pair = Pair::new(&row(), &row());
        let mut lanes = vec![0f32; 64];
        for (i, (x, y)) in pair.a().iter().zip(pair.b()).enumerate() {
            lanes[i % 64] += x * y;
        }
        while lanes.len() > 1 {
            let upper = lanes.split_off(lanes.len() / 2);
            lanes.iter_mut().zip(upper).for_each(|(x, y)| *x += y);
        }
        for v in variants() {
            let got = v.dot(pair.a(), pair.b());
            assert_eq!(got.to_bits(), lanes[0].to_bits(), "{v:?}, n = {n}");
        }
    }
}

/// Each element counts exactly once, wherever it stands: one pair differs from zero, and all sums are exact.
#[test]
fn each_position_counts_once() {
    let mut rng = rng();
    for n in LENGTHS.into_iter().filter(|&n| n <= 513) {
        for i in 0..n {
            let (x, y) = (
                rng.random_range(1..99) as f32,
                -rng.random_range(1..99) as f32,
            );
            let (mut a, mut b) = (vec![0.0; n], vec![0.0; n]);
            (a[i], b[i]) = (x, y);
            let pair = Pair::new(&a, &b);
            for (name, variant_sum, scalar_sum, term) in CASES {
                let want = term(x.into(), y.into()) as f32;
                assert_eq!(scalar_sum(&pair), want, "scalar {name}, n = {n}, i = {i}");
                for v in variants() {
                    assert_eq!(
                        variant_sum(v, &pair),
                        want,
                        "{v:?} {name}, n = {n}, i = {i}"
                    );
                }
            }
        }
    }
}

/// Infinities and NaN reach the result from every position, on both sides.
#[test]
fn special_values() {
    let mut rng = rng();
    for n in LENGTHS.into_iter().filter(|&n| n <= 129) {
        for special in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            for i in 0..n {
                let mut row =
                    || -> Vec<f32> { (0..n).map(|_| rng.random_range(1..9) as f32).collect() };
                let (plain, mut marked) = (row(), row());
                marked[i] = special;
                for pair in [Pair::new(&plain, &marked), Pair::new(&marked, &plain)] {
                    for (name, variant_sum, _, _) in CASES {
                        for v in variants() {
                            let got = variant_sum(v, &pair);
                            assert!(
                                !got.is_finite(),
                                "{v:?} {name}, n = {n}: {special} at {i} gave {got}"
                            );
                        }
                    }
                    assert_parity(&pair, "special");
                }
                assert_parity(&Pair::new(&marked, &marked), "infinity on both sides");
                // Opposite infinities.
                let other = rng.random_range(0..n);
                marked[other] = f32::NEG_INFINITY;
                assert_parity(&Pair::new(&marked, &plain), "two special values");
            }
        }
    }
}

#[test]
fn zeros_subnormals_and_extremes() {
    let mut rng = rng();
    let pools: [(&str, Vec<f32>); 4] = [
        ("zeros", vec![0.0, -0.0]),
        (
            "f16 subnormals",
            (0..9)
                .map(|i| f16::from_bits(1 + 97 * i).to_f32())
                .collect(),
        ),
        (
            "f16 extremes",
            vec![65504.0, -65504.0, 6.1035156e-5, -5.9604645e-8],
        ),
        (
            "all",
            vec![0.0, -0.0, 1.0, -65504.0, 5.9604645e-8, 6.097555e-5],
        ),
    ];
    for n in lengths(&mut rng) {
        for (what, pool) in &pools {
            let mut row = || -> Vec<f32> {
                (0..n)
                    .map(|_| pool[rng.random_range(0..pool.len())])
                    .collect()
            };
            assert_parity(&Pair::new(&row(), &row()), what);
        }
        let huge = [3e38, -3e38, 1e30, -1e30, 1e-30, 1e19, -1e19, 0.0];
        let mut row = || -> Vec<f32> { (0..n).map(|_| huge[rng.random_range(0..8)]).collect() };
        assert_parity(&Pair::new(&row(), &row()), "huge");
        // f32 subnormals on the query's side: products and squares underflow.
        let tiny: Vec<f32> = (0..n)
            .map(|_| f32::from_bits(rng.random_range(0..0x80_0000)))
            .collect();
        let row: Vec<f32> = (0..n)
            .map(|_| f16::from_bits(rng.random_range(0..0x400)).to_f32())
            .collect();
        assert_parity(&Pair::new(&tiny, &row), "f32 subnormals");
        assert_parity(&Pair::new(&tiny, &tiny), "f32 subnormals on both sides");
    }
}

/// Overflow of the sum is infinity in every variant, not NaN.
#[test]
fn overflow() {
    for n in LENGTHS.into_iter().filter(|&n| n > 0) {
        assert_parity(&Pair::new(&vec![3e38; n], &vec![-65504.0; n]), "overflow");
    }
}
