//! Sketches: vectors of few dimensions that have about the distances of what they were made of, by signed feature hashing.

/// Where coordinate `i` goes in a sketch of `dim` dimensions, and whether it changes its sign. Part of the page format.
#[inline]
pub(super) fn place(seed: u64, i: u32, dim: u32) -> (usize, bool) {
    // The finisher of SplitMix64, whose bits are as good as random for neighbouring inputs.
    let mut x = seed ^ (u64::from(i) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    let bucket = ((x >> 32) * u64::from(dim)) >> 32;
    (bucket as usize, x & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_spread_evenly() {
        let (seed, dim, n) = (crate::testing::seed(), 64, 64_000u32);
        let (mut counts, mut n_negative) = ([0i32; 64], 0);
        for i in 0..n {
            let (bucket, is_negative) = place(seed, i, dim);
            counts[bucket] += 1;
            n_negative += i32::from(is_negative);
        }
        // 1000 a bucket, with a standard deviation of 32; half of all, with one of 126.
        assert!(counts.iter().all(|n| (n - 1000).abs() < 200), "{counts:?}");
        assert!((n_negative - 32_000).abs() < 800, "{n_negative}");
    }
}
