//! The float kernels, written once over a register trait; each instruction set instantiates them.
//!
//! Everything here is `#[inline(always)]` and carries no `#[target_feature]`: it takes the features of
//! the function it is inlined into, which is the only way to write the loop once. So it must be called from functions
//! that enable the features of the register type.

#![allow(unsafe_code)]

use half::f16;

/// Registers of running sums in flight: enough to hide the latency of the additions.
const ACCUMULATORS: usize = 4;

/// A register of f32 lanes.
///
/// # Safety
/// Calling any function of an implementation requires its instruction set.
pub(crate) trait Lanes: Copy {
    /// Lanes in the register.
    const LANES: usize;
    /// All lanes zero.
    unsafe fn zero() -> Self;
    /// `LANES` numbers from `p`, of any alignment.
    unsafe fn load(p: *const f32) -> Self;
    /// The first `n < LANES` lanes from `p`, the others zero; reads nothing beyond them.
    unsafe fn load_first(p: *const f32, n: usize) -> Self;
    /// `LANES` f16 numbers from `p`, widened.
    unsafe fn load_f16(p: *const f16) -> Self;
    /// As [`Lanes::load_first`], f16 widened.
    unsafe fn load_f16_first(p: *const f16, n: usize) -> Self;
    /// Lanewise sum.
    unsafe fn add(self, other: Self) -> Self;
    /// Lanewise difference.
    unsafe fn sub(self, other: Self) -> Self;
    /// Lanewise `self * other + sum`, rounded once.
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self;
    /// Lanewise absolute value.
    unsafe fn abs(self) -> Self;
    /// The lanes added as a binary tree.
    unsafe fn sum(self) -> f32;
}

/// An element type that widens to lanes.
pub(crate) trait Element: Copy {
    /// See [`Lanes::load`].
    unsafe fn load<V: Lanes>(p: *const Self) -> V;
    /// See [`Lanes::load_first`].
    unsafe fn load_first<V: Lanes>(p: *const Self, n: usize) -> V;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<V: Lanes>(p: *const f32) -> V {
        // SAFETY: the caller's obligations are the same.
        unsafe { V::load(p) }
    }
    #[inline(always)]
    unsafe fn load_first<V: Lanes>(p: *const f32, n: usize) -> V {
        // SAFETY: the caller's obligations are the same.
        unsafe { V::load_first(p, n) }
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<V: Lanes>(p: *const f16) -> V {
        // SAFETY: the caller's obligations are the same.
        unsafe { V::load_f16(p) }
    }
    #[inline(always)]
    unsafe fn load_first<V: Lanes>(p: *const f16, n: usize) -> V {
        // SAFETY: the caller's obligations are the same.
        unsafe { V::load_f16_first(p, n) }
    }
}

/// What a pair of elements adds to the sum. Zero for a pair of zeros, so that padding adds nothing.
pub(crate) trait Term {
    /// `sum` plus the term of `(a, b)`.
    unsafe fn add<V: Lanes>(sum: V, a: V, b: V) -> V;
}

/// `a b`.
pub(crate) struct Dot;
/// `(a - b)^2`.
pub(crate) struct L2sq;
/// `|a - b|`.
pub(crate) struct L1;

impl Term for Dot {
    #[inline(always)]
    unsafe fn add<V: Lanes>(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller guarantees the instruction set of V.
        unsafe { a.mul_add(b, sum) }
    }
}

impl Term for L2sq {
    #[inline(always)]
    unsafe fn add<V: Lanes>(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller guarantees the instruction set of V.
        unsafe {
            let d = a.sub(b);
            d.mul_add(d, sum)
        }
    }
}

impl Term for L1 {
    #[inline(always)]
    unsafe fn add<V: Lanes>(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller guarantees the instruction set of V.
        unsafe { sum.add(a.sub(b).abs()) }
    }
}

/// Sums the terms of two slices over their common length.
///
/// The bound in the crate's documentation rests on the shape of this function: a lane of an accumulator takes
/// one term a round, and at most one more after the rounds.
///
/// # Safety
/// The instruction set of `V` must be available.
#[inline(always)]
pub(crate) unsafe fn sum_terms<V: Lanes, T: Term, B: Element>(a: &[f32], b: &[B]) -> f32 {
    // The bound is derived for at least 16 lanes.
    const { assert!(ACCUMULATORS * V::LANES >= 16) };
    let n = a.len().min(b.len());
    let (a, b) = (a.as_ptr(), b.as_ptr());
    let mut i = 0;
    // SAFETY: the instruction set is the caller's obligation; every load ends at or before element n of its slice:
    // whole registers where i + LANES <= n, and the n - i < LANES that are left.
    unsafe {
        let mut acc = [V::zero(); ACCUMULATORS];
        while i + ACCUMULATORS * V::LANES <= n {
            for (j, acc) in acc.iter_mut().enumerate() {
                let at = i + j * V::LANES;
                *acc = T::add(*acc, V::load(a.add(at)), B::load(b.add(at)));
            }
            i += ACCUMULATORS * V::LANES;
        }
        // At most three whole registers are left, and the rest for the last accumulator, which got none of them.
        let (last, others) = acc.split_last_mut().expect("accumulators");
        for acc in others {
            if i + V::LANES <= n {
                *acc = T::add(*acc, V::load(a.add(i)), B::load(b.add(i)));
                i += V::LANES;
            }
        }
        if i < n {
            *last = T::add(
                *last,
                V::load_first(a.add(i), n - i),
                B::load_first(b.add(i), n - i),
            );
        }
        acc[0].add(acc[1]).add(acc[2].add(acc[3])).sum()
    }
}
