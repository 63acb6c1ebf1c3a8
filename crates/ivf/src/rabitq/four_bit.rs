//! Codes of four bits: the rotated residual on a grid of sixteen levels. `o_i = v_i - 7.5`, `v_i` from 0 to 15.
//!
//! After the rotation the components are close to normal, with variance `n^2 / D`. The grid's step is the one that
//! loses least of a normal variable in sixteen levels of equal width, 0.3352 standard deviations (J. Max, Quantizing for
//! minimum distortion, 1960, table II): a seventh of the error of the signs. A search for the best step of each
//! vector would gain a few percent of that.

use omen_distance::pack_nibbles;

use super::{CodeSums, QueryCode, Table, epsilon};
use crate::layout::group::Filter;

/// Width of a level in standard deviations of a component.
const STEP: f64 = 0.3352;
/// The grid's middle.
const MIDDLE: f32 = 7.5;
/// `|o|` per `sqrt(D)`: a component is one standard deviation, `1 / STEP` levels, less what the ends cut off.
const NORM_PER_ROOT: f32 = 3.0;
/// Largest magnitude of a query's level.
const LEVELS: f32 = 127.0;

/// The levels of a rotated residual (`[code_dim]`) of norm `norm` into `values` (`[code_dim]`).
pub(super) fn encode(
    rotated: &[f32],
    norm: f64,
    rotated_centroid: &[f32],
    values: &mut [u8],
) -> CodeSums {
    let per_unit = ((rotated.len() as f64).sqrt() / (STEP * norm)) as f32;
    let mut sums = CodeSums::default();
    for ((&r, &c), value) in rotated.iter().zip(rotated_centroid).zip(values) {
        // Truncation, since nothing is negative after the clamp: level v is the interval from v to v + 1.
        let level = (r * per_unit + 8.0).clamp(0.0, 15.5) as i32;
        *value = level as u8;
        let o = f64::from(level as f32 - MIDDLE);
        sums.residual += o * f64::from(r);
        sums.centroid += o * f64::from(c);
        sums.norm_sq += o * o;
    }
    sums
}

/// Values of a group (`[32, code_dim]`) to the order of `nibble_scan`.
pub(super) fn pack(values: &[u8], code_dim: usize, out: &mut [u8]) {
    pack_nibbles(values, code_dim, out);
}

/// A rotated query (`[code_dim]`) in 8 bits a number: with `q'_i` about `delta t_i`, `<o, q'>` is about
/// `delta (sum v_i t_i - 7.5 sum t_i)`.
pub(super) fn query(rotated: &[f32]) -> QueryCode {
    let largest = rotated.iter().fold(0f32, |m, x| m.max(x.abs()));
    let delta = largest / LEVELS;
    let per_unit = if delta > 0.0 { 1.0 / delta } else { 0.0 };
    let levels: Vec<i8> = rotated
        .iter()
        .map(|x| (x * per_unit).round() as i8)
        .collect();
    let sum: i32 = levels.iter().map(|&t| i32::from(t)).sum();
    // Each number is off by up to delta/2, like a uniform error, and weighs o_i: five standard deviations of the sum, in
    // step with `epsilon`. And sums beyond 2^24 are rounded to f32.
    let root = (rotated.len() as f32).sqrt();
    let rounding = 5.0 * delta / 12f32.sqrt() * NORM_PER_ROOT * root;
    let abs_sum: f32 = rotated.iter().map(|x| x.abs()).sum();
    QueryCode {
        epsilon: epsilon(Filter::FourBit),
        table: Table::Levels(levels),
        step: delta,
        base: -MIDDLE * delta * sum as f32,
        slack: rounding + abs_sum * 2f32.powi(-20),
    }
}
