//! The scan of 4-bit codes and its order: exact, in all variants, against loops that follow the definitions.

mod common;

use omen_distance::{GROUP, nibble_scan, pack_nibbles, unpack_nibbles, variants};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Around the unrolling (4), the steps before 16-bit sums are widened (8), and the limit of the shared sums (16384).
const N_BLOCKS: [usize; 20] = [
    0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 32, 33, 96, 192, 384, 4000, 16384, 16389,
];

/// Value of dimension `d` of entry `i`, by the definition of the order.
fn value(codes: &[u8], d: usize, i: usize) -> u8 {
    codes[64 * (d / 4) + 4 * (i % 16) + d % 4] >> if i < 16 { 0 } else { 4 } & 15
}

fn naive(codes: &[u8], query: &[i8], sums: &mut [i32; GROUP]) {
    for (d, &q) in query.iter().enumerate() {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.wrapping_add(i32::from(value(codes, d, i)) * i32::from(q));
        }
    }
}

fn assert_all_exact(codes: &[u8], query: &[i8], start: [i32; GROUP]) {
    let mut want = start;
    naive(codes, query, &mut want);
    for v in variants() {
        let mut got = start;
        v.nibble_scan(codes, query, &mut got);
        assert_eq!(got, want, "{v:?}, {} blocks", codes.len() / 64);
    }
}

fn bytes(rng: &mut ChaCha8Rng, n: usize) -> Vec<u8> {
    (0..n).map(|_| rng.random()).collect()
}

#[test]
fn random_codes() {
    let mut rng = common::rng();
    let lengths: Vec<usize> = N_BLOCKS
        .into_iter()
        .chain((0..50).map(|_| rng.random_range(0..600)))
        .collect();
    for n in lengths {
        // One byte in front: no alignment, and what lies outside the slices must not count.
        let codes = bytes(&mut rng, 64 * n + 1);
        let query: Vec<i8> = (0..4 * n + 1).map(|_| rng.random()).collect();
        // Sums wrap, so they may start anywhere.
        let start = std::array::from_fn(|_| rng.random());
        assert_all_exact(&codes[1..], &query[1..], start);
    }
}

/// The largest sums there are: no accumulator may overflow or saturate.
#[test]
fn extreme_values() {
    let mut rng = common::rng();
    for n in N_BLOCKS {
        let random = bytes(&mut rng, 64 * n);
        for query in [-128i8, -127, 127] {
            for codes in [&vec![0xff; 64 * n], &vec![0xf0; 64 * n], &random] {
                assert_all_exact(codes, &vec![query; 4 * n], [7; GROUP]);
            }
        }
        let mixed: Vec<i8> = (0..4 * n)
            .map(|_| [-128, 127][rng.random_range(0..2)])
            .collect();
        assert_all_exact(&vec![0xff; 64 * n], &mixed, [0; GROUP]);
        let mut sums = [0; GROUP];
        nibble_scan(&vec![0xff; 64 * n], &vec![-128; 4 * n], &mut sums);
        assert_eq!(sums, [-128 * 15 * 4 * n as i32; GROUP]);
    }
}

/// Every entry and dimension is found where it should be: one value differs from all others.
#[test]
fn each_entry_by_itself() {
    let mut rng = common::rng();
    for n_dims in [1, 4, 5, 8, 13, 36, 70] {
        for entry in 0..GROUP {
            let at = rng.random_range(0..n_dims);
            let (value, q) = (rng.random_range(1..16u8), rng.random_range(1..=127i8));
            let mut values = vec![0; GROUP * n_dims];
            values[entry * n_dims + at] = value;
            let n_blocks = n_dims.div_ceil(4);
            let mut codes = vec![0xff; 64 * n_blocks];
            pack_nibbles(&values, n_dims, &mut codes);
            let mut query = vec![0; 4 * n_blocks];
            query[at] = q;
            let product = i32::from(value) * i32::from(q);
            for v in variants() {
                let mut sums = [0; GROUP];
                v.nibble_scan(&codes, &query, &mut sums);
                let want: [i32; GROUP] =
                    std::array::from_fn(|i| if i == entry { product } else { 0 });
                assert_eq!(
                    sums, want,
                    "{v:?}, entry {entry}, dimension {at} of {n_dims}"
                );
            }
        }
    }
}

#[test]
fn pack_then_unpack() {
    let mut rng = common::rng();
    for n_dims in [0usize, 1, 2, 3, 4, 5, 63, 64, 65, 96, 128, 255, 768, 1536] {
        let values: Vec<u8> = (0..GROUP * n_dims)
            .map(|_| rng.random_range(0..16))
            .collect();
        let mut codes = bytes(&mut rng, 64 * n_dims.div_ceil(4));
        pack_nibbles(&values, n_dims, &mut codes);
        for d in 0..n_dims.next_multiple_of(4) {
            for i in 0..GROUP {
                let want = if d < n_dims {
                    values[i * n_dims + d]
                } else {
                    0
                };
                let got = value(&codes, d, i);
                assert_eq!(got, want, "dimension {d} of {n_dims}, entry {i}");
            }
        }
        let mut back = bytes(&mut rng, GROUP * n_dims);
        unpack_nibbles(&codes, n_dims, &mut back);
        assert_eq!(back, values, "{n_dims} dimensions");
    }
}

/// The tests above mean every code path: where the machine has VNNI, the path without it is among the variants.
#[test]
fn both_avx512_paths_are_tried() {
    let names: Vec<&str> = variants().iter().map(|v| v.name()).collect();
    println!("variants: {names:?}");
    assert!(!names.contains(&"avx512+vnni") || names.contains(&"avx512"));
}

#[test]
#[should_panic(expected = "nibble_scan")]
fn lengths_must_fit() {
    nibble_scan(&[0; 128], &[0; 4], &mut [0; GROUP]);
}

#[test]
#[should_panic(expected = "nibble_scan")]
fn blocks_must_be_whole() {
    nibble_scan(&[0; 96], &[0; 6], &mut [0; GROUP]);
}
