//! AArch64 NEON: 4 f32 lanes, 16 code bytes a step.

#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use crate::bits::GROUP;
use crate::bounds::{Estimate, GroupFactors, Limit, Row, bounds_and_limits};
use crate::generic::{Dot, L1, L2sq, Lanes, sum_terms};
use crate::nibbles::{BLOCK, BLOCK_DIMS};
use crate::{Isa, Variant, scalar};

pub(crate) const VARIANT: Variant = Variant {
    isa: Isa::Neon,
    name: "neon",
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
    // NEON is part of the baseline: the compiler has vectorised the portable loops with it.
    hadamard: scalar::hadamard,
    rotate: scalar::rotate,
};

/// f16 to f32. The instruction is plain ARMv8; only its intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon")]
fn widen(h: uint16x4_t) -> float32x4_t {
    let out: float32x4_t;
    // SAFETY: reads and writes the two registers only.
    unsafe {
        asm!("fcvtl {o:v}.4s, {i:v}.4h", o = lateout(vreg) out, i = in(vreg) h,
             options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// f32 to f16, rounded to nearest even (the mode Rust code runs in).
#[inline]
#[target_feature(enable = "neon")]
fn narrow(x: float32x4_t) -> uint16x4_t {
    let out: uint16x4_t;
    // SAFETY: reads and writes the two registers only.
    unsafe {
        asm!("fcvtn {o:v}.4h, {i:v}.4s", o = lateout(vreg) out, i = in(vreg) x,
             options(pure, nomem, nostack, preserves_flags));
    }
    out
}

impl Lanes for float32x4_t {
    const LANES: usize = 4;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn zero() -> Self {
        vdupq_n_f32(0.0)
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller guarantees 4 readable numbers.
        unsafe { vld1q_f32(p) }
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        let mut padded = [0f32; 4];
        // SAFETY: the caller guarantees n < 4 readable numbers; padded is a local of 4.
        unsafe {
            for (i, slot) in padded.iter_mut().enumerate().take(n) {
                *slot = p.add(i).read();
            }
            Self::load(padded.as_ptr())
        }
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: the caller guarantees 4 readable numbers of two bytes.
        widen(unsafe { vld1_u16(p.cast()) })
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_f16_first(p: *const f16, n: usize) -> Self {
        let mut padded = [f16::ZERO; 4];
        // SAFETY: the caller guarantees n < 4 readable numbers; padded is a local of 4.
        unsafe {
            for (i, slot) in padded.iter_mut().enumerate().take(n) {
                *slot = p.add(i).read();
            }
            Self::load_f16(padded.as_ptr())
        }
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(self, other: Self) -> Self {
        vaddq_f32(self, other)
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sub(self, other: Self) -> Self {
        vsubq_f32(self, other)
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul(self, other: Self) -> Self {
        vmulq_f32(self, other)
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn abs(self) -> Self {
        vabsq_f32(self)
    }
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sum(self) -> f32 {
        let two = vadd_f32(vget_low_f32(self), vget_high_f32(self));
        vget_lane_f32::<0>(vpadd_f32(two, two))
    }
}

macro_rules! sums {
    ($($name:ident($term:ty, $a:ty, $b:ty);)*) => {$(
        #[target_feature(enable = "neon")]
        unsafe fn $name(a: &[$a], b: &[$b]) -> f32 {
            // SAFETY: the features of float32x4_t are enabled here.
            unsafe { sum_terms::<float32x4_t, 16, $term, $a, $b>(a, b) }
        }
    )*};
}
sums! {
    l2sq(L2sq, f32, f32);
    dot(Dot, f32, f32);
    l1(L1, f32, f32);
    l2sq_f16(L2sq, f32, f16);
    dot_f16(Dot, f32, f16);
    l2sq_halves(L2sq, f16, f16);
    dot_halves(Dot, f16, f16);
    l1_halves(L1, f16, f16);
    l1_f16(L1, f32, f16);
}

macro_rules! counts {
    ($($name:ident($of:ident, $rest:path);)*) => {$(
        /// # Safety
        /// NEON.
        #[target_feature(enable = "neon")]
        unsafe fn $name(a: &[u8], b: &[u8]) -> u32 {
            let n = a.len().min(b.len());
            let (a, b) = (a[..n].chunks_exact(16), b[..n].chunks_exact(16));
            let rest = $rest(a.remainder(), b.remainder());
            let mut sum = vdupq_n_u32(0);
            for (a, b) in a.zip(b) {
                // SAFETY: 16 bytes each.
                let (a, b) = unsafe { (vld1q_u8(a.as_ptr()), vld1q_u8(b.as_ptr())) };
                let pairs = vpaddlq_u8(vcntq_u8($of(a, b)));
                sum = vpadalq_u16(sum, pairs);
            }
            rest + vaddvq_u32(sum)
        }
    )*};
}
counts! {
    differing(veorq_u8, scalar::differing);
    common(vandq_u8, scalar::common);
}

/// # Safety
/// NEON.
#[target_feature(enable = "neon")]
unsafe fn f16_from_f32(src: &[f32], dst: &mut [f16]) {
    let (s, mut d) = (src.chunks_exact(4), dst.chunks_exact_mut(4));
    let rest = s.remainder();
    for (s, d) in s.zip(&mut d) {
        // SAFETY: 4 numbers each.
        unsafe { vst1_u16(d.as_mut_ptr().cast(), narrow(vld1q_f32(s.as_ptr()))) };
    }
    scalar::f16_from_f32(rest, d.into_remainder());
}

/// # Safety
/// NEON.
#[target_feature(enable = "neon")]
unsafe fn f32_from_f16(src: &[f16], dst: &mut [f32]) {
    let (s, mut d) = (src.chunks_exact(4), dst.chunks_exact_mut(4));
    let rest = s.remainder();
    for (s, d) in s.zip(&mut d) {
        // SAFETY: 4 numbers each.
        unsafe { vst1q_f32(d.as_mut_ptr(), float32x4_t::load_f16(s.as_ptr())) };
    }
    scalar::f32_from_f16(rest, d.into_remainder());
}

/// Sums of entries i (`even`, biased by 256 times those of i + 8) and i + 8 (`odd`), u16.
#[derive(Clone, Copy)]
struct Sums {
    even: uint16x8_t,
    odd: uint16x8_t,
}

impl Sums {
    #[inline]
    #[target_feature(enable = "neon")]
    fn zero() -> Self {
        Sums {
            even: vdupq_n_u16(0),
            odd: vdupq_n_u16(0),
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn add(&mut self, values: uint8x16_t) {
        let pairs = vreinterpretq_u16_u8(values);
        self.even = vaddq_u16(self.even, pairs);
        self.odd = vsraq_n_u16::<8>(self.odd, pairs);
    }

    /// Adds the 16 sums to `out` (16 numbers).
    #[inline]
    #[target_feature(enable = "neon")]
    fn flush(self, out: &mut [i32]) {
        let even = vsubq_u16(self.even, vshlq_n_u16::<8>(self.odd));
        for (sums, out) in [even, self.odd].into_iter().zip(out.chunks_exact_mut(8)) {
            let (low, high) = (
                vmovl_u16(vget_low_u16(sums)),
                vmovl_u16(vget_high_u16(sums)),
            );
            let p = out.as_mut_ptr().cast::<u32>();
            // SAFETY: out has 8 numbers.
            unsafe {
                vst1q_u32(p, vaddq_u32(vld1q_u32(p), low));
                vst1q_u32(p.add(4), vaddq_u32(vld1q_u32(p.add(4)), high));
            }
        }
    }
}

/// # Safety
/// NEON; equal lengths, multiples of 16.
#[target_feature(enable = "neon")]
unsafe fn fastscan(codes: &[u8], lut: &[u8], sums: &mut [i32; GROUP]) {
    // 256 steps of at most 255 stay below 2^16.
    const STEPS: usize = 256;
    let (low_sums, high_sums) = sums.split_at_mut(16);
    for (codes, lut) in codes.chunks(16 * STEPS).zip(lut.chunks(16 * STEPS)) {
        let (mut low, mut high) = (Sums::zero(), Sums::zero());
        for (c, l) in codes.chunks_exact(16).zip(lut.chunks_exact(16)) {
            // SAFETY: 16 bytes each.
            let (code, table) = unsafe { (vld1q_u8(c.as_ptr()), vld1q_u8(l.as_ptr())) };
            low.add(vqtbl1q_u8(table, vandq_u8(code, vdupq_n_u8(15))));
            high.add(vqtbl1q_u8(table, vshrq_n_u8::<4>(code)));
        }
        low.flush(low_sums);
        high.flush(high_sums);
    }
}

/// # Safety
/// NEON; whole blocks, and four numbers of the query for each.
#[target_feature(enable = "neon")]
unsafe fn nibble_scan(codes: &[u8], query: &[i8], sums: &mut [i32; GROUP]) {
    // Register `[half][r][k]`: entries 4 r + 2 k and the next, from 16 on in the upper half; two lanes each.
    let mut wide = [[[vdupq_n_s32(0); 2]; 4]; 2];
    for (c, q) in codes
        .chunks_exact(BLOCK)
        .zip(query.as_chunks::<BLOCK_DIMS>().0)
    {
        let q = i32::from_ne_bytes(q.map(|x| x as u8));
        let q = vreinterpretq_s8_s32(vdupq_n_s32(q));
        for (r, c) in c.chunks_exact(16).enumerate() {
            // SAFETY: 16 bytes.
            let code = unsafe { vld1q_u8(c.as_ptr()) };
            let values = [vandq_u8(code, vdupq_n_u8(15)), vshrq_n_u8::<4>(code)];
            for (wide, values) in wide.iter_mut().zip(values) {
                // Values to 15 are the same numbers as i8, and a product fits i16.
                let values = vreinterpretq_s8_u8(values);
                let [low, high] = &mut wide[r];
                *low = vpadalq_s16(*low, vmull_s8(vget_low_s8(values), vget_low_s8(q)));
                *high = vpadalq_s16(*high, vmull_high_s8(values, q));
            }
        }
    }
    for ([low, high], out) in wide.into_iter().flatten().zip(sums.chunks_exact_mut(4)) {
        let p = out.as_mut_ptr();
        // SAFETY: out has 4 numbers.
        unsafe { vst1q_s32(p, vaddq_s32(vld1q_s32(p), vpaddq_s32(low, high))) };
    }
}

/// # Safety
/// NEON.
#[target_feature(enable = "neon")]
unsafe fn group_bounds(
    sums: &[i32; GROUP],
    factors: &GroupFactors,
    estimate: &Estimate,
    limit: &Limit,
    bounds: &mut [f32; GROUP],
) -> u32 {
    const BITS: [u32; 4] = [1, 2, 4, 8];
    let limits: Row;
    (*bounds, limits) = bounds_and_limits(sums, factors, estimate, limit);
    let pairs = bounds.chunks_exact(4).zip(limits.chunks_exact(4));
    pairs.enumerate().fold(0, |mask, (i, (bound, limit))| {
        // SAFETY: 4 numbers each.
        let within = unsafe {
            let above = vcgtq_f32(vld1q_f32(bound.as_ptr()), vld1q_f32(limit.as_ptr()));
            vbicq_u32(vld1q_u32(BITS.as_ptr()), above)
        };
        mask | vaddvq_u32(within) << (4 * i)
    })
}
