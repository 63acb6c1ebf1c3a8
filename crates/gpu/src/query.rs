//! What a query needs on the device: padded f32, high and low f16 halves, and the constants of its keys.
//! The error analysis these numbers belong to is in `kernels/loose_key.h`.

use crate::engine::Scales;
use crate::error::GpuError;
use crate::params::QueryConsts;
use half::f16;
use half::slice::HalfFloatSliceExt;
use omen_ivf::Metric;

/// Largest coordinate: with it, squares summed over 16,000 dimensions stay finite.
const MAX_ABS: f32 = (1u64 << 56) as f32;
/// Scaled queries have their largest coordinate in [2^7, 2^8), well inside f16 and its low half above f16's smallest.
const SCALED_EXP: i32 = 7;
/// The scaling never multiplies by more than 2^48 (so that undoing it cannot underflow what matters).
const MIN_EXP: i32 = -48;

/// A query in scaled space, ready to be searched.
#[derive(Debug, Clone, Copy)]
pub struct TierQuery<'a> {
    /// `[query_words]`: `omen_ivf`'s `Query::words`, scaled (and, under Cosine, normalised).
    pub q: &'a [f32],
    /// NegIp: the norm of the key formula, `Bound::q_norm`; other metrics: not used.
    pub q_norm: f32,
    /// L2, Cosine: `Bound::q_err`; NegIp: not used.
    pub q_err: f32,
    /// Lists to search, nearest first, all different.
    pub lists: &'a [u32],
    /// Results wanted, at least 1.
    pub k: usize,
}

/// f64 to f32, upwards.
fn up(x: f64) -> f32 {
    let y = (x * (1.0 + 1e-6)) as f32;
    if f64::from(y) < x { y.next_up() } else { y }
}

/// Sum over `0..n`, `n` a multiple of 8, in eight lanes so that the compiler can use wide registers.
fn sum_f64(n: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut lanes = [0f64; 8];
    for base in (0..n).step_by(8) {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += term(base + j);
        }
    }
    lanes.iter().sum()
}

/// The factors of the keys for rounding allowance `g`, rounded to the safe side.
pub fn scales(g: f32) -> Scales {
    Scales {
        loose: (1.0 - 4.0 * g).next_down(),
        tight: (1.0 - 2.0 * g).next_down(),
        wide: (1.0 + 2.0 * g).next_up(),
    }
}

fn exponent_of(largest: f32) -> i32 {
    ((largest.to_bits() >> 23) & 0xFF) as i32 - 127
}

