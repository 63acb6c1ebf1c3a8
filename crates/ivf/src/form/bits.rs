//! Strings of bits, packed: the row is what the distance is computed of, so its radius is 0.

use half::f16;

use super::sketch::place;
use crate::params::Metric;
use crate::{IvfError, Result};

/// Most bits of an indexed string.
pub const MAX_BITS: u32 = 64_000;
/// Strings of more bits have sketches as coarse vectors; of fewer each bit is a coordinate.
const MAX_PLAIN: u32 = 2048;
/// Dimension of the sketches.
const SKETCH_DIM: u32 = 1024;

/// Rows of strings of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitRows {
    /// Hamming or Jaccard.
    pub metric: Metric,
    /// Bits of a string.
    pub dim: u32,
    /// Of the sketches.
    pub seed: u64,
}

/// Words of 16 bits of a row.
pub(super) fn row_words(dim: u32) -> u32 {
    dim.div_ceil(16)
}

/// Dimension of the coarse vectors.
pub(super) fn coarse_dim(dim: u32) -> u32 {
    if dim <= MAX_PLAIN { dim } else { SKETCH_DIM }
}

/// Words of an input: one more than those of the bits.
pub(super) fn input_words(dim: u32) -> usize {
    1 + dim.div_ceil(32) as usize
}

/// Bits of an input.
pub(super) fn dim_of(input: &[f32]) -> u32 {
    input.first().map_or(0, |word| word.to_bits())
}

/// The input of `n_bits` bits, which are in `bytes`, the first one the highest of the first byte: a word with their number, then `bytes`, filled up.
pub fn input_of(n_bits: u32, bytes: &[u8]) -> Vec<f32> {
    let mut input = vec![0f32; input_words(n_bits)];
    input[0] = f32::from_bits(n_bits);
    let n_bytes = bytes.len().min(n_bits.div_ceil(8) as usize);
    bytemuck::cast_slice_mut(&mut input[1..])[..n_bytes].copy_from_slice(&bytes[..n_bytes]);
    input
}

impl BitRows {
    /// The row of an input. Fails if it has another number of bits, or none.
    pub(crate) fn row_of(&self, input: &[f32]) -> Result<Vec<f16>> {
        let found = dim_of(input);
        if found == 0 || found != self.dim || input.len() != input_words(self.dim) {
            return Err(IvfError::Dimension {
                expected: self.dim,
                found,
            });
        }
        let bytes: &[u8] = bytemuck::cast_slice(&input[1..]);
        let mut row = vec![f16::ZERO; row_words(self.dim) as usize];
        let n_bytes = self.dim.div_ceil(8) as usize;
        let out: &mut [u8] = bytemuck::cast_slice_mut(&mut row);
        out[..n_bytes].copy_from_slice(&bytes[..n_bytes]);
        out[n_bytes - 1] &= self.last_byte();
        Ok(row)
    }

    /// The bits of the last byte that are in use.
    fn last_byte(&self) -> u8 {
        0xFF << (self.dim.next_multiple_of(8) - self.dim)
    }

    /// Whether bits beyond the last are set, as in no row.
    pub(crate) fn has_strays(&self, row: &[f16]) -> bool {
        let bytes: &[u8] = bytemuck::cast_slice(row);
        let n_bytes = self.dim.div_ceil(8) as usize;
        bytes[n_bytes - 1] & !self.last_byte() != 0 || bytes[n_bytes..].iter().any(|&b| b != 0)
    }

    /// The coarse vector of a row, `[coarse_dim]`: 0 and 1, or their sketch; under Jaccard brought to unit length, because there strings with many
    /// bits set are near each other where as many differ that strings with few have nothing in common.
    pub(super) fn coarse_into(&self, row: &[f16], out: &mut [f16]) {
        let bytes: &[u8] = bytemuck::cast_slice(row);
        let is_plain = self.dim <= MAX_PLAIN;
        let mut sums = vec![0f32; out.len()];
        let mut n_ones = 0u32;
        for (i, &byte) in bytes.iter().enumerate() {
            let mut rest = byte;
            while rest != 0 {
                let bit = rest.leading_zeros();
                rest &= !(0x80 >> bit);
                n_ones += 1;
                let at = 8 * i as u32 + bit;
                if is_plain {
                    if let Some(sum) = sums.get_mut(at as usize) {
                        *sum = 1.0;
                    }
                } else {
                    let (bucket, is_negative) = place(self.seed, at, SKETCH_DIM);
                    sums[bucket] += if is_negative { -1.0 } else { 1.0 };
                }
            }
        }
        let scale = match self.metric {
            Metric::Jaccard if n_ones > 0 => 1.0 / (n_ones as f32).sqrt(),
            _ => 1.0,
        };
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = f16::from_f32(sum * scale);
        }
    }
}

/// A string of bits that is searched for.
#[derive(Debug, Clone)]
pub(crate) struct BitQuery {
    is_jaccard: bool,
    /// Packed as rows are.
    bytes: Vec<u8>,
}

impl BitQuery {
    pub(crate) fn new(rows: &BitRows, row: &[f16]) -> Self {
        Self {
            is_jaccard: rows.metric == Metric::Jaccard,
            bytes: bytemuck::cast_slice(row).to_vec(),
        }
    }

    /// The distance to a row: Hamming's exactly, Jaccard's rounded to the nearest f32.
    #[inline]
    pub(crate) fn distance(&self, row: &[f16]) -> f32 {
        let bytes: &[u8] = bytemuck::cast_slice(row);
        let differing = omen_distance::differing(&self.bytes, bytes);
        if !self.is_jaccard {
            return differing as f32;
        }
        match omen_distance::common(&self.bytes, bytes) {
            0 => 1.0,
            common => {
                let share = f64::from(common) / (f64::from(common) + f64::from(differing));
                (1.0 - share) as f32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_have_the_bits_of_their_input(dim in 1u32..300, seed in any::<u64>(), bytes in proptest::collection::vec(any::<u8>(), 40)) {
            let rows = BitRows { metric: Metric::Hamming, dim, seed };
            let row = rows.row_of(&input_of(dim, &bytes)).unwrap();
            prop_assert_eq!(row.len(), row_words(dim) as usize);
            prop_assert!(!rows.has_strays(&row));
            let mut coarse = vec![f16::ZERO; coarse_dim(dim) as usize];
            rows.coarse_into(&row, &mut coarse);
            for i in 0..dim as usize {
                let is_set = bytes[i / 8] & (0x80 >> (i % 8)) != 0;
                prop_assert_eq!(coarse[i].to_f32(), f32::from(u8::from(is_set)));
            }
            prop_assert!(rows.row_of(&input_of(dim + 1, &bytes)).is_err());
            let of_nothing = BitRows { dim: 0, ..rows };
            prop_assert!(of_nothing.row_of(&input_of(0, &[])).is_err());
        }
    }
}
