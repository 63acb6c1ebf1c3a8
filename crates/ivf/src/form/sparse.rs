//! Sparse vectors: rows of as many entries as the index has room for, the largest ones; what is left out goes into the radius.

mod query;

use half::f16;

use super::sketch::place;
use crate::bound::{COSINE_NORM_MAX, COSINE_NORM_MIN, MAX_ERR, round_up, rounding};
use crate::params::Metric;
use crate::stored::{MAX_COSINE_EXP, StoredVector, TARGET_EXP};
use crate::{IvfError, Result};

pub(crate) use query::{Prepared, SparseQuery};

/// Most dimensions of a sparse vector.
pub const MAX_SPARSE_DIM: u32 = 1_000_000_000;
/// Most elements of an indexed value: what the rounding of the operators' sums depends on.
pub const MAX_NNZ: usize = 4096;
/// Most elements of a value that reach an index, the largest ones; a row has room for no more.
pub const MAX_ENTRIES: u32 = 1024;
/// Room in the rows of an index whose build saw no values.
pub(super) const USUAL_ENTRIES: u32 = 128;
const MIN_ENTRIES: u32 = 8;
/// Dimension of the sketches.
const SKETCH_DIM: u32 = 256;
/// Words of an input before its elements: dimension, number of elements, norm (f64), and of what it leaves out the norm and the sum of magnitudes.
const HEAD_WORDS: usize = 6;
/// Index of an entry that is not in use.
const NOTHING: u32 = u32::MAX;
/// For [`rounding`]: the operators add up the terms of two values of [`MAX_NNZ`] elements one after the other, each term with 3 roundings of its
/// own, so their sums are off by at most `(2 MAX_NNZ + 3) 2^-24`, and `rounding` counts an eighth of its argument.
pub(super) const TERMS: u32 = 8 * 2 * MAX_NNZ as u32;

/// Rows of sparse vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseRows {
    /// Metric.
    pub metric: Metric,
    /// Dimension.
    pub dim: u32,
    /// Stored numbers are the user's times `2^scale_exp`.
    pub scale_exp: i32,
    /// Entries that a row has room for.
    pub entries: u32,
    /// Of the sketches.
    pub seed: u64,
}

/// Words of 16 bits of a row: of each entry the low and the high half of its index, and its value.
pub(super) const fn row_words(entries: u32) -> u32 {
    3 * entries
}

/// Entries that a row of so many words has room for.
pub(super) const fn entries_of_words(words: u32) -> u32 {
    words / 3
}

/// Whether rows can have so many words.
pub(crate) fn are_row_words(words: u32) -> bool {
    words.is_multiple_of(3) && (1..=MAX_ENTRIES).contains(&(words / 3))
}

/// Dimension of the coarse vectors.
pub(super) const fn coarse_dim() -> u32 {
    SKETCH_DIM
}

/// Words of an input.
pub(super) const fn input_words() -> usize {
    HEAD_WORDS + 2 * MAX_ENTRIES as usize
}

/// Dimension of an input.
pub(super) fn dim_of(input: &[f32]) -> u32 {
    input.first().map_or(0, |word| word.to_bits())
}

/// Elements of the value that this is the input of.
fn nnz_of(input: &[f32]) -> u32 {
    input.get(1).map_or(0, |word| word.to_bits())
}

/// The input of a value of dimension `dim`: elements in ascending order of their indices. Of more than [`MAX_ENTRIES`] the largest are in it.
pub fn input_of(dim: u32, indices: &[i32], x: &[f32]) -> Vec<f32> {
    let n = indices.len().min(x.len());
    let mut order: Vec<u32> = (0..n as u32).collect();
    let most = MAX_ENTRIES as usize;
    let (mut lost_sq, mut lost_sum) = (0f64, 0f64);
    if n > most {
        let larger = |&a: &u32, &b: &u32| {
            let [a_x, b_x] = [a, b].map(|i| x[i as usize].abs());
            b_x.total_cmp(&a_x).then(a.cmp(&b))
        };
        order.select_nth_unstable_by(most, larger);
        for &i in &order[most..] {
            let lost = f64::from(x[i as usize].abs());
            lost_sq += lost * lost;
            lost_sum += lost;
        }
        order.truncate(most);
        order.sort_unstable();
    }
    let norm = x
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt()
        .to_bits();
    let mut input = vec![0f32; input_words()];
    let head = [
        dim,
        n as u32,
        norm as u32,
        (norm >> 32) as u32,
        round_up(lost_sq.sqrt()).to_bits(),
        round_up(lost_sum).to_bits(),
    ];
    for (word, bits) in input.iter_mut().zip(head) {
        *word = f32::from_bits(bits);
    }
    let (to_indices, to_x) = input[HEAD_WORDS..].split_at_mut(most);
    to_indices.fill(f32::from_bits(NOTHING));
    for (at, &i) in order.iter().enumerate() {
        to_indices[at] = f32::from_bits(indices[i as usize] as u32);
        to_x[at] = x[i as usize];
    }
    input
}

