//! The rounds of the seeded rotation, shared by all variants: flips of signs, the Hadamard transform of a window, and where that does not
//! cover the vector a mixing of its halves. Plain loops, as in `fht.rs`, and bit for bit the same everywhere for the same reason: each result
//! is one operation of the same operands.

use std::f32::consts::FRAC_1_SQRT_2;

/// The rounds that `flips` has (`[n_rounds, x.len()]`) in place, given the variant's [`crate::hadamard`].
#[inline(always)]
pub(crate) fn rotate(x: &mut [f32], flips: &[u32], hadamard: impl Fn(&mut [f32])) {
    let dim = x.len();
    let window = window_of(dim);
    let scale = 1.0 / (window as f32).sqrt();
    for (round, flips) in flips.chunks_exact(dim).enumerate() {
        for (value, flip) in x.iter_mut().zip(flips) {
            *value = f32::from_bits(value.to_bits() ^ flip);
        }
        // The head of the vector in even rounds, its tail in odd ones.
        let start = if round % 2 == 0 { 0 } else { dim - window };
        let window = &mut x[start..start + window];
        hadamard(window);
        for value in window.iter_mut() {
            *value *= scale;
        }
        if window.len() < dim {
            let (head, tail) = x.split_at_mut(dim / 2);
            for (a, b) in head.iter_mut().zip(tail) {
                (*a, *b) = ((*a + *b) * FRAC_1_SQRT_2, (*a - *b) * FRAC_1_SQRT_2);
            }
        }
    }
}

/// The largest power of two that is no more than `dim >= 1`.
fn window_of(dim: usize) -> usize {
    1 << dim.ilog2()
}
