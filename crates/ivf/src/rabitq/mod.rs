//! The filter: RaBitQ codes of residuals, and the estimate of a distance from them.
//!
//! With `r = h - c` (row minus its list's centroid, both as stored), `r' = rotate(r)`, `n = |r|`, `D = code_dim`, the code is
//! a vector `o` of few bits a dimension that points nearly where `r'` does: `a = <o, r'> / (|o| n)` is the cosine of the
//! angle between them. For any `y`, `s <o, y>` with `s = n^2 / <o, r'>` estimates `<r', y>` without bias, with a standard error of about
//! `n |y| sqrt((1-a^2)/a^2) / sqrt(D-1)` over random rotations. So, with `q' = rotate(q)`, `c' = rotate(c)`:
//!
//! - L2, Cosine: `|q-h|^2 = n^2 + |q-c|^2 - 2<r, q-c>` is about `f_add + |q-c|^2 + f_rescale <o, q'>`,
//!   `f_add = n^2 + 2 s <o,c'>`, `f_rescale = -2 s`, `f_error = 2 n sqrt((1-a^2)/a^2)/sqrt(D-1)`;
//! - NegIp: `-<q,h> = -<r,c> - <r,q-c> - <q,c>` is about `f_add - <q,c> + f_rescale <o, q'>`,
//!   `f_add = -<r,c> + s <o,c'>`, `f_rescale = -s`, `f_error = n sqrt((1-a^2)/a^2)/sqrt(D-1)`.
//!
//! Two kinds of codes, see [`Filter`]: signs (`one_bit.rs`), whose `<o, q'>` comes from FastScan, and sixteen levels
//! (`four_bit.rs`), whose `<o, q'>` is a sum of products of small integers.
//!
//! Sources: RaBitQ, arXiv:2405.12497; its extension to more bits, arXiv:2409.09913 (the estimator is the same, whatever
//! the code); RaBitQ-Library, `docs/docs/rabitq/estimator.md`.

mod four_bit;
mod one_bit;

use half::f16;
use omen_distance::{Estimate, GroupFactors, Limit, f32_from_f16};

use crate::lanes::dot;
use crate::layout::group::{Filter, GROUP, GroupHeader, GroupShape, HEADER_LINES};
use crate::layout::page::LINE_BYTES;
use crate::rotation::Rotation;
use crate::{Metric, Tid};

/// How many standard errors the filter allows for: so many that an entry it should have let through is one in tens of thousands,
/// and the CPU returns the rows that the GPU returns, which has no filter. Four-bit codes can afford more than one-bit
/// codes: their standard error is a seventh.
pub const fn epsilon(filter: Filter) -> f32 {
    match filter {
        Filter::FourBit => 5.0,
        Filter::None | Filter::OneBit => 4.0,
    }
}

/// Encodes the entries of one list.
pub struct Encoder<'a> {
    metric: Metric,
    filter: Filter,
    rotation: &'a Rotation,
    /// The list's centroid, `[dim]`.
    centroid: Vec<f32>,
    /// The same rotated, `[code_dim]`.
    rotated_centroid: Vec<f32>,
}

/// The three factors of an entry.
#[derive(Debug, Clone, Copy, Default)]
struct Factors {
    add: f32,
    rescale: f32,
    error: f32,
}

/// What the factors of an entry depend on, besides its residual: sums over the dimensions.
#[derive(Debug, Clone, Copy, Default)]
struct CodeSums {
    /// `<o, r'>`
    residual: f64,
    /// `<o, c'>`
    centroid: f64,
    /// `|o|^2`
    norm_sq: f64,
}

/// Codes of a group before they are packed: `[32, code_dim]`, of one bit `[n, code_dim]`, one byte a dimension.
struct Scratch {
    residual: Vec<f32>,
    rotated: Vec<f32>,
    values: Vec<u8>,
}

impl<'a> Encoder<'a> {
    /// An encoder for the list with this centroid as stored (`[dim]`).
    pub fn new(metric: Metric, filter: Filter, rotation: &'a Rotation, centroid: &[f16]) -> Self {
        let mut wide = vec![0.0; rotation.dim()];
        f32_from_f16(centroid, &mut wide);
        let mut rotated_centroid = vec![0.0; rotation.code_dim()];
        rotation.apply(&wide, &mut rotated_centroid);
        Self {
            metric,
            filter,
            rotation,
            centroid: wide,
            rotated_centroid,
        }
    }

    /// Encodes 1 to 32 entries as one group, all live. `rows`: stored rows, `[dim]` each; `errs`, `tids`: as many; `out`:
    /// as many bytes as a group has ([`GroupShape::bytes`]). Absent entries get zeroes and no live bit.
    pub fn encode_group(&self, rows: &[&[f16]], errs: &[f32], tids: &[Tid], out: &mut [u8]) {
        let n = rows.len();
        assert!(
            (1..=GROUP).contains(&n) && errs.len() == n && tids.len() == n,
            "a group has 1 to {GROUP} entries"
        );
        let shape = GroupShape::new(self.filter, self.rotation.dim() as u32);
        assert_eq!(out.len(), shape.bytes(), "bytes of a group");
        let mut header: GroupHeader = bytemuck::Zeroable::zeroed();
        for i in 0..n {
            header.err[i] = errs[i];
            header.tid_block[i] = tids[i].block;
            header.tid_offset[i] = tids[i].offset as u16;
            header.live |= 1 << i;
        }
        let (head, codes) = out.split_at_mut(HEADER_LINES * LINE_BYTES);
        if self.filter != Filter::None {
            let code_dim = self.rotation.code_dim();
            let n_packed = match self.filter {
                Filter::FourBit => GROUP,
                _ => n,
            };
            let mut scratch = Scratch {
                residual: vec![0.0; self.rotation.dim()],
                rotated: vec![0.0; code_dim],
                values: vec![0; n_packed * code_dim],
            };
            for (i, row) in rows.iter().enumerate() {
                let factors = self.encode(i, row, &mut scratch);
                header.f_add[i] = factors.add;
                header.f_rescale[i] = factors.rescale;
                header.f_error[i] = factors.error;
            }
            match self.filter {
                Filter::FourBit => four_bit::pack(&scratch.values, code_dim, codes),
                _ => one_bit::pack(&scratch.values, code_dim, codes),
            }
        }
        head.copy_from_slice(bytemuck::bytes_of(&header));
    }

