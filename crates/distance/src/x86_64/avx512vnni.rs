//! AVX-512 VNNI: what machines that have it besides [`super::avx512`] do better.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx512;
use crate::Variant;
use crate::bits::GROUP;
use crate::nibbles::{BLOCK, BLOCK_DIMS};

pub(crate) const VARIANT: Variant = Variant {
    name: "avx512+vnni",
    nibble_scan,
    ..avx512::VARIANT
};

/// Blocks in flight, each with sums of its own: as many as hide the latency of the additions.
const UNROLL: usize = 4;

/// The sums of the low halves, and those of whole bytes: `low + 16 high`, which saves taking the high halves out.
#[derive(Clone, Copy)]
struct Sums {
    low: __m512i,
    bytes: __m512i,
}

impl Sums {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn zero() -> Self {
        Sums {
            low: _mm512_setzero_si512(),
            bytes: _mm512_setzero_si512(),
        }
    }

    /// A block: `codes` of 64 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn add(&mut self, codes: &[u8; BLOCK], query: &[i8; BLOCK_DIMS]) {
        // SAFETY: 64 bytes.
        let code = unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) };
        let query = _mm512_set1_epi32(i32::from_ne_bytes(query.map(|x| x as u8)));
        let low = _mm512_and_si512(code, _mm512_set1_epi8(15));
        self.low = _mm512_dpbusd_epi32(self.low, low, query);
        self.bytes = _mm512_dpbusd_epi32(self.bytes, code, query);
    }
}

/// # Safety
/// AVX-512 with VNNI; whole blocks, and four numbers of the query for each.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn nibble_scan(codes: &[u8], query: &[i8], sums: &mut [i32; GROUP]) {
    // All sums wrap. The difference of the two is 16 times the sum of the high halves as long as that is below 2^31 in
    // magnitude: 16 * 15 * 128 * 4 * 16384 = 2013265920 at most.
    const STEPS: usize = 16384;
    let (codes, query) = (codes.as_chunks().0, query.as_chunks().0);
    for (codes, query) in codes.chunks(STEPS).zip(query.chunks(STEPS)) {
        let mut parts = [Sums::zero(); UNROLL];
        let (c, q) = (codes.as_chunks::<UNROLL>(), query.as_chunks::<UNROLL>());
        for (c, q) in c.0.iter().zip(q.0) {
            for (part, (c, q)) in parts.iter_mut().zip(c.iter().zip(q)) {
                part.add(c, q);
            }
        }
        for (part, (c, q)) in parts.iter_mut().zip(c.1.iter().zip(q.1)) {
            part.add(c, q);
        }
        let sum = |of: fn(&Sums) -> __m512i| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| of(&parts[i]));
            _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d))
        };
        let (low, bytes) = (sum(|part| part.low), sum(|part| part.bytes));
        let high = _mm512_srai_epi32::<4>(_mm512_sub_epi32(bytes, low));
        avx512::add_to(sums, [low, high]);
    }
}
