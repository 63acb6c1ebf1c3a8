//! Distances of strings of bits, eight a byte.

use crate::{common, differing};

/// Bits that differ. Slices of equal length, below 2^29 bytes; where they differ (an error of the caller) the shorter counts.
#[inline]
pub fn hamming(a: &[u8], b: &[u8]) -> u64 {
    differing(a, b).into()
}

/// 1 less the share of the bits set in both among those set in either; 1 where none is set in both. Slices as for [`hamming`].
#[inline]
pub fn jaccard(a: &[u8], b: &[u8]) -> f64 {
    match common(a, b) {
        0 => 1.0,
        n_both => {
            let n_either = f64::from(n_both) + f64::from(differing(a, b));
            1.0 - f64::from(n_both) / n_either
        }
    }
}
