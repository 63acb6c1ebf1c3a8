//! Distances of bit strings, eight bits a byte. Whole numbers: the same on every machine.

#![allow(unsafe_code)]

/// Bits in which two strings differ. Slices of equal length; where they differ (an error of the caller) the shorter counts.
#[inline]
pub fn hamming(a: &[u8], b: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("popcnt") {
        // SAFETY: the machine has the instruction.
        return unsafe { hamming_popcnt(a, b) };
    }
    hamming_by(a, b)
}

/// 1 less the share of the bits set in both among those set in either; 1 where none is set in both. Slices as for [`hamming`].
#[inline]
pub fn jaccard(a: &[u8], b: &[u8]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("popcnt") {
        // SAFETY: the machine has the instruction.
        return unsafe { jaccard_popcnt(a, b) };
    }
    jaccard_by(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt")]
fn hamming_popcnt(a: &[u8], b: &[u8]) -> u64 {
    hamming_by(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt")]
fn jaccard_popcnt(a: &[u8], b: &[u8]) -> f64 {
    jaccard_by(a, b)
}

#[inline(always)]
fn hamming_by(a: &[u8], b: &[u8]) -> u64 {
    let mut n = 0;
    for_each_word(a, b, |a, b| n += u64::from((a ^ b).count_ones()));
    n
}

#[inline(always)]
fn jaccard_by(a: &[u8], b: &[u8]) -> f64 {
    let (mut n_both, mut n_either) = (0_u64, 0_u64);
    for_each_word(a, b, |a, b| {
        n_both += u64::from((a & b).count_ones());
        n_either += u64::from((a | b).count_ones());
    });
    if n_both == 0 {
        return 1.0;
    }
    1.0 - n_both as f64 / n_either as f64
}

/// Calls `f` with 64 bits of each at a time, at the end with those that are left and zeros.
#[inline(always)]
fn for_each_word(a: &[u8], b: &[u8], mut f: impl FnMut(u64, u64)) {
    let (a_words, a_rest) = a.as_chunks();
    let (b_words, b_rest) = b.as_chunks();
    for (a, b) in a_words.iter().zip(b_words) {
        f(u64::from_ne_bytes(*a), u64::from_ne_bytes(*b));
    }
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        f(a.into(), b.into());
    }
}
