//! The filter: 1-bit RaBitQ codes of residuals, and the estimate of a distance from them.
//!
//! With `r = h - c` (row minus its list's centroid, both as stored), `r' = rotate(r)`, `n = |r|`, `D = code_dim`, the code is
//! the signs of `r'` and stands for the unit vector `obar = +-1/sqrt(D)`. `a = <obar, r'>/n = sum|r'_i| / (sqrt(D) n)` says how
//! well. For any `y`, `<obar, y>/a` estimates `<r', y>/n` without bias, with a standard error of about
//! `|y| sqrt((1-a^2)/a^2) / sqrt(D-1)` over random rotations. So, with `q' = rotate(q)`, `c' = rotate(c)`,
//! `ip` = sum of `q'_i` over set bits and `S = sum q'_i` (`<obar, q'> = (2 ip - S)/sqrt(D)`):
//!
//! - L2, Cosine: `|q-h|^2 = n^2 + |q-c|^2 - 2<r, q-c>` is about `f_add + |q-c|^2 + f_rescale (2 ip - S)`,
//!   `f_add = n^2 + 2 (n/a) <obar,c'>`, `f_rescale = -2 (n/a)/sqrt(D)`, `f_error = 2 n sqrt((1-a^2)/a^2)/sqrt(D-1)`;
//! - NegIp: `-<q,h> = -<r,c> - <r,q-c> - <q,c>` is about `f_add - <q,c> + f_rescale (2 ip - S)`,
//!   `f_add = -<r,c> + (n/a) <obar,c'>`, `f_rescale = -(n/a)/sqrt(D)`, `f_error = n sqrt((1-a^2)/a^2)/sqrt(D-1)`.
//!
//! Source: RaBitQ, arXiv:2405.12497, and RaBitQ-Library, `docs/docs/rabitq/estimator.md`.

use half::f16;
use omen_distance::{f32_from_f16, pack_codes};

use crate::bound::Bound;
use crate::layout::group::{GROUP, GroupHeader, HEADER_LINES, group_lines};
use crate::layout::page::LINE_BYTES;
use crate::rotation::Rotation;
use crate::{Metric, Tid};

/// How many standard errors the filter allows for.
pub const EPSILON: f32 = 4.0;

/// Whether codes of vectors of `dim` dimensions prune enough to be worth reading.
pub fn filter_pays(dim: u32) -> bool {
    crate::rotation::code_dim(dim as usize) >= 256
}

/// Encodes the entries of one list.
pub struct Encoder<'a> {
    metric: Metric,
    rotation: &'a Rotation,
    /// The list's centroid, `[dim]`.
    centroid: Vec<f32>,
    /// The same rotated, `[code_dim]`.
    rotated_centroid: Vec<f32>,
}

/// The three factors of an entry.
struct Factors {
    add: f32,
    rescale: f32,
    error: f32,
}

impl<'a> Encoder<'a> {
    /// An encoder for the list with this centroid as stored (`[dim]`).
    pub fn new(metric: Metric, rotation: &'a Rotation, centroid: &[f16]) -> Self {
        let mut wide = vec![0.0; rotation.dim()];
        f32_from_f16(centroid, &mut wide);
        let mut rotated_centroid = vec![0.0; rotation.code_dim()];
        rotation.apply(&wide, &mut rotated_centroid);
        Self {
            metric,
            rotation,
            centroid: wide,
            rotated_centroid,
        }
    }

    /// Encodes 1 to 32 entries as one group, all live. `rows`: stored rows, `[dim]` each; `errs`, `tids`: as many; `out`:
    /// `group_lines(code_dim) * LINE_BYTES` bytes. Absent entries get zeroes and no live bit.
    pub fn encode_group(&self, rows: &[&[f16]], errs: &[f32], tids: &[Tid], out: &mut [u8]) {
        let n = rows.len();
        let code_dim = self.rotation.code_dim();
        assert!(
            (1..=GROUP).contains(&n) && errs.len() == n && tids.len() == n,
            "a group has 1 to {GROUP} entries"
        );
        assert_eq!(
            out.len(),
            group_lines(code_dim) * LINE_BYTES,
            "bytes of a group"
        );
        let words = code_dim / 64;
        let mut bits = vec![0u64; GROUP * words];
        let mut header: GroupHeader = bytemuck::Zeroable::zeroed();
        let mut residual = vec![0.0; self.rotation.dim()];
        let mut rotated = vec![0.0; code_dim];
        for (i, row) in rows.iter().enumerate() {
            let factors = self.encode(
                row,
                &mut residual,
                &mut rotated,
                &mut bits[i * words..(i + 1) * words],
            );
            header.f_add[i] = factors.add;
            header.f_rescale[i] = factors.rescale;
            header.f_error[i] = factors.error;
            header.err[i] = errs[i];
            header.tid_block[i] = tids[i].block;
            header.tid_offset[i] = tids[i].offset as u16;
            header.live |= 1 << i;
        }
        let (head, codes) = out.split_at_mut(HEADER_LINES * LINE_BYTES);
        head.copy_from_slice(bytemuck::bytes_of(&header));
        pack_codes(&bits, words, code_dim, codes);
    }

