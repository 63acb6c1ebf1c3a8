//! AVX-512 F, BW, VL and DQ: 16 f32 lanes, 64 code bytes a step. Tails are masked loads.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::f16;

use super::avx2::{self, common, differing};
use crate::bits::GROUP;
use crate::bounds::{Estimate, GroupFactors, Limit, Row, bounds_and_limits};
use crate::generic::{Dot, L1, L2sq, Lanes, sum_terms};
use crate::nibbles::{BLOCK, BLOCK_DIMS};
use crate::{Isa, Variant, fht, kac};

pub(crate) const VARIANT: Variant = Variant {
    isa: Isa::Avx512,
    name: "avx512",
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

/// The lowest `n < 32` bits.
#[inline]
fn first(n: usize) -> u32 {
    (1 << n) - 1
}

impl Lanes for __m512 {
    const LANES: usize = 16;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn zero() -> Self {
        _mm512_setzero_ps()
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller guarantees 16 readable numbers.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        // SAFETY: the caller guarantees n readable numbers; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(first(n) as __mmask16, p) }
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: the caller guarantees 16 readable numbers of two bytes.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(p.cast()) })
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_f16_first(p: *const f16, n: usize) -> Self {
        // SAFETY: the caller guarantees n readable numbers; masked lanes are not read.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(first(n) as __mmask16, p.cast()) })
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn add(self, other: Self) -> Self {
        _mm512_add_ps(self, other)
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn sub(self, other: Self) -> Self {
        _mm512_sub_ps(self, other)
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn mul(self, other: Self) -> Self {
        _mm512_mul_ps(self, other)
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn abs(self) -> Self {
        _mm512_abs_ps(self)
    }
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512dq")]
    unsafe fn sum(self) -> f32 {
        let (low, high) = (
            _mm512_castps512_ps256(self),
            _mm512_extractf32x8_ps::<1>(self),
        );
        // SAFETY: AVX2, which this function enables.
        unsafe { _mm256_add_ps(low, high).sum() }
    }
}

macro_rules! sums {
    ($($name:ident($term:ty, $a:ty, $b:ty);)*) => {$(
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
        unsafe fn $name(a: &[$a], b: &[$b]) -> f32 {
            // SAFETY: the features of __m512 are enabled here.
            unsafe { sum_terms::<__m512, 4, $term, $a, $b>(a, b) }
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

/// # Safety
/// AVX-512; equal lengths.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn f16_from_f32(src: &[f32], dst: &mut [f16]) {
    let (s, mut d) = (src.chunks_exact(16), dst.chunks_exact_mut(16));
    let rest = s.remainder();
    for (s, d) in s.zip(&mut d) {
        // SAFETY: 16 numbers each.
        unsafe {
            let h = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_loadu_ps(s.as_ptr()));
            _mm256_storeu_si256(d.as_mut_ptr().cast(), h);
        }
    }
    let mask = first(rest.len()) as __mmask16;
    // SAFETY: the mask ends with the rests, which are of equal length.
    unsafe {
        let x = _mm512_maskz_loadu_ps(mask, rest.as_ptr());
        let h = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
        _mm256_mask_storeu_epi16(d.into_remainder().as_mut_ptr().cast(), mask, h);
    }
}

/// # Safety
/// AVX-512; equal lengths.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn f32_from_f16(src: &[f16], dst: &mut [f32]) {
    let (s, mut d) = (src.chunks_exact(16), dst.chunks_exact_mut(16));
    let rest = s.remainder();
    for (s, d) in s.zip(&mut d) {
        // SAFETY: 16 numbers each.
        unsafe { _mm512_storeu_ps(d.as_mut_ptr(), __m512::load_f16(s.as_ptr())) };
    }
    let mask = first(rest.len()) as __mmask16;
    // SAFETY: the mask ends with the rests, which are of equal length.
    unsafe {
        let x = __m512::load_f16_first(rest.as_ptr(), rest.len());
        _mm512_mask_storeu_ps(d.into_remainder().as_mut_ptr(), mask, x);
    }
}

/// Sums of entries i (`even`, biased by 256 times those of i + 8) and i + 8 (`odd`), u16, four nibble positions.
#[derive(Clone, Copy)]
struct Sums {
    even: __m512i,
    odd: __m512i,
}

impl Sums {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn zero() -> Self {
        Sums {
            even: _mm512_setzero_si512(),
            odd: _mm512_setzero_si512(),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn add(&mut self, values: __m512i) {
        self.even = _mm512_add_epi16(self.even, values);
        self.odd = _mm512_add_epi16(self.odd, _mm512_srli_epi16::<8>(values));
    }

    /// Adds the 16 sums to `out` (16 numbers).
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq")]
    fn flush(self, out: &mut [i32]) {
        let even = _mm512_sub_epi16(self.even, _mm512_slli_epi16::<8>(self.odd));
        for (sums, out) in [even, self.odd].into_iter().zip(out.chunks_exact_mut(8)) {
            let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(sums));
            let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(sums));
            let both = _mm512_add_epi32(low, high);
            let eight = _mm256_add_epi32(
                _mm512_castsi512_si256(both),
                _mm512_extracti32x8_epi32::<1>(both),
            );
            // SAFETY: out has 8 numbers.
            unsafe {
                let p = out.as_mut_ptr().cast::<__m256i>();
                _mm256_storeu_si256(p, _mm256_add_epi32(_mm256_loadu_si256(p), eight));
            }
        }
    }
}

/// # Safety
/// AVX-512; equal lengths, multiples of 16.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn fastscan(codes: &[u8], lut: &[u8], sums: &mut [i32; GROUP]) {
    // A u16 lane sees one nibble position of each four: 256 steps of at most 255 stay below 2^16.
    const STEPS: usize = 256;
    let (low_sums, high_sums) = sums.split_at_mut(16);
    for (codes, lut) in codes.chunks(64 * STEPS).zip(lut.chunks(64 * STEPS)) {
        let (mut low, mut high) = (Sums::zero(), Sums::zero());
        let mut step = |code: __m512i, table: __m512i| {
            let nibble = _mm512_set1_epi8(15);
            let high_nibble = _mm512_and_si512(_mm512_srli_epi16::<4>(code), nibble);
            low.add(_mm512_shuffle_epi8(table, _mm512_and_si512(code, nibble)));
            high.add(_mm512_shuffle_epi8(table, high_nibble));
        };
        let (c, l) = (codes.chunks_exact(64), lut.chunks_exact(64));
        let (c_rest, l_rest) = (c.remainder(), l.remainder());
        for (c, l) in c.zip(l) {
            // SAFETY: 64 bytes each.
            unsafe {
                step(
                    _mm512_loadu_si512(c.as_ptr().cast()),
                    _mm512_loadu_si512(l.as_ptr().cast()),
                );
            }
        }
        if !c_rest.is_empty() {
            let mask = first(c_rest.len() / 8) as __mmask8;
            // SAFETY: the mask ends with the slices, which are of equal length; a table of zeros adds nothing.
            unsafe {
                step(
                    _mm512_maskz_loadu_epi64(mask, c_rest.as_ptr().cast()),
                    _mm512_maskz_loadu_epi64(mask, l_rest.as_ptr().cast()),
                );
            }
        }
        low.flush(low_sums);
        high.flush(high_sums);
    }
}

/// # Safety
/// AVX-512; whole blocks, and four numbers of the query for each.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn nibble_scan(codes: &[u8], query: &[i8], sums: &mut [i32; GROUP]) {
    // An i16 lane takes two products a step, each of magnitude 15 * 128 at most: the pair is below 2^15 in
    // magnitude, so maddubs does not saturate, and neither do eight steps wrap: 8 * 2 * 15 * 128 = 30720 < 2^15.
    const STEPS: usize = 8;
    let mut wide = [_mm512_setzero_si512(); 2];
    let parts = codes.chunks(BLOCK * STEPS);
    for (codes, query) in parts.zip(query.chunks(BLOCK_DIMS * STEPS)) {
        let mut narrow = [_mm512_setzero_si512(); 2];
        for (c, q) in codes.chunks_exact(BLOCK).zip(query.as_chunks().0) {
            let q = _mm512_set1_epi32(i32::from_ne_bytes(q.map(|x| x as u8)));
            let nibble = _mm512_set1_epi8(15);
            // SAFETY: 64 bytes.
            let code = unsafe { _mm512_loadu_si512(c.as_ptr().cast()) };
            let low = _mm512_and_si512(code, nibble);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(code), nibble);
            for (narrow, values) in narrow.iter_mut().zip([low, high]) {
                *narrow = _mm512_add_epi16(*narrow, _mm512_maddubs_epi16(values, q));
            }
        }
        for (wide, narrow) in wide.iter_mut().zip(narrow) {
            let pairs = _mm512_madd_epi16(narrow, _mm512_set1_epi16(1));
            *wide = _mm512_add_epi32(*wide, pairs);
        }
    }
    add_to(sums, wide);
}

/// Adds the sums of entries 0 to 15 and of those from 16 on.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add_to(sums: &mut [i32; GROUP], more: [__m512i; 2]) {
    for (more, out) in more.into_iter().zip(sums.chunks_exact_mut(16)) {
        // SAFETY: out has 16 numbers.
        unsafe {
            let p = out.as_mut_ptr().cast::<__m512i>();
            _mm512_storeu_si512(p, _mm512_add_epi32(_mm512_loadu_si512(p), more));
        }
    }
}

/// # Safety
/// AVX-512.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn group_bounds(
    sums: &[i32; GROUP],
    factors: &GroupFactors,
    estimate: &Estimate,
    limit: &Limit,
    bounds: &mut [f32; GROUP],
) -> u32 {
    let limits: Row;
    (*bounds, limits) = bounds_and_limits(sums, factors, estimate, limit);
    let pairs = bounds.chunks_exact(16).zip(limits.chunks_exact(16));
    pairs.enumerate().fold(0, |mask, (i, (bound, limit))| {
        // SAFETY: 16 numbers each.
        let within = unsafe {
            let (b, l) = (
                _mm512_loadu_ps(bound.as_ptr()),
                _mm512_loadu_ps(limit.as_ptr()),
            );
            _mm512_cmp_ps_mask::<_CMP_NGT_UQ>(b, l)
        };
        mask | u32::from(within) << (16 * i)
    })
}

