//! The reference: portable code, the fallback where nothing better is available, and the oracle of the parity tests.
//!
//! The sums run in lanes, which the compiler can map to whatever registers the baseline has.

use half::f16;

use crate::bits::{GROUP, PERM};
use crate::bounds::{Estimate, GroupFactors, Limit, bounds_and_limits};
use crate::generic::SUM_LANES;
use crate::nibbles::{BLOCK, BLOCK_DIMS};
use crate::{Isa, Variant, fht, kac};

/// Lanes of a sum that are in registers at once; divides [`SUM_LANES`].
const STRIPE: usize = 16;

pub(crate) const VARIANT: Variant = Variant {
    isa: Isa::Scalar,
    name: "scalar",
    l2sq,
    dot,
    l1,
    l2sq_f16,
    dot_f16,
    l2sq_halves,
    dot_halves,
    l1_halves,
    l1_f16,
    differing,
    common,
    f16_from_f32,
    f32_from_f16,
    fastscan,
    nibble_scan,
    group_bounds,
    hadamard,
    rotate,
};

/// See [`crate::l2sq`].
pub fn l2sq(a: &[f32], b: &[f32]) -> f32 {
    sum_terms(a, b, |x, y| (x - y) * (x - y))
}

/// See [`crate::dot`].
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_terms(a, b, |x, y| x * y)
}

/// See [`crate::l1`].
pub fn l1(a: &[f32], b: &[f32]) -> f32 {
    sum_terms(a, b, |x, y| (x - y).abs())
}

/// See [`crate::l2sq_f16`].
pub fn l2sq_f16(q: &[f32], h: &[f16]) -> f32 {
    sum_terms(q, h, |x, y| {
        let d = x - widen(y);
        d * d
    })
}

/// See [`crate::dot_f16`].
pub fn dot_f16(q: &[f32], h: &[f16]) -> f32 {
    sum_terms(q, h, |x, y| x * widen(y))
}

/// See [`crate::l2sq_halves`].
pub fn l2sq_halves(a: &[f16], b: &[f16]) -> f32 {
    sum_terms(a, b, |x, y| {
        let d = widen(x) - widen(y);
        d * d
    })
}

/// See [`crate::dot_halves`].
pub fn dot_halves(a: &[f16], b: &[f16]) -> f32 {
    sum_terms(a, b, |x, y| widen(x) * widen(y))
}

/// See [`crate::l1_halves`].
pub fn l1_halves(a: &[f16], b: &[f16]) -> f32 {
    sum_terms(a, b, |x, y| (widen(x) - widen(y)).abs())
}

/// See [`crate::l1_f16`].
pub fn l1_f16(q: &[f32], h: &[f16]) -> f32 {
    sum_terms(q, h, |x, y| (x - widen(y)).abs())
}

/// See [`crate::differing`].
pub fn differing(a: &[u8], b: &[u8]) -> u32 {
    count_bits(a, b, |x, y| x ^ y)
}

/// See [`crate::common`].
pub fn common(a: &[u8], b: &[u8]) -> u32 {
    count_bits(a, b, |x, y| x & y)
}

/// Counts the bits that `of` leaves of both.
#[inline(always)]
fn count_bits(a: &[u8], b: &[u8], of: impl Fn(u64, u64) -> u64) -> u32 {
    let n = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..n].as_chunks::<8>(), b[..n].as_chunks::<8>());
    let words = a.iter().zip(b);
    let whole: u32 = words
        .map(|(&x, &y)| of(u64::from_ne_bytes(x), u64::from_ne_bytes(y)).count_ones())
        .sum();
    let bytes = a_rest.iter().zip(b_rest);
    whole
        + bytes
            .map(|(&x, &y)| of(x.into(), y.into()).count_ones())
            .sum::<u32>()
}

/// See [`crate::f16_from_f32`].
pub fn f16_from_f32(src: &[f32], dst: &mut [f16]) {
    for (d, &s) in dst.iter_mut().zip(src) {
        *d = f16::from_f32_const(s);
    }
}

