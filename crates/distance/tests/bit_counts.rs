//! Counts of bits: every variant against a count bit by bit, at lengths around register widths and of any alignment.

mod common;

use omen_distance::variants;
use rand::Rng;

/// Bytes around the widths of registers, and as many as the longest string of bits has.
const LENGTHS: [usize; 20] = [
    0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 192, 8000,
];

#[test]
fn counts_bit_by_bit() {
    let mut rng = common::rng();
    for n in LENGTHS {
        for fill in [None, Some(0u8), Some(255)] {
            // One byte beyond each end, which must not count, and addresses that are odd as often as not.
            let start = rng.random_range(1..3);
            let mut bytes = || -> Vec<u8> {
                let n = n + start + 1;
                (0..n)
                    .map(|_| fill.unwrap_or_else(|| rng.random()))
                    .collect()
            };
            let (a, b) = (bytes(), bytes());
            let (a, b) = (&a[start..start + n], &b[start..start + n]);
            let (mut differ, mut both) = (0, 0);
            for i in 0..8 * n {
                let (x, y) = (a[i / 8] >> (i % 8) & 1, b[i / 8] >> (i % 8) & 1);
                differ += u32::from(x != y);
                both += u32::from(x == 1 && y == 1);
            }
            for v in variants() {
                assert_eq!(v.differing(a, b), differ, "{v:?}, {n} bytes");
                assert_eq!(v.common(a, b), both, "{v:?}, {n} bytes");
            }
            assert_eq!(omen_distance::differing(a, b), differ);
            assert_eq!(omen_distance::common(a, b), both);
        }
    }
}
