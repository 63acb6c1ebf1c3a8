//! The float kernels, written once over a register trait; each instruction set instantiates them.
//!
//! Everything here is `#[inline(always)]` and carries no `#[target_feature]`: it takes the features of
//! the function it is inlined into, which is the only way to write the loop once. So it must be called from functions
//! that enable the features of the register type.

#![allow(unsafe_code)]

use half::f16;

/// Running sums of every variant: element `i` goes to lane `i % SUM_LANES`.
pub(crate) const SUM_LANES: usize = 64;

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
    /// Lanewise product.
    unsafe fn mul(self, other: Self) -> Self;
    /// Lanewise absolute value.
    unsafe fn abs(self) -> Self;
    /// The lanes added as a binary tree: lane `i` and lane `i + LANES / 2`, and so on with the half that results.
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

/// What a pair of elements adds to the sum. Zero, and not minus zero, for a pair of zeros, so that padding adds nothing.
pub(crate) trait Term {
    /// The term of `(a, b)`.
    unsafe fn of<V: Lanes>(a: V, b: V) -> V;
}

/// `a b`.
pub(crate) struct Dot;
/// `(a - b)^2`.
pub(crate) struct L2sq;
/// `|a - b|`.
pub(crate) struct L1;

impl Term for Dot {
    #[inline(always)]
    unsafe fn of<V: Lanes>(a: V, b: V) -> V {
        // SAFETY: the caller guarantees the instruction set of V.
        unsafe { a.mul(b) }
    }
}

impl Term for L2sq {
    #[inline(always)]
    unsafe fn of<V: Lanes>(a: V, b: V) -> V {
        // SAFETY: the caller guarantees the instruction set of V.
        unsafe {
            let d = a.sub(b);
            d.mul(d)
        }
    }
}

impl Term for L1 {
    #[inline(always)]
    unsafe fn of<V: Lanes>(a: V, b: V) -> V {
        // SAFETY: the caller guarantees the instruction set of V.
        unsafe { a.sub(b).abs() }
    }
}

/// Sums the terms of two slices over their common length, in `N` registers that hold the [`SUM_LANES`] lanes.
///
/// All variants give the bits of [`scalar`](crate::scalar): each lane takes the same terms in the same order, products and
/// sums are rounded separately, and the lanes are added as the same tree. Only the last register of a tail differs:
/// it adds zeros to lanes that have no element there. That changes no bit: a lane starts at plus zero, and a sum of
/// floats is minus zero only if both operands are, so no lane ever is minus zero, and all else plus zero is itself.
///
/// # Safety
/// The instruction set of `V` must be available.
#[inline(always)]
pub(crate) unsafe fn sum_terms<V: Lanes, const N: usize, T: Term, A: Element, B: Element>(
    a: &[A],
    b: &[B],
) -> f32 {
    const { assert!(N * V::LANES == SUM_LANES) };
    let n = a.len().min(b.len());
    let (a, b) = (a.as_ptr(), b.as_ptr());
    let mut i = 0;
    // SAFETY: the instruction set is the caller's obligation; every load ends at or before element n of its slice:
    // whole registers where i + LANES <= n, and the n - i < LANES that are left.
    unsafe {
        let mut acc = [V::zero(); N];
        while i + SUM_LANES <= n {
            for (j, acc) in acc.iter_mut().enumerate() {
                let at = i + j * V::LANES;
                *acc = acc.add(T::of(A::load(a.add(at)), B::load(b.add(at))));
            }
            i += SUM_LANES;
        }
        if i < n {
            let (whole, rest) = ((n - i) / V::LANES, (n - i) % V::LANES);
            let at = n - rest;
            let part = if rest > 0 {
                T::of(
                    A::load_first(a.add(at), rest),
                    B::load_first(b.add(at), rest),
                )
            } else {
                V::zero()
            };
            // No way out of the loop: it is unrolled, and the sums stay in registers.
            for (j, acc) in acc.iter_mut().enumerate() {
                if j < whole {
                    let at = i + j * V::LANES;
                    *acc = acc.add(T::of(A::load(a.add(at)), B::load(b.add(at))));
                } else if j == whole {
                    *acc = acc.add(part);
                }
            }
        }
        let mut half = N / 2;
        while half > 0 {
            for j in 0..half {
                acc[j] = acc[j].add(acc[j + half]);
            }
            half /= 2;
        }
        acc[0].sum()
    }
}
