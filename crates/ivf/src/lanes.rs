//! Sums in f64 that are made in eight lanes, always in the same order: one after the other the additions would wait for each other.

/// Sums side by side.
pub(crate) const LANES: usize = 8;

/// A sum in lanes.
#[derive(Default)]
pub(crate) struct Lanes(pub(crate) [f64; LANES]);

impl Lanes {
    /// All lanes together.
    pub(crate) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }
}

/// The whole lanes of a vector.
pub(crate) fn lanes(x: &[f32]) -> &[[f32; LANES]] {
    x.as_chunks::<LANES>().0
}

/// The inner product of two vectors of one length.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = Lanes::default();
    for (a, b) in lanes(a).iter().zip(lanes(b)) {
        for i in 0..LANES {
            sums.0[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    let rest = a.len() / LANES * LANES;
    let product = |(&a, &b): (&f32, &f32)| f64::from(a) * f64::from(b);
    sums.sum() + a[rest..].iter().zip(&b[rest..]).map(product).sum::<f64>()
}