/// A value in scaled space: elements by index, and how far they are from all of it.
struct Scaled {
    elements: Vec<(u32, f64)>,
    /// In the metric's norm.
    err: f64,
    /// Of all of the value.
    norm: f64,
}

impl SparseRows {
    /// Those of a new index, for a sample of its values. The room in a row is for the largest of them, unless few are much larger than the others.
    pub(super) fn for_sample(metric: Metric, dim: u32, seed: u64, sample: &[f32]) -> Self {
        let mut counts: Vec<u32> = Vec::new();
        let mut largest = 0f64;
        for input in sample.chunks_exact(input_words()) {
            counts.push(nnz_of(input).min(MAX_ENTRIES));
            let peak = f64::from(
                input[HEAD_WORDS + MAX_ENTRIES as usize..]
                    .iter()
                    .fold(0f32, |peak, x| peak.max(x.abs())),
            );
            let norm = if metric == Metric::Cosine {
                norm_of(input)
            } else {
                1.0
            };
            if peak > 0.0 && norm > 0.0 {
                largest = largest.max(peak / norm);
            }
        }
        counts.sort_unstable();
        let most = counts.last().copied().unwrap_or(USUAL_ENTRIES);
        let usual = counts.get(counts.len() * 99 / 100).copied().unwrap_or(most);
        let entries = if most <= 2 * usual { most } else { usual };
        let scale_exp = if largest > 0.0 {
            let exp = TARGET_EXP - 1 - largest.log2().floor() as i32;
            if metric == Metric::Cosine {
                exp.min(MAX_COSINE_EXP)
            } else {
                exp
            }
        } else {
            0
        };
        Self {
            metric,
            dim,
            scale_exp,
            entries: entries.clamp(MIN_ENTRIES, MAX_ENTRIES),
            seed,
        }
    }

    /// Errors: another dimension.
    fn check(&self, input: &[f32]) -> Result<()> {
        let found = dim_of(input);
        if found != self.dim || input.len() != input_words() {
            return Err(IvfError::Dimension {
                expected: self.dim,
                found,
            });
        }
        Ok(())
    }

    /// An input in scaled space. `None` for the zero vector under Cosine.
    fn scaled(&self, input: &[f32]) -> Result<Option<Scaled>> {
        self.check(input)?;
        let unit = 2f64.powi(self.scale_exp);
        let norm = norm_of(input);
        let (factor, mut err) = match self.metric {
            Metric::Cosine if norm == 0.0 => return Ok(None),
            Metric::Cosine => {
                let is_ordinary = (COSINE_NORM_MIN..=COSINE_NORM_MAX).contains(&norm);
                let division = unit * (MAX_NNZ + 8) as f64 * f64::EPSILON;
                (
                    unit / norm,
                    if is_ordinary { division } else { f64::INFINITY },
                )
            }
            _ => (unit, 0.0),
        };
        let lost = if self.metric == Metric::L1 {
            input[5]
        } else {
            input[4]
        };
        err += f64::from(lost) * factor * (1.0 + 1e-12);
        let (indices, x) = input[HEAD_WORDS..].split_at(MAX_ENTRIES as usize);
        let n = nnz_of(input).min(MAX_ENTRIES) as usize;
        let elements = indices.iter().zip(x).take(n);
        Ok(Some(Scaled {
            elements: elements
                .map(|(i, &x)| (i.to_bits(), f64::from(x) * factor))
                .collect(),
            err,
            norm: norm * factor,
        }))
    }

