//! AVX2, FMA and F16C: 8 f32 lanes, 32 code bytes a step.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::f16;

use crate::bits::GROUP;
use crate::bounds::{Estimate, GroupFactors, Limit, Row, bounds_and_limits};
use crate::generic::{Dot, L1, L2sq, Lanes, sum_terms};
use crate::nibbles::{BLOCK, BLOCK_DIMS};
use crate::{Isa, Variant, fht, kac, scalar};

pub(crate) const VARIANT: Variant = Variant {
    isa: Isa::Avx2,
    name: "avx2",
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

/// Masks of [`_mm256_maskload_ps`]: the eight from `8 - n` on let the first `n` lanes through.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Lanes for __m256 {
    const LANES: usize = 8;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn zero() -> Self {
        _mm256_setzero_ps()
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller guarantees 8 readable numbers.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        // SAFETY: the caller guarantees n < 8 readable numbers; masked lanes are not read.
        unsafe { _mm256_maskload_ps(p, _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast())) }
    }
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: the caller guarantees 8 readable numbers of two bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(p.cast()) })
    }
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_f16_first(p: *const f16, n: usize) -> Self {
        // Two loads that overlap: whatever both read, both put into the same place.
        // SAFETY: the caller guarantees n < 8 readable numbers of two bytes, and each load ends with the last of them.
        let bits = unsafe {
            match n {
                0 => 0,
                1 => u128::from(p.cast::<u16>().read_unaligned()),
                2 | 3 => {
                    let last = p.add(n - 2).cast::<u32>().read_unaligned();
                    let first = p.cast::<u32>().read_unaligned();
                    u128::from(first) | u128::from(last) << (16 * (n - 2))
                }
                _ => {
                    let last = p.add(n - 4).cast::<u64>().read_unaligned();
                    let first = p.cast::<u64>().read_unaligned();
                    u128::from(first) | u128::from(last) << (16 * (n - 4))
                }
            }
        };
        _mm256_cvtph_ps(_mm_set_epi64x((bits >> 64) as i64, bits as i64))
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add(self, other: Self) -> Self {
        _mm256_add_ps(self, other)
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn sub(self, other: Self) -> Self {
        _mm256_sub_ps(self, other)
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn mul(self, other: Self) -> Self {
        _mm256_mul_ps(self, other)
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn abs(self) -> Self {
        _mm256_andnot_ps(_mm256_set1_ps(-0.0), self)
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn sum(self) -> f32 {
        let four = _mm_add_ps(
            _mm256_castps256_ps128(self),
            _mm256_extractf128_ps::<1>(self),
        );
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

macro_rules! sums {
    ($($name:ident($term:ty, $a:ty, $b:ty);)*) => {$(
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name(a: &[$a], b: &[$b]) -> f32 {
            // SAFETY: the features of __m256 are enabled here.
            unsafe { sum_terms::<__m256, 8, $term, $a, $b>(a, b) }
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

/// Counts the bits of 32 bytes, as four sums of 64 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn count_ones(x: __m256i) -> __m256i {
    let of_nibble = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3,
        3, 4,
    );
    let nibble = _mm256_set1_epi8(15);
    let low = _mm256_shuffle_epi8(of_nibble, _mm256_and_si256(x, nibble));
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(x), nibble);
    let bytes = _mm256_add_epi8(low, _mm256_shuffle_epi8(of_nibble, high));
    _mm256_sad_epu8(bytes, _mm256_setzero_si256())
}

macro_rules! counts {
    ($($name:ident($of:ident, $rest:path);)*) => {$(
        /// # Safety
        /// AVX2.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) unsafe fn $name(a: &[u8], b: &[u8]) -> u32 {
            let n = a.len().min(b.len());
            let (a, b) = (a[..n].chunks_exact(32), b[..n].chunks_exact(32));
            let rest = $rest(a.remainder(), b.remainder());
            let mut sums = _mm256_setzero_si256();
            for (a, b) in a.zip(b) {
                // SAFETY: 32 bytes each.
                let (a, b) = unsafe {
                    (
                        _mm256_loadu_si256(a.as_ptr().cast()),
                        _mm256_loadu_si256(b.as_ptr().cast()),
                    )
                };
                sums = _mm256_add_epi64(sums, count_ones($of(a, b)));
            }
            let mut lanes = [0u64; 4];
            // SAFETY: 32 bytes.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums) };
            rest + lanes.iter().sum::<u64>() as u32
        }
    )*};
}
counts! {
    differing(_mm256_xor_si256, scalar::differing);
    common(_mm256_and_si256, scalar::common);
}

/// # Safety
/// AVX2 and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16_from_f32(src: &[f32], dst: &mut [f16]) {
    let (s, mut d) = (src.chunks_exact(8), dst.chunks_exact_mut(8));
    let rest = s.remainder();
    for (s, d) in s.zip(&mut d) {
        // SAFETY: 8 numbers each.
        unsafe {
            let h = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(s.as_ptr()));
            _mm_storeu_si128(d.as_mut_ptr().cast(), h);
        }
    }
    scalar::f16_from_f32(rest, d.into_remainder());
}

/// # Safety
/// AVX2 and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32_from_f16(src: &[f16], dst: &mut [f32]) {
    let (s, mut d) = (src.chunks_exact(8), dst.chunks_exact_mut(8));
    let rest = s.remainder();
    for (s, d) in s.zip(&mut d) {
        // SAFETY: 8 numbers each.
        unsafe { _mm256_storeu_ps(d.as_mut_ptr(), __m256::load_f16(s.as_ptr())) };
    }
    scalar::f32_from_f16(rest, d.into_remainder());
}

/// Sums of entries i (`even`, biased by 256 times those of i + 8) and i + 8 (`odd`), u16, two nibble positions.
#[derive(Clone, Copy)]
struct Sums {
    even: __m256i,
    odd: __m256i,
}

impl Sums {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn zero() -> Self {
        Sums {
            even: _mm256_setzero_si256(),
            odd: _mm256_setzero_si256(),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(&mut self, values: __m256i) {
        self.even = _mm256_add_epi16(self.even, values);
        self.odd = _mm256_add_epi16(self.odd, _mm256_srli_epi16::<8>(values));
    }

    /// Adds the 16 sums to `out` (16 numbers).
    #[inline]
    #[target_feature(enable = "avx2")]
    fn flush(self, out: &mut [i32]) {
        let even = _mm256_sub_epi16(self.even, _mm256_slli_epi16::<8>(self.odd));
        for (sums, out) in [even, self.odd].into_iter().zip(out.chunks_exact_mut(8)) {
            let low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(sums));
            let high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(sums));
            let eight = _mm256_add_epi32(low, high);
            // SAFETY: out has 8 numbers.
            unsafe {
                let p = out.as_mut_ptr().cast::<__m256i>();
                _mm256_storeu_si256(p, _mm256_add_epi32(_mm256_loadu_si256(p), eight));
            }
        }
    }
}

/// # Safety
/// AVX2; equal lengths, multiples of 16.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fastscan(codes: &[u8], lut: &[u8], sums: &mut [i32; GROUP]) {
    // A u16 lane sees every second nibble position: 256 steps of at most 255 stay below 2^16.
    const STEPS: usize = 256;
    let (low_sums, high_sums) = sums.split_at_mut(16);
    for (codes, lut) in codes.chunks(32 * STEPS).zip(lut.chunks(32 * STEPS)) {
        let (mut low, mut high) = (Sums::zero(), Sums::zero());
        let mut step = |code: __m256i, table: __m256i| {
            let nibble = _mm256_set1_epi8(15);
            let high_nibble = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
            low.add(_mm256_shuffle_epi8(table, _mm256_and_si256(code, nibble)));
            high.add(_mm256_shuffle_epi8(table, high_nibble));
        };
        let (c, l) = (codes.chunks_exact(32), lut.chunks_exact(32));
        let (c_rest, l_rest) = (c.remainder(), l.remainder());
        for (c, l) in c.zip(l) {
            // SAFETY: 32 bytes each.
            unsafe {
                step(
                    _mm256_loadu_si256(c.as_ptr().cast()),
                    _mm256_loadu_si256(l.as_ptr().cast()),
                );
            }
        }
        if !c_rest.is_empty() {
            // SAFETY: both rests are the one nibble position of 16 bytes that is left; a table of zeros adds nothing.
            unsafe {
                step(
                    _mm256_zextsi128_si256(_mm_loadu_si128(c_rest.as_ptr().cast())),
                    _mm256_zextsi128_si256(_mm_loadu_si128(l_rest.as_ptr().cast())),
                );
            }
        }
        low.flush(low_sums);
        high.flush(high_sums);
    }
}

/// # Safety
/// AVX2; whole blocks, and four numbers of the query for each.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn nibble_scan(codes: &[u8], query: &[i8], sums: &mut [i32; GROUP]) {
    // An i16 lane takes two products a step, each of magnitude 15 * 128 at most: the pair is below 2^15 in
    // magnitude, so maddubs does not saturate, and neither do eight steps wrap: 8 * 2 * 15 * 128 = 30720 < 2^15.
    const STEPS: usize = 8;
    // The lanes of entries 0 to 7, 8 to 15, and those 16 on, in the order of `sums`.
    let mut wide = [_mm256_setzero_si256(); 4];
    let parts = codes.chunks(BLOCK * STEPS);
    for (codes, query) in parts.zip(query.chunks(BLOCK_DIMS * STEPS)) {
        let mut narrow = [_mm256_setzero_si256(); 4];
        for (c, q) in codes.chunks_exact(BLOCK).zip(query.as_chunks().0) {
            let q = _mm256_set1_epi32(i32::from_ne_bytes(q.map(|x| x as u8)));
            let nibble = _mm256_set1_epi8(15);
            for half in 0..2 {
                // SAFETY: 32 of the block's 64 bytes.
                let code = unsafe { _mm256_loadu_si256(c.as_ptr().add(32 * half).cast()) };
                let low = _mm256_and_si256(code, nibble);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
                for (i, values) in [(half, low), (half + 2, high)] {
                    narrow[i] = _mm256_add_epi16(narrow[i], _mm256_maddubs_epi16(values, q));
                }
            }
        }
        for (wide, narrow) in wide.iter_mut().zip(narrow) {
            let pairs = _mm256_madd_epi16(narrow, _mm256_set1_epi16(1));
            *wide = _mm256_add_epi32(*wide, pairs);
        }
    }
    for (wide, out) in wide.into_iter().zip(sums.chunks_exact_mut(8)) {
        // SAFETY: out has 8 numbers.
        unsafe {
            let p = out.as_mut_ptr().cast::<__m256i>();
            _mm256_storeu_si256(p, _mm256_add_epi32(_mm256_loadu_si256(p), wide));
        }
    }
}

/// # Safety
/// AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_bounds(
    sums: &[i32; GROUP],
    factors: &GroupFactors,
    estimate: &Estimate,
    limit: &Limit,
    bounds: &mut [f32; GROUP],
) -> u32 {
    let limits: Row;
    (*bounds, limits) = bounds_and_limits(sums, factors, estimate, limit);
    let pairs = bounds.chunks_exact(8).zip(limits.chunks_exact(8));
    pairs.enumerate().fold(0, |mask, (i, (bound, limit))| {
        // SAFETY: 8 numbers each.
        let within = unsafe {
            let (b, l) = (
                _mm256_loadu_ps(bound.as_ptr()),
                _mm256_loadu_ps(limit.as_ptr()),
            );
            _mm256_cmp_ps::<_CMP_NGT_UQ>(b, l)
        };
        mask | (_mm256_movemask_ps(within) as u32) << (8 * i)
    })
}