    /// The code of one row into `scratch.values`, as entry `i` of the group, and its factors.
    fn encode(&self, i: usize, row: &[f16], scratch: &mut Scratch) -> Factors {
        let Scratch {
            residual,
            rotated,
            values,
        } = scratch;
        f32_from_f16(row, residual);
        for (r, c) in residual.iter_mut().zip(&self.centroid) {
            *r -= c;
        }
        let norm_sq = dot(residual, residual);
        let r_dot_c = dot(residual, &self.centroid);
        if norm_sq == 0.0 {
            return Factors::default();
        }
        self.rotation.apply(residual, rotated);
        let norm = norm_sq.sqrt();
        let values = &mut values[i * rotated.len()..][..rotated.len()];
        let sums = match self.filter {
            Filter::FourBit => four_bit::encode(rotated, norm, &self.rotated_centroid, values),
            _ => one_bit::encode(rotated, &self.rotated_centroid, values),
        };
        let a_sq = sums.residual * sums.residual / (sums.norm_sq * norm_sq);
        let scale = norm_sq / sums.residual;
        let spread = norm * (((1.0 - a_sq) / a_sq).max(0.0) / (rotated.len() as f64 - 1.0)).sqrt();
        match self.metric {
            Metric::NegIp => Factors {
                add: (-r_dot_c + scale * sums.centroid) as f32,
                rescale: (-scale) as f32,
                error: spread as f32,
            },
            // L2 and Cosine: others have no codes.
            _ => Factors {
                add: (norm_sq + 2.0 * scale * sums.centroid) as f32,
                rescale: (-2.0 * scale) as f32,
                error: (2.0 * spread) as f32,
            },
        }
    }
}

/// A query against all codes.
#[derive(Debug, Clone)]
pub(crate) struct QueryCode {
    table: Table,
    /// Standard errors allowed for.
    epsilon: f32,
    /// `<o, q'>` is about `step * sum + base`.
    step: f32,
    base: f32,
    /// Error of that which the table's few bits cause; as statistical as [`epsilon`].
    slack: f32,
}

#[derive(Debug, Clone)]
enum Table {
    /// For each four dimensions the 16 possible partial sums, in 8 bits: `[code_dim / 4, 16]`.
    Sums(Vec<u8>),
    /// The numbers themselves in 8 bits: `[code_dim]`.
    Levels(Vec<i8>),
}

impl QueryCode {
    /// The query `vector` (`[dim]`) for codes of this kind; `None` if there are none.
    pub(crate) fn new(filter: Filter, rotation: &Rotation, vector: &[f32]) -> Option<Self> {
        if filter == Filter::None {
            return None;
        }
        let mut rotated = vec![0.0; rotation.code_dim()];
        rotation.apply(vector, &mut rotated);
        Some(match filter {
            Filter::FourBit => four_bit::query(&rotated),
            _ => one_bit::query(&rotated),
        })
    }

    /// What this query and a list contribute to the bounds of the list's entries. `add`: `|q-c|^2` (L2, Cosine) or `-<q,c>`
    /// (NegIp); `distance`: `|q-c|`.
    pub(crate) fn estimate(&self, add: f32, distance: f32) -> Estimate {
        Estimate {
            step: self.step,
            base: self.base,
            add,
            spread: self.epsilon * distance,
            slack: self.slack,
        }
    }

    /// Adds to `sums` the part that these codes, from byte `first` of a group's codes on, have in the sums of its entries.
    #[inline(always)]
    pub(crate) fn add(&self, first: usize, codes: &[u8], sums: &mut [i32; GROUP]) {
        match &self.table {
            Table::Sums(table) => {
                omen_distance::fastscan(codes, &table[first..][..codes.len()], sums);
            }
            // Sixteen bytes a dimension: half a byte for each of 32 entries.
            Table::Levels(levels) => {
                let levels = &levels[first / 16..][..codes.len() / 16];
                omen_distance::nibble_scan(codes, levels, sums);
            }
        }
    }
}

/// For each entry of a group, of which `sums` has the sums of all codes ([`QueryCode::add`]), a bound that `l2sq` (L2, Cosine) or
/// `-<q,h>` (NegIp) hardly ever falls below; and which of the live entries may be within `limit` by that bound, as bits.
#[inline(always)]
pub(crate) fn passing(
    sums: &[i32; GROUP],
    header: &GroupHeader,
    estimate: &Estimate,
    limit: &Limit,
    bounds: &mut [f32; GROUP],
) -> u32 {
    let factors = GroupFactors {
        add: &header.f_add,
        rescale: &header.f_rescale,
        error: &header.f_error,
        radius: &header.err,
    };
    omen_distance::group_bounds(sums, &factors, estimate, limit, bounds) & header.live
}