    /// The stored form of an input. `None` for the zero vector under Cosine. Fails if the dimension differs, or if there are too many elements.
    pub(crate) fn to_stored(self, input: &[f32]) -> Result<Option<StoredVector>> {
        const F16_MAX: f64 = 65504.0;
        let found = nnz_of(input);
        if found as usize > MAX_NNZ {
            return Err(IvfError::Elements {
                most: MAX_NNZ as u32,
                found,
            });
        }
        let Some(Scaled {
            mut elements,
            err,
            norm,
        }) = self.scaled(input)?
        else {
            return Ok(None);
        };
        let room = self.entries as usize;
        let (mut lost_sq, mut lost_sum) = (0f64, 0f64);
        let mut lose = |lost: f64| {
            lost_sq += lost * lost;
            lost_sum += lost.abs();
        };
        if elements.len() > room {
            let larger = |a: &(u32, f64), b: &(u32, f64)| {
                b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0))
            };
            elements.select_nth_unstable_by(room, larger);
            elements[room..].iter().for_each(|&(_, x)| lose(x));
            elements.truncate(room);
            elements.sort_unstable_by_key(|&(i, _)| i);
        }
        let mut entries: Vec<(u32, f16)> = Vec::with_capacity(room);
        for (i, x) in elements {
            let half = f16::from_f32(x.clamp(-F16_MAX, F16_MAX) as f32);
            lose(x - half.to_f64());
            if half != f16::ZERO {
                entries.push((i, half));
            }
        }
        let mut err = err
            + if self.metric == Metric::L1 {
                lost_sum
            } else {
                lost_sq.sqrt()
            };
        if self.metric == Metric::NegIp {
            err += 2.0 * f64::from(rounding(TERMS)) * norm;
        }
        let err = round_up(err);
        Ok(Some(StoredVector {
            row: self.row_of(&entries),
            err: if err < MAX_ERR { err } else { f32::INFINITY },
        }))
    }

    /// The row of entries in ascending order of their indices.
    fn row_of(&self, entries: &[(u32, f16)]) -> Vec<f16> {
        let room = self.entries as usize;
        let mut row = vec![f16::ZERO; row_words(self.entries) as usize];
        for at in 0..room {
            let (index, x) = entries.get(at).copied().unwrap_or((NOTHING, f16::ZERO));
            row[at] = f16::from_bits(index as u16);
            row[room + at] = f16::from_bits((index >> 16) as u16);
            row[2 * room + at] = x;
        }
        row
    }

    /// What of a row is not as [`Self::row_of`] makes one, if anything is.
    pub(crate) fn wrong_of(&self, row: &[f16]) -> Option<&'static str> {
        let room = self.entries as usize;
        let at = |i: usize| u32::from(row[i].to_bits()) | u32::from(row[room + i].to_bits()) << 16;
        let n = (0..room).find(|&i| at(i) == NOTHING).unwrap_or(room);
        let x = &row[2 * room..];
        if (n..room).any(|i| at(i) != NOTHING || x[i] != f16::ZERO) {
            Some("entries beyond the last")
        } else if (1..n).any(|i| at(i - 1) >= at(i)) || n > 0 && at(n - 1) >= self.dim {
            Some("indices that are not ascending dimensions")
        } else if x[..n].iter().any(|x| !x.is_finite() || *x == f16::ZERO) {
            Some("an entry that is zero or not finite")
        } else {
            None
        }
    }

    /// The sketch of a row, `[coarse_dim]`.
    pub(super) fn coarse_into(&self, row: &[f16], out: &mut [f16]) {
        let mut sums = vec![0f32; out.len()];
        for (index, x) in entries_of(row) {
            self.add_to(&mut sums, index, x.to_f32());
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = f16::from_f32(sum.clamp(-65504.0, 65504.0));
        }
    }

    fn add_to(&self, sums: &mut [f32], index: u32, x: f32) {
        let (bucket, is_negative) = place(self.seed, index, SKETCH_DIM);
        sums[bucket] += if is_negative { -x } else { x };
    }
}

/// Norm of the value that this is the input of.
pub(super) fn norm_of(input: &[f32]) -> f64 {
    let [low, high] = [2, 3].map(|i| u64::from(input[i].to_bits()));
    f64::from_bits(low | high << 32)
}

/// The entries of a row, in ascending order of their indices.
fn entries_of(row: &[f16]) -> impl Iterator<Item = (u32, f16)> + '_ {
    let room = row.len() / 3;
    let (low, rest) = row.split_at(room);
    let (high, x) = rest.split_at(room);
    let entries = low.iter().zip(high).zip(x);
    entries
        .map(|((low, high), &x)| {
            let index = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
            (index, x)
        })
        .take_while(|&(index, _)| index != NOTHING)
}