/// # Safety
/// AVX2; the length is a power of two.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn hadamard(x: &mut [f32]) {
    if x.len() < 8 {
        return scalar::hadamard(x);
    }
    fht::transform(x, |block| {
        for part in block.chunks_exact_mut(8) {
            // SAFETY: 8 numbers.
            unsafe {
                let v = _mm256_loadu_ps(part.as_ptr());
                _mm256_storeu_ps(part.as_mut_ptr(), hadamard_8(v));
            }
        }
        fht::wide_passes::<8>(block, 8);
    });
}

/// # Safety
/// AVX2; as [`crate::rotate`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rotate(x: &mut [f32], flips: &[u32]) {
    // SAFETY: AVX2, which this function enables; the window's length is a power of two.
    kac::rotate(x, flips, |window| unsafe { hadamard(window) });
}

/// The three passes within a register.
#[inline]
#[target_feature(enable = "avx2")]
fn hadamard_8(v: __m256) -> __m256 {
    // In the upper of two partners the result is partner - self, so the sign of self flips first.
    const N: f32 = -0.0;
    let ones = _mm256_xor_ps(v, _mm256_setr_ps(0.0, N, 0.0, N, 0.0, N, 0.0, N));
    let v = _mm256_add_ps(_mm256_permute_ps::<0b10_11_00_01>(v), ones);
    let twos = _mm256_xor_ps(v, _mm256_setr_ps(0.0, 0.0, N, N, 0.0, 0.0, N, N));
    let v = _mm256_add_ps(_mm256_permute_ps::<0b01_00_11_10>(v), twos);
    let fours = _mm256_xor_ps(v, _mm256_setr_ps(0.0, 0.0, 0.0, 0.0, N, N, N, N));
    _mm256_add_ps(_mm256_permute2f128_ps::<1>(v, v), fours)
}
