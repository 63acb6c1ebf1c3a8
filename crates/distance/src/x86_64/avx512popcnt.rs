//! AVX-512 VPOPCNTDQ: what machines that have it besides [`super::avx512vnni`] do better.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx512vnni;
use crate::Variant;

pub(crate) const VARIANT: Variant = Variant {
    name: "avx512+vnni+vpopcntdq",
    differing,
    common,
    ..avx512vnni::VARIANT
};

macro_rules! counts {
    ($($name:ident($of:ident);)*) => {$(
        /// # Safety
        /// AVX-512 with VPOPCNTDQ.
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq")]
        unsafe fn $name(a: &[u8], b: &[u8]) -> u32 {
            let n = a.len().min(b.len());
            let (a, b) = (a[..n].chunks_exact(64), b[..n].chunks_exact(64));
            let (a_rest, b_rest) = (a.remainder(), b.remainder());
            let mut sums = _mm512_setzero_si512();
            for (a, b) in a.zip(b) {
                // SAFETY: 64 bytes each.
                let (a, b) = unsafe {
                    (
                        _mm512_loadu_si512(a.as_ptr().cast()),
                        _mm512_loadu_si512(b.as_ptr().cast()),
                    )
                };
                sums = _mm512_add_epi64(sums, _mm512_popcnt_epi64($of(a, b)));
            }
            let mask = (1u64 << a_rest.len()) - 1;
            // SAFETY: the mask ends with the rests, which are of equal length, below 64.
            let (a, b) = unsafe {
                (
                    _mm512_maskz_loadu_epi8(mask, a_rest.as_ptr().cast()),
                    _mm512_maskz_loadu_epi8(mask, b_rest.as_ptr().cast()),
                )
            };
            sums = _mm512_add_epi64(sums, _mm512_popcnt_epi64($of(a, b)));
            _mm512_reduce_add_epi64(sums) as u32
        }
    )*};
}
counts! {
    differing(_mm512_xor_si512);
    common(_mm512_and_si512);
}