    /// The sign bits and factors of one row. `residual` (`[dim]`) and `rotated` (`[code_dim]`) are scratch.
    fn encode(
        &self,
        row: &[f16],
        residual: &mut [f32],
        rotated: &mut [f32],
        bits: &mut [u64],
    ) -> Factors {
        f32_from_f16(row, residual);
        for (r, c) in residual.iter_mut().zip(&self.centroid) {
            *r -= c;
        }
        self.rotation.apply(residual, rotated);
        let (mut norm_sq, mut r_dot_c) = (0f64, 0f64);
        for (&r, &c) in residual.iter().zip(&self.centroid) {
            norm_sq += f64::from(r) * f64::from(r);
            r_dot_c += f64::from(r) * f64::from(c);
        }
        if norm_sq == 0.0 {
            bits.fill(0);
            return Factors {
                add: 0.0,
                rescale: 0.0,
                error: 0.0,
            };
        }
        let (mut abs_sum, mut sign_dot_c) = (0f64, 0f64);
        for ((word, values), centroid) in bits
            .iter_mut()
            .zip(rotated.chunks_exact(64))
            .zip(self.rotated_centroid.chunks_exact(64))
        {
            *word = 0;
            for (i, (&r, &c)) in values.iter().zip(centroid).enumerate() {
                let positive = r > 0.0;
                *word |= u64::from(positive) << i;
                abs_sum += f64::from(r.abs());
                sign_dot_c += f64::from(if positive { c } else { -c });
            }
        }
        let root = (rotated.len() as f64).sqrt();
        let norm = norm_sq.sqrt();
        let a = abs_sum / (root * norm);
        let scale = norm / a;
        let code_dot_c = sign_dot_c / root;
        let spread =
            norm * (((1.0 - a * a) / (a * a)).max(0.0) / (rotated.len() as f64 - 1.0)).sqrt();
        match self.metric {
            Metric::L2 | Metric::Cosine => Factors {
                add: (norm_sq + 2.0 * scale * code_dot_c) as f32,
                rescale: (-2.0 * scale / root) as f32,
                error: (2.0 * spread) as f32,
            },
            Metric::NegIp => Factors {
                add: (-r_dot_c + scale * code_dot_c) as f32,
                rescale: (-scale / root) as f32,
                error: spread as f32,
            },
        }
    }
}

/// A query against all codes: for each four dimensions the 16 possible partial sums, in 8 bits.
#[derive(Debug, Clone)]
pub(crate) struct Lut {
    /// `[code_dim / 4, 16]`
    table: Vec<u8>,
    /// `2 ip - S` is about `step * sum + base`.
    step: f32,
    base: f32,
    /// Error of `2 ip - S` that the 8 bits cause; as statistical as [`EPSILON`].
    error: f32,
}

impl Lut {
    /// The table of a rotated query (`[code_dim]`).
    pub(crate) fn new(rotated: &[f32]) -> Self {
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
        // uniform errors. Five standard deviations of those keep in step with EPSILON.
        let n_nibbles = rotated.len() as f32 / 4.0;
        let rounding = delta * (n_nibbles / 2.0).min(5.0 * (n_nibbles / 12.0).sqrt());
        let abs_sum: f32 = rotated.iter().map(|x| x.abs()).sum();
        // 2 * lowest - S of a nibble is minus the sum of its magnitudes.
        Self {
            table,
            step: 2.0 * delta,
            base: -abs_sum,
            error: 2.0 * rounding + abs_sum * 2f32.powi(-22),
        }
    }

    /// For each entry of a group a bound that `l2sq` (L2, Cosine) or `-<q,h>` (NegIp) hardly ever falls below. `add`:
    /// `|q-c|^2` (L2, Cosine) or `-<q,c>` (NegIp); `distance`: `|q-c|`.
    #[inline(always)]
    pub(crate) fn bounds(
        &self,
        header: &GroupHeader,
        codes: &[u8],
        (add, distance): (f32, f32),
    ) -> [f32; GROUP] {
        let mut sums = [0i32; GROUP];
        omen_distance::fastscan(codes, &self.table, &mut sums);
        let spread = EPSILON * distance;
        std::array::from_fn(|i| {
            let inner = self.step * sums[i] as f32 + self.base;
            let rescale = header.f_rescale[i];
            header.f_add[i] + add + rescale * inner
                - spread * header.f_error[i]
                - rescale.abs() * self.error
        })
    }
}

/// The live entries of a group whose key may be below `threshold` by their `bounds`, as bits.
#[inline(always)]
pub(crate) fn passing(
    header: &GroupHeader,
    bounds: &[f32; GROUP],
    bound: &Bound,
    threshold: f32,
) -> u32 {
    let over: [f32; GROUP] =
        std::array::from_fn(|i| bounds[i] - bound.raw_limit(threshold, header.err[i]));
    let n_over: u32 = over.iter().map(|&x| u32::from(x > 0.0)).sum();
    if n_over == GROUP as u32 {
        return 0;
    }
    // NaN: infinities of both signs met, and nothing is known.
    let mask = over.iter().enumerate().fold(0, |mask, (i, &x)| {
        mask | u32::from(x <= 0.0 || x.is_nan()) << i
    });
    mask & header.live
}
