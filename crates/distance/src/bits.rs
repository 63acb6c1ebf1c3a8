//! FastScan order of the sign bits of a group.
//!
//! A nibble is four dimensions of one entry. For each nibble position there are 16 bytes; byte `j` holds the
//! nibble of entry `PERM[j]` in its low half and that of entry `PERM[j] + 16` in its high half. So a byte shuffle
//! looks up 16 entries at once, and the two bytes of each u16 lane belong to entries `i` and `i + 8`, which
//! lets two u16 additions sum them without unpacking.

/// Entries in a group.
pub const GROUP: usize = 32;

/// Entry whose nibble is in the low half of byte `j`.
pub const PERM: [usize; 16] = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15];

/// Bit rows to FastScan order.
///
/// `bits`: `[32, words_per_row]`; dimension `d` is bit `d % 64` of word `d / 64`. `out`: `[n_nibbles, 16]` with
/// `n_nibbles = n_dims / 4`, rounded up; dimension `4 n` is bit 0 of nibble `n`, and dimensions from `n_dims` on
/// read as 0. Panics if a length does not fit.
pub fn pack_codes(bits: &[u64], words_per_row: usize, n_dims: usize, out: &mut [u8]) {
    check(bits.len(), words_per_row, n_dims, out.len());
    for (n, block) in out.chunks_exact_mut(16).enumerate() {
        let used = (n_dims - 4 * n).min(4);
        let mask = (1u8 << used) - 1;
        let nibble = |entry: usize| {
            let word = bits[entry * words_per_row + n / 16];
            (word >> (4 * (n % 16))) as u8 & mask
        };
        for (byte, &entry) in block.iter_mut().zip(&PERM) {
            *byte = nibble(entry) | nibble(entry + 16) << 4;
        }
    }
}

/// Adds the bit row of one entry to codes in which it is 0; otherwise as [`pack_codes`], which costs as much as some 20 calls of this.
pub fn put_code(row: &[u64], entry: usize, n_dims: usize, out: &mut [u8]) {
    check(GROUP * row.len(), row.len(), n_dims, out.len());
    let (half, shift) = (entry % 16, entry / 16 * 4);
    // Where `PERM` has it.
    let byte = if half < 8 { 2 * half } else { 2 * half - 15 };
    for (n, block) in out.chunks_exact_mut(16).enumerate() {
        let used = (n_dims - 4 * n).min(4);
        let mask = (1u8 << used) - 1;
        let nibble = (row[n / 16] >> (4 * (n % 16))) as u8 & mask;
        block[byte] |= nibble << shift;
    }
}

/// The inverse of [`pack_codes`]; bits of `bits` from `n_dims` on become 0.
pub fn unpack_codes(codes: &[u8], words_per_row: usize, n_dims: usize, bits: &mut [u64]) {
    check(bits.len(), words_per_row, n_dims, codes.len());
    bits.fill(0);
    for (n, block) in codes.chunks_exact(16).enumerate() {
        let used = (n_dims - 4 * n).min(4);
        let mask = (1u8 << used) - 1;
        for (byte, &entry) in block.iter().zip(&PERM) {
            let mut put = |entry: usize, nibble: u8| {
                bits[entry * words_per_row + n / 16] |= u64::from(nibble & mask) << (4 * (n % 16));
            };
            put(entry, byte & 15);
            put(entry + 16, byte >> 4);
        }
    }
}

fn check(n_words: usize, words_per_row: usize, n_dims: usize, code_bytes: usize) {
    assert_eq!(n_words, GROUP * words_per_row, "bit rows of a group");
    assert!(n_dims <= 64 * words_per_row, "{n_dims} dimensions");
    assert_eq!(code_bytes, 16 * n_dims.div_ceil(4), "code bytes of a group");
}
