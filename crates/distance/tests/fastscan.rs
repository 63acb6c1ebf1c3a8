//! FastScan and its bit order: exact, in all variants, against loops that follow the definitions.

mod common;

use omen_distance::{GROUP, PERM, pack_codes, put_code, unpack_codes, variants};
use rand::Rng;

const N_NIBBLES: [usize; 14] = [0, 1, 2, 3, 4, 5, 24, 25, 192, 255, 256, 257, 1000, 4000];

/// Nibble `n` of entry `i`, looked up by the definition of the order.
fn nibble(codes: &[u8], n: usize, i: usize) -> u8 {
    let j = PERM.iter().position(|&entry| entry == i % 16).unwrap();
    codes[16 * n + j] >> if i < 16 { 0 } else { 4 } & 15
}

fn naive(codes: &[u8], lut: &[u8], sums: &mut [i32; GROUP]) {
    for n in 0..codes.len() / 16 {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += i32::from(lut[16 * n + usize::from(nibble(codes, n, i))]);
        }
    }
}

fn assert_all_exact(codes: &[u8], lut: &[u8], start: [i32; GROUP]) {
    let mut want = start;
    naive(codes, lut, &mut want);
    for v in variants() {
        let mut got = start;
        v.fastscan(codes, lut, &mut got);
        assert_eq!(got, want, "{v:?}, {} nibbles", codes.len() / 16);
    }
}

#[test]
fn random_codes() {
    let mut rng = common::rng();
    let lengths = N_NIBBLES
        .into_iter()
        .chain((0..50).map(|_| rng.random_range(0..3000)));
    for n in lengths.collect::<Vec<_>>() {
        // One byte in front: no alignment, and what lies outside the slices must not count.
        let bytes = |rng: &mut rand_chacha::ChaCha8Rng| -> Vec<u8> {
            (0..16 * n + 1).map(|_| rng.random()).collect()
        };
        let (codes, lut) = (bytes(&mut rng), bytes(&mut rng));
        let start = std::array::from_fn(|_| rng.random_range(0..1 << 30));
        assert_all_exact(&codes[1..], &lut[1..], start);
    }
}

/// The largest sums there are: no accumulator may overflow.
#[test]
fn largest_tables() {
    let mut rng = common::rng();
    for n in N_NIBBLES
        .into_iter()
        .chain([1023, 1024, 1025, 1028, 1029, 16384])
    {
        let codes: Vec<u8> = (0..16 * n).map(|_| rng.random()).collect();
        assert_all_exact(&codes, &vec![255; 16 * n], [7; GROUP]);
        let mut sums = [0; GROUP];
        omen_distance::fastscan(&codes, &vec![255; 16 * n], &mut sums);
        assert_eq!(sums, [255 * n as i32; GROUP]);
    }
}

/// Every entry and nibble value is found where it should be: one entry differs from all others.
#[test]
fn each_entry_by_itself() {
    let mut rng = common::rng();
    for n in [1, 2, 3, 4, 5, 9] {
        for entry in 0..GROUP {
            let (mut bits, at) = (vec![0u64; GROUP], rng.random_range(0..n));
            let value = rng.random_range(1..16u64);
            bits[entry] = value << (4 * at);
            let mut codes = vec![0; 16 * n];
            pack_codes(&bits, 1, 4 * n, &mut codes);
            let mut lut = vec![0; 16 * n];
            lut[16 * at + value as usize] = 200;
            for v in variants() {
                let mut sums = [0; GROUP];
                v.fastscan(&codes, &lut, &mut sums);
                let want: [i32; GROUP] = std::array::from_fn(|i| if i == entry { 200 } else { 0 });
                assert_eq!(sums, want, "{v:?}, entry {entry}, nibble {at} of {n}");
            }
        }
    }
}

#[test]
fn pack_then_unpack() {
    let mut rng = common::rng();
    for n_dims in [0usize, 1, 2, 3, 4, 5, 63, 64, 65, 96, 128, 255, 768, 1536] {
        let words = n_dims.div_ceil(64).max(1) + rng.random_range(0..2);
        let bits: Vec<u64> = (0..GROUP * words).map(|_| rng.random()).collect();
        let mut codes = vec![0; 16 * n_dims.div_ceil(4)];
        pack_codes(&bits, words, n_dims, &mut codes);
        let mut one_by_one = vec![0; codes.len()];
        for (entry, row) in bits.chunks_exact(words).enumerate() {
            put_code(row, entry, n_dims, &mut one_by_one);
        }
        assert_eq!(one_by_one, codes, "{n_dims} dimensions");
        let bit = |bits: &[u64], i: usize, d: usize| bits[i * words + d / 64] >> (d % 64) & 1;
        for d in 0..n_dims {
            for i in 0..GROUP {
                let packed = u64::from(nibble(&codes, d / 4, i) >> (d % 4) & 1);
                assert_eq!(
                    packed,
                    bit(&bits, i, d),
                    "dimension {d} of {n_dims}, entry {i}"
                );
            }
        }
        let mut back: Vec<u64> = (0..GROUP * words).map(|_| rng.random()).collect();
        unpack_codes(&codes, words, n_dims, &mut back);
        for i in 0..GROUP {
            for d in 0..64 * words {
                let want = if d < n_dims { bit(&bits, i, d) } else { 0 };
                assert_eq!(
                    bit(&back, i, d),
                    want,
                    "dimension {d} of {n_dims}, entry {i}"
                );
            }
        }
    }
}

#[test]
#[should_panic(expected = "fastscan")]
fn lengths_must_agree() {
    omen_distance::fastscan(&[0; 32], &[0; 16], &mut [0; GROUP]);
}
