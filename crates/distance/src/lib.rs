//! Distances, scans of codes and the Hadamard transform, in the widest instructions the machine has.
//!
//! | file | content |
//! |---|---|
//! | `lib.rs` | the public functions, each one indirect call |
//! | `isa.rs`, `variant.rs` | what the machine can do; one table of functions per instruction set |
//! | `scalar.rs` | the reference: portable code, the fallback and the oracle of the parity tests |
//! | `generic.rs` | each float kernel written once over a register trait |
//! | `x86_64/`, `aarch64.rs` | the registers, and the scans, of each instruction set |
//! | `nearest.rs` | nearest of many centroids for many rows |
//! | `fht.rs` | the passes of the Hadamard transform that all variants share |
//! | `kac.rs` | the rounds of the seeded rotation, likewise |
//! | `bits.rs`, `nibbles.rs` | bit rows to and from FastScan order; 4-bit codes |
//! | `sparse.rs`, `bit_strings.rs` | distances of sparse rows and of bit strings |
//! | `bounds.rs` | from a group's sums to bounds and to the entries within a limit |
//!
//! # The same on every machine
//!
//! All variants give the same bits (one NaN being as good as another), so a search finds the same whatever the machine.
//! A sum keeps 64 running sums ("lanes"): term `i` is added to lane `i % 64`, the terms of a lane in order, starting from
//! zero. Then lane `i` and lane `i + 32` are added, and so on with 16, 8, 4, 2 and 1. Every
//! operation is rounded by itself; none is fused. Only [`Panels`] is exempt: it chooses lists, and fuses where it can.
//!
//! # Rounding
//!
//! Let `u = 2^-24`. A sum over `dim` terms computed here differs from the sum over
//! the reals by at most `rounding(dim) * sum |term|`, `rounding(dim) = (dim / 8 + 24) u`, as long as nothing
//! overflows; terms that underflow add at most `dim * 2^-149` to that. Derivation: a term carries at most 3 roundings of
//! its own (`dot`: the product, 1; `l2sq`: the difference enters twice and its square once, 3; `l1`: 1). A lane
//! holds at most `dim / 64 + 1` terms, and its first addition, to zero, is exact: at most `dim / 64` roundings. The tree
//! has 6 levels. In all `m <= dim / 64 + 6 + 3 = dim / 64 + 9` factors `(1 + d)`, `|d| <= u`, stand
//! on each term, hence (Higham, Accuracy and Stability, lemma 3.1) the error is at most
//! `m u / (1 - m u) * sum |term|`. For `dim <= 2^20` the second-order part `m^2 u^2 / (1 - m u)` is below
//! `(dim / 64000 + 1) u`, so the bound holds with at least 14 u to spare. (It was derived for 16 lanes; what an index stores
//! rests on it, so it stays.) f16 widens to f32 exactly and adds nothing.
//! The sums of `l2sq`, `l1` and `norm_sq` have no negative terms: for them the bound is a relative error.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod bit_strings;
mod bits;
mod bounds;
mod fht;
mod generic;
mod isa;
mod kac;
mod nearest;
mod nibbles;
pub mod scalar;
mod sparse;
mod variant;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use bit_strings::{hamming, jaccard};
pub use bits::{GROUP, PERM, pack_codes, put_code, unpack_codes};
pub use bounds::{Estimate, GroupFactors, Limit};
pub use half::f16;
pub use isa::{Isa, isa, isa_note};
pub use nearest::Panels;
pub use nibbles::{pack_nibbles, unpack_nibbles};
pub use sparse::Sparse;
pub use variant::{Variant, variants};

use variant::active;

/// The bound of the crate's documentation: relative to `sum |term|`, for every sum over `dim` terms.
pub fn rounding(dim: usize) -> f64 {
    (dim as f64 / 8.0 + 24.0) * f64::from(f32::EPSILON / 2.0)
}

/// `sum (a_i - b_i)^2`. Slices of equal length; where they differ (an error of the caller) the shorter counts.
#[inline]
pub fn l2sq(a: &[f32], b: &[f32]) -> f32 {
    active().l2sq(a, b)
}

/// `sum a_i b_i`. Slices as for [`l2sq`].
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    active().dot(a, b)
}

/// `sum |a_i - b_i|`. Slices as for [`l2sq`].
#[inline]
pub fn l1(a: &[f32], b: &[f32]) -> f32 {
    active().l1(a, b)
}

/// `sum a_i^2`.
#[inline]
pub fn norm_sq(a: &[f32]) -> f32 {
    active().dot(a, a)
}

/// `sum (q_i - h_i)^2` of an f32 query and an f16 row. Slices as for [`l2sq`].
#[inline]
pub fn l2sq_f16(q: &[f32], h: &[f16]) -> f32 {
    active().l2sq_f16(q, h)
}

