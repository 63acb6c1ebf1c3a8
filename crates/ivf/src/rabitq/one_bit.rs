//! Codes of one bit: the signs of the rotated residual. `o_i` is 1 or -1.

use omen_distance::{pack_codes, put_code};

use super::{CodeSums, QueryCode, Table, epsilon};
use crate::lanes::{LANES, Lanes, lanes};
use crate::layout::group::{Filter, GROUP};

/// The signs of a rotated residual (`[code_dim]`, a multiple of 8) into `values` (`[code_dim]`, 1 for positive).
pub(super) fn encode(rotated: &[f32], rotated_centroid: &[f32], values: &mut [u8]) -> CodeSums {
    let (mut residual, mut centroid) = (Lanes::default(), Lanes::default());
    let (values, _) = values.as_chunks_mut::<LANES>();
    let both = lanes(rotated).iter().zip(lanes(rotated_centroid));
    for ((r, c), values) in both.zip(values) {
        for i in 0..LANES {
            let positive = r[i] > 0.0;
            values[i] = u8::from(positive);
            residual.0[i] += f64::from(r[i].abs());
            centroid.0[i] += f64::from(if positive { c[i] } else { -c[i] });
        }
    }
    CodeSums {
        residual: residual.sum(),
        centroid: centroid.sum(),
        norm_sq: rotated.len() as f64,
    }
}

/// Entries from which on a group is packed at once.
const MANY: usize = 16;

/// Values of the first entries of a group (`[n, code_dim]`, n up to 32) to FastScan order; the others get zeros.
pub(super) fn pack(values: &[u8], code_dim: usize, out: &mut [u8]) {
    let words = code_dim / 64;
    let n = values.len() / code_dim;
    let mut bits = vec![0u64; if n < MANY { n } else { GROUP } * words];
    for (word, values) in bits.iter_mut().zip(values.chunks_exact(64)) {
        *word = bits_of(values);
    }
    if n >= MANY {
        return pack_codes(&bits, words, code_dim, out);
    }
    out.fill(0);
    for (entry, row) in bits.chunks_exact(words).enumerate() {
        put_code(row, entry, code_dim, out);
    }
}

/// 64 values of 0 or 1 as bits, the first lowest.
fn bits_of(values: &[u8]) -> u64 {
    let (eights, _) = values.as_chunks::<8>();
    let bits = eights.iter().enumerate().map(|(i, eight)| {
        // Each byte's bit goes to the highest byte, the first lowest; no two meet.
        let bits = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        bits << (8 * i)
    });
    bits.fold(0, |all, bits| all | bits)
}

/// The table of a rotated query (`[code_dim]`): with `ip` = sum of `q'_i` over set bits and `S` = sum of all `q'_i`,
/// `<o, q'> = 2 ip - S`.
pub(super) fn query(rotated: &[f32]) -> QueryCode {
    let range = |nibble: &[f32]| nibble.iter().map(|x| x.abs()).sum::<f32>();
    let largest = rotated.chunks_exact(4).map(range).fold(0f32, f32::max);
    let delta = largest / 255.0;
    let per_unit = if delta > 0.0 { 1.0 / delta } else { 0.0 };
    let mut table = Vec::with_capacity(rotated.len() * 4);
    for nibble in rotated.chunks_exact(4) {
        let lowest: f32 = nibble.iter().map(|x| x.min(0.0)).sum();
        let mut sums = [-lowest; 16];
        for (bit, &x) in nibble.iter().enumerate() {
            for (pattern, sum) in sums.iter_mut().enumerate() {
                *sum += if pattern >> bit & 1 == 1 { x } else { 0.0 };
            }
        }
        // No sum is below 0 by more than rounding, so this rounds to nearest.
        table.extend(sums.map(|sum| (sum * per_unit + 0.5) as u8));
    }
    // Each nibble is off by at most delta/2: in the worst case all in one direction, in fact like independent
    // uniform errors. Five standard deviations of those keep in step with `epsilon`.
    let n_nibbles = rotated.len() as f32 / 4.0;
    let rounding = delta * (n_nibbles / 2.0).min(5.0 * (n_nibbles / 12.0).sqrt());
    let abs_sum: f32 = rotated.iter().map(|x| x.abs()).sum();
    QueryCode {
        epsilon: epsilon(Filter::OneBit),
        table: Table::Sums(table),
        step: 2.0 * delta,
        // 2 * lowest - S of a nibble is minus the sum of its magnitudes.
        base: -abs_sum,
        slack: 2.0 * rounding + abs_sum * 2f32.powi(-22),
    }
}