/// # Safety
/// AVX-512; the length is a power of two.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn hadamard(x: &mut [f32]) {
    if x.len() < 16 {
        // SAFETY: AVX2, which this function enables.
        return unsafe { avx2::hadamard(x) };
    }
    fht::transform(x, |block| {
        for part in block.chunks_exact_mut(16) {
            // SAFETY: 16 numbers.
            unsafe {
                let v = _mm512_loadu_ps(part.as_ptr());
                _mm512_storeu_ps(part.as_mut_ptr(), hadamard_16(v));
            }
        }
        fht::wide_passes::<16>(block, 16);
    });
}

/// # Safety
/// AVX-512; as [`crate::rotate`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn rotate(x: &mut [f32], flips: &[u32]) {
    // SAFETY: AVX-512, which this function enables; the window's length is a power of two.
    kac::rotate(x, flips, |window| unsafe { hadamard(window) });
}

/// The four passes within a register: `(y + x)` where the pass adds, `(y - x)` where it subtracts, y the partner.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn hadamard_16(v: __m512) -> __m512 {
    // In the upper of two partners the result is partner - self, so the sign of self flips first.
    let flip = |v: __m512, upper: __mmask16| {
        let sign = _mm512_maskz_set1_epi32(upper, i32::MIN);
        _mm512_xor_ps(v, _mm512_castsi512_ps(sign))
    };
    let v = _mm512_add_ps(_mm512_permute_ps::<0b10_11_00_01>(v), flip(v, 0xaaaa));
    let v = _mm512_add_ps(_mm512_permute_ps::<0b01_00_11_10>(v), flip(v, 0xcccc));
    let v = _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_11_00_01>(v, v), flip(v, 0xf0f0));
    _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_11_10>(v, v), flip(v, 0xff00))
}