/// `sum q_i h_i` of an f32 query and an f16 row. Slices as for [`l2sq`].
#[inline]
pub fn dot_f16(q: &[f32], h: &[f16]) -> f32 {
    active().dot_f16(q, h)
}

/// `sum (a_i - b_i)^2` of two f16 rows. Slices as for [`l2sq`].
#[inline]
pub fn l2sq_halves(a: &[f16], b: &[f16]) -> f32 {
    active().l2sq_halves(a, b)
}

/// `sum a_i b_i` of two f16 rows. Slices as for [`l2sq`].
#[inline]
pub fn dot_halves(a: &[f16], b: &[f16]) -> f32 {
    active().dot_halves(a, b)
}

/// `sum |a_i - b_i|` of two f16 rows. Slices as for [`l2sq`].
#[inline]
pub fn l1_halves(a: &[f16], b: &[f16]) -> f32 {
    active().l1_halves(a, b)
}

/// `sum |q_i - h_i|` of an f32 query and an f16 row. Slices as for [`l2sq`].
#[inline]
pub fn l1_f16(q: &[f32], h: &[f16]) -> f32 {
    active().l1_f16(q, h)
}

/// Bits in which two strings of bits differ. Slices as for [`l2sq`], of less than 2^29 bytes.
#[inline]
pub fn differing(a: &[u8], b: &[u8]) -> u32 {
    active().differing(a, b)
}

/// Bits that are set in both. Slices as for [`differing`].
#[inline]
pub fn common(a: &[u8], b: &[u8]) -> u32 {
    active().common(a, b)
}

/// Rounds to nearest, ties to even; beyond the range of f16 gives infinity. Panics if the lengths differ.
#[inline]
pub fn f16_from_f32(src: &[f32], dst: &mut [f16]) {
    active().f16_from_f32(src, dst);
}

/// Widens exactly. Panics if the lengths differ.
#[inline]
pub fn f32_from_f16(src: &[f16], dst: &mut [f32]) {
    active().f32_from_f16(src, dst);
}

/// FastScan over a group of 32 entries: adds to `sums[i]` the sum over nibbles `n` of
/// `lut[16 n + nibble n of entry i]`.
///
/// `codes` and `lut`: `[n_nibbles, 16]`, any `n_nibbles`; codes in the order of [`pack_codes`].
/// `sums` wraps modulo `2^32`. Panics if the two lengths differ or are no multiple of 16.
#[inline]
pub fn fastscan(codes: &[u8], lut: &[u8], sums: &mut [i32; GROUP]) {
    active().fastscan(codes, lut, sums);
}

/// 4-bit codes of a group of 32 entries against a query: adds to `sums[i]` the sum over dimensions `d` of
/// `value(i, d) * query[d]`, values 0 to 15.
///
/// `codes`: `[n_blocks, 64]` in the order of [`pack_nibbles`]; `query`: `[4 * n_blocks]`; any `n_blocks`.
/// `sums` wraps modulo `2^32`. Panics if the lengths do not fit each other.
#[inline]
pub fn nibble_scan(codes: &[u8], query: &[i8], sums: &mut [i32; GROUP]) {
    active().nibble_scan(codes, query, sums);
}

/// Writes the bounds of a group ([`Estimate`]) and returns, as bits, the entries whose bound is not above their
/// limit ([`Limit`]): at most the limit, or either of the two NaN.
///
/// All variants round the same operations in the same order: the results agree bit for bit on every machine.
#[inline]
pub fn group_bounds(
    sums: &[i32; GROUP],
    factors: &GroupFactors,
    estimate: &Estimate,
    limit: &Limit,
    bounds: &mut [f32; GROUP],
) -> u32 {
    active().group_bounds(sums, factors, estimate, limit, bounds)
}

/// Fast Hadamard transform in place, natural order, unnormalised (twice applied it multiplies by the length).
///
/// All variants do the same additions in the same order: the results agree bit for bit on every machine.
/// Panics if the length is no power of two.
#[inline]
pub fn hadamard(x: &mut [f32]) {
    active().hadamard(x);
}

/// Rotates `x` in place, by as many rounds as `flips` (`[n_rounds, x.len()]`, each 0 or the sign bit of an f32) is for. Each flips signs, applies the
/// orthonormal Hadamard transform to a window whose length is a power of two (the head of the vector in even rounds, its tail in odd ones)
/// and, where the window does not cover the vector, mixes its two halves by a Givens rotation of 45 degrees.
/// Source: "FHT-Kac" of RaBitQ-Library, `docs/docs/rabitq/rotator.md`.
///
/// All variants agree bit for bit. Panics if a length is odd and no power of two, or `flips` is not of whole rounds.
#[inline]
pub fn rotate(x: &mut [f32], flips: &[u32]) {
    active().rotate(x, flips);
}