/// See [`crate::f32_from_f16`].
pub fn f32_from_f16(src: &[f16], dst: &mut [f32]) {
    for (d, &s) in dst.iter_mut().zip(src) {
        *d = widen(s);
    }
}

/// See [`crate::fastscan`].
pub fn fastscan(codes: &[u8], lut: &[u8], sums: &mut [i32; GROUP]) {
    for (block, table) in codes.chunks_exact(16).zip(lut.chunks_exact(16)) {
        for (&byte, &entry) in block.iter().zip(&PERM) {
            for (entry, nibble) in [(entry, byte & 15), (entry + 16, byte >> 4)] {
                sums[entry] = sums[entry].wrapping_add(i32::from(table[usize::from(nibble)]));
            }
        }
    }
}

/// See [`crate::nibble_scan`].
pub fn nibble_scan(codes: &[u8], query: &[i8], sums: &mut [i32; GROUP]) {
    let (low_sums, high_sums) = sums.split_at_mut(16);
    let blocks = codes.chunks_exact(BLOCK);
    for (block, q) in blocks.zip(query.chunks_exact(BLOCK_DIMS)) {
        let lanes = block.chunks_exact(BLOCK_DIMS);
        for ((lane, low), high) in lanes.zip(&mut *low_sums).zip(&mut *high_sums) {
            for (&byte, &q) in lane.iter().zip(q) {
                *low = low.wrapping_add(i32::from(byte & 15) * i32::from(q));
                *high = high.wrapping_add(i32::from(byte >> 4) * i32::from(q));
            }
        }
    }
}

/// See [`crate::group_bounds`].
pub fn group_bounds(
    sums: &[i32; GROUP],
    factors: &GroupFactors,
    estimate: &Estimate,
    limit: &Limit,
    bounds: &mut [f32; GROUP],
) -> u32 {
    let limits;
    (*bounds, limits) = bounds_and_limits(sums, factors, estimate, limit);
    let pairs = bounds.iter().zip(&limits).enumerate();
    pairs.fold(0, |mask, (i, (bound, limit))| {
        mask | u32::from(within(*bound, *limit)) << i
    })
}

/// Not above: at most the limit, or one of the two is NaN.
#[inline(always)]
fn within(bound: f32, limit: f32) -> bool {
    bound <= limit || bound.is_nan() || limit.is_nan()
}

/// See [`crate::hadamard`].
pub fn hadamard(x: &mut [f32]) {
    if x.len() < 4 {
        return fht::passes(x, 1);
    }
    fht::transform(x, |block| {
        fht::first_passes(block);
        fht::passes(block, 4);
    });
}

/// See [`crate::rotate`].
pub fn rotate(x: &mut [f32], flips: &[u32]) {
    kac::rotate(x, flips, hadamard);
}

/// Sums `term(a_i, b_i)` in [`SUM_LANES`] lanes, then the lanes as a binary tree.
#[inline(always)]
fn sum_terms<A: Copy, B: Copy>(a: &[A], b: &[B], term: impl Fn(A, B) -> f32) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut lanes = [0f32; SUM_LANES];
    let (a_rounds, a_rest) = a.as_chunks::<SUM_LANES>();
    let (b_rounds, b_rest) = b.as_chunks::<SUM_LANES>();
    // As many lanes at a time as the registers of the baseline hold.
    for (start, lanes) in (0..).step_by(STRIPE).zip(lanes.as_chunks_mut::<STRIPE>().0) {
        let mut sums = [0f32; STRIPE];
        for (x, y) in a_rounds.iter().zip(b_rounds) {
            let (x, y) = (&x[start..start + STRIPE], &y[start..start + STRIPE]);
            for i in 0..STRIPE {
                sums[i] += term(x[i], y[i]);
            }
        }
        *lanes = sums;
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += term(x, y);
    }
    let mut half = SUM_LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// f16 to f32, exactly, without a branch: the exponent is moved to its place and re-biased by a
/// multiplication, which also normalises subnormal numbers.
#[inline(always)]
fn widen(h: f16) -> f32 {
    const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    let bits = u32::from(h.to_bits());
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * REBIAS;
    let special = if bits & 0x7c00 == 0x7c00 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}
