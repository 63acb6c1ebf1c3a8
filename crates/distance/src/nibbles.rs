//! Order of the 4-bit codes of a group.
//!
//! A block is four dimensions of all 32 entries in 64 bytes. Byte `4 e + j` holds the value of dimension `j` of the block, of
//! entry `e` in its low half and of entry `e + 16` in its high half. So the four bytes of a 32-bit lane belong to one
//! entry, in the order in which instructions that multiply bytes and add the products up to a lane want them, and a
//! block's part of the query is the same 32 bits for every lane.

use crate::bits::GROUP;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 64;
/// Dimensions of a block.
pub(crate) const BLOCK_DIMS: usize = 4;

/// Values in rows to the order of [`nibble_scan`](crate::nibble_scan).
///
/// `values`: `[32, n_dims]`, each 0 to 15 (higher bits are dropped). `out`: `[n_blocks, 64]` with
/// `n_blocks = n_dims / 4`, rounded up; dimensions from `n_dims` on read as 0. Panics if a length does not fit.
pub fn pack_nibbles(values: &[u8], n_dims: usize, out: &mut [u8]) {
    check(values.len(), n_dims, out.len());
    for (b, block) in out.chunks_exact_mut(BLOCK).enumerate() {
        for (k, byte) in block.iter_mut().enumerate() {
            let (entry, d) = (k / BLOCK_DIMS, b * BLOCK_DIMS + k % BLOCK_DIMS);
            *byte = if d < n_dims {
                values[entry * n_dims + d] & 15 | values[(entry + 16) * n_dims + d] << 4
            } else {
                0
            };
        }
    }
}

/// The inverse of [`pack_nibbles`].
pub fn unpack_nibbles(codes: &[u8], n_dims: usize, values: &mut [u8]) {
    check(values.len(), n_dims, codes.len());
    for (b, block) in codes.chunks_exact(BLOCK).enumerate() {
        for (k, byte) in block.iter().enumerate() {
            let (entry, d) = (k / BLOCK_DIMS, b * BLOCK_DIMS + k % BLOCK_DIMS);
            if d < n_dims {
                values[entry * n_dims + d] = byte & 15;
                values[(entry + 16) * n_dims + d] = byte >> 4;
            }
        }
    }
}

fn check(n_values: usize, n_dims: usize, code_bytes: usize) {
    assert_eq!(n_values, GROUP * n_dims, "values of a group");
    assert_eq!(
        code_bytes,
        BLOCK * n_dims.div_ceil(BLOCK_DIMS),
        "nibble bytes of a group"
    );
}