/// Writes `q` padded to `query` (`[pitch]`) and split to `halves` (`[2, pitch]`: high, low), and derives the constants.
/// Errors: `Unsupported` for coordinates beyond 2^56 or not finite.
pub fn prepare(
    metric: Metric,
    query: &TierQuery<'_>,
    g: f32,
    out: &mut [f32],
    halves: &mut [f16],
) -> Result<QueryConsts, GpuError> {
    let (dim, pitch) = (query.q.len(), out.len());
    assert!(dim <= pitch && halves.len() == 2 * pitch);
    if let Some(x) = query.q.iter().find(|x| !x.is_finite() || x.abs() > MAX_ABS) {
        return Err(GpuError::Unsupported(format!(
            "query with a coordinate of {x:e}"
        )));
    }
    let largest = query.q.iter().fold(0f32, |m, x| m.max(x.abs()));
    out[..dim].copy_from_slice(query.q);
    out[dim..].fill(0.0);
    let exp = if largest == 0.0 {
        0
    } else {
        (exponent_of(largest) - SCALED_EXP).max(MIN_EXP)
    };
    let (down, back) = (2f64.powi(-exp) as f32, 2f64.powi(exp));

    let (high, low) = halves.split_at_mut(pitch);
    let mut scaled: Vec<f32> = out.iter().map(|x| x * down).collect();
    high.convert_from_f32_slice(&scaled);
    let mut rounded = vec![0f32; pitch];
    high.convert_to_f32_slice(&mut rounded);
    // Exact: the difference of a number and its rounding to fewer bits.
    scaled.iter_mut().zip(&rounded).for_each(|(x, h)| *x -= h);
    low.convert_from_f32_slice(&scaled);
    let mut rest = vec![0f32; pitch];
    low.convert_to_f32_slice(&mut rest);

    let norm_sq = sum_f64(pitch, |i| f64::from(out[i]) * f64::from(out[i]));
    let lost_sq = sum_f64(pitch, |i| {
        let lost = f64::from(out[i]) - (f64::from(rounded[i]) + f64::from(rest[i])) * back;
        lost * lost
    });
    let lost_high_sq = sum_f64(pitch, |i| {
        let lost = f64::from(out[i]) - f64::from(rounded[i]) * back;
        lost * lost
    });
    let norm = norm_sq.sqrt();
    let g = f64::from(g);
    let sums = (1.25 * pitch as f64 + 32.0) * 2f64.powi(-23) * 1.01 * norm;
    let slack = |lost_sq: f64| match metric {
        Metric::NegIp => sums + lost_sq.sqrt() + (2.0 * g + 2f64.powi(-21)) * norm,
        _ => 2.0 * (sums + lost_sq.sqrt()),
    };
    let q_norm = match metric {
        Metric::NegIp => f64::from(query.q_norm),
        _ => 0.0,
    };
    Ok(QueryConsts {
        // A norm so small that its square is not a normal number counts as 0: too small is safe.
        norm_sq: if norm_sq < 1e-30 { 0.0 } else { norm_sq as f32 },
        dot_scale: back as f32,
        slack: up(slack(lost_sq)),
        slack_high: up(slack(lost_high_sq)),
        norm_up: up(q_norm * (1.0 + 4.0 * g)),
        norm: up(q_norm * (1.0 + 2.0 * g)),
        err: if metric == Metric::NegIp {
            0.0
        } else {
            query.q_err
        },
        reserved: 0,
    })
}

/// Writes a string of bits, in words of 32, padded to `out` (`[pitch / 2]`). Its number of bits set.
pub fn prepare_bits(words: &[f32], out: &mut [f32]) -> f32 {
    out[..words.len()].copy_from_slice(words);
    out[words.len()..].fill(0.0);
    let ones = words.iter().map(|word| word.to_bits().count_ones());
    ones.sum::<u32>() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consts(q: &[f32]) -> (QueryConsts, Vec<f16>) {
        let mut out = vec![1.0; 32];
        let mut halves = vec![f16::ONE; 64];
        let query = TierQuery {
            q,
            q_norm: 1.0,
            q_err: 0.0,
            lists: &[],
            k: 1,
        };
        (
            prepare(Metric::L2, &query, 1e-6, &mut out, &mut halves).unwrap(),
            halves,
        )
    }

    #[test]
    fn halves_add_up_to_the_query() {
        for q in [
            vec![1.0f32, -0.333_333_34, 1e-4],
            vec![3e10, 1.0, -2.9e10],
            vec![1e-20, 2e-20, 0.0],
            vec![0.0; 3],
        ] {
            let (c, halves) = consts(&q);
            let norm = q.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let mut lost = 0f64;
            for (i, &x) in q.iter().enumerate() {
                let sum = (halves[i].to_f64() + halves[32 + i].to_f64()) * f64::from(c.dot_scale);
                lost += (f64::from(x) - sum).powi(2);
            }
            assert!(
                halves[3..32]
                    .iter()
                    .chain(&halves[35..])
                    .all(|h| *h == f16::ZERO),
                "padding"
            );
            assert!(
                norm < 1e-15 || lost.sqrt() <= norm * 2f64.powi(-21),
                "{q:?}: {}",
                lost.sqrt() / norm
            );
            assert!(f64::from(c.slack) >= 2.0 * lost.sqrt());
        }
    }

    #[test]
    fn queries_out_of_range_are_refused() {
        for x in [f32::NAN, f32::INFINITY, -1e18] {
            let query = TierQuery {
                q: &[0.0, x, 1.0],
                q_norm: 1.0,
                q_err: 0.0,
                lists: &[],
                k: 1,
            };
            let outcome = prepare(
                Metric::L2,
                &query,
                1e-6,
                &mut [0.0; 32],
                &mut [f16::ZERO; 64],
            );
            assert!(matches!(outcome, Err(GpuError::Unsupported(_))), "{x}");
        }
    }
}
