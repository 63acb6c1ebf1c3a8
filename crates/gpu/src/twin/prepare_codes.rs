//! Twin of `prepare_codes`: a query's bit planes, and what they are worth. Same operations in the same order: same bits.

use crate::params::CodeConsts;
use omen_ivf::rotation::Rotation;

/// Threads of the kernel's block, which are the lanes of its sums.
const LANES: usize = 256;
/// Width of a level in standard deviations of a component.
const QUERY_STEP: f32 = 0.34;

/// Sum of `term(i)` over `0..n`: lane `i % 256` takes term `i`, then the lanes of 32 as butterflies, then those in order.
fn block_sum(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    for i in 0..n {
        lanes[i % LANES] += term(i);
    }
    for offset in [16, 8, 4, 2, 1] {
        let old = lanes;
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = old[i] + old[i ^ offset];
        }
    }
    lanes
        .iter()
        .step_by(32)
        .copied()
        .reduce(|a, b| a + b)
        .expect("eight warps")
}

/// The bit planes of `query` (`[dim]`) into `planes` (`[4, code_pitch]`), their worth, and the rotated query (`[code_dim]`).
pub fn prepare_codes(
    rotation: &Rotation,
    query: &[f32],
    epsilon: f32,
    planes: &mut [u32],
) -> (CodeConsts, Vec<f32>) {
    let dim = rotation.code_dim();
    let mut x = vec![0f32; dim];
    rotation.apply(query, &mut x);
    let norm_sq = block_sum(dim, |i| x[i] * x[i]);
    let delta = QUERY_STEP * (norm_sq / dim as f32).sqrt();
    let per_unit = if delta > 1e-30 { 1.0 / delta } else { 0.0 };
    let levels: Vec<f32> = x
        .iter()
        .map(|x| (x * per_unit).round_ties_even().clamp(-8.0, 7.0))
        .collect();

    planes.fill(0);
    let code_pitch = planes.len() / 4;
    for (i, &level) in levels.iter().enumerate() {
        let bits = level as i32 as u32;
        for plane in 0..4 {
            planes[plane * code_pitch + i / 32] |= (bits >> plane & 1) << (i % 32);
        }
    }

    let dot = block_sum(dim, |i| levels[i] * x[i]);
    let level_sq = block_sum(dim, |i| levels[i] * levels[i]);
    let level_sum = block_sum(dim, |i| levels[i]);
    let magnitude = block_sum(dim, |i| x[i].abs());
    let unit = if dot > 0.0 { norm_sq / dot } else { 0.0 };
    let lost_sq = norm_sq + unit * (unit * level_sq - 2.0 * dot);
    let codes = CodeConsts {
        step: 2.0 * unit,
        base: -(unit * level_sum),
        slack: epsilon * lost_sq.max(0.0).sqrt() + magnitude * 2f32.powi(-20),
        reserved: 0,
    };
    (codes, x)
}
