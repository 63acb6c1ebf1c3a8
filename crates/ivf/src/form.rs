//! What rows of an index hold, by the type of its column, and how values of that type become rows.
//!
//! A value comes as *input*: f32 words, as many for each value of an index, so that samples and batches are arrays. Of vectors these are the
//! coordinates; of strings of bits see [`bits::input_of`], and what is no coordinate is a bit pattern.
//!
//! A row is made of words of 16 bits ([`RowForm::row_words`]), of which only this module and [`crate::query`] know what they hold. What
//! chooses lists, in training, assigning and searching, is a row's *coarse vector*, a function of the row as stored: of vectors the row itself. The
//! centroids, rows of the root list, are coarse vectors.

pub mod bits;
mod sketch;

use std::borrow::Cow;

use half::f16;
use rayon::prelude::*;

use self::bits::BitRows;
use crate::layout::meta::MetaPage;
use crate::params::{MAX_DIM, Metric, VectorKind};
use crate::stored::{Scaling, StoredVector, choose_scale, scale_sample};
use crate::{IvfError, Result};

/// The form of the rows of one index; frozen at the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowForm {
    /// Scaled vectors in binary16.
    Half(Scaling),
    /// Strings of bits.
    Bits(BitRows),
}

impl RowForm {
    /// That of an index of this kind, metric and dimension. `scale_exp` is used where numbers are scaled, `seed` where there are sketches.
    pub fn new(kind: VectorKind, metric: Metric, dim: u32, scale_exp: i32, seed: u64) -> Self {
        match kind {
            VectorKind::Half => Self::Half(Scaling {
                metric,
                dim,
                scale_exp,
            }),
            VectorKind::Bits => Self::Bits(BitRows { metric, dim, seed }),
        }
    }

    /// As [`Self::new`], for a sample of the values (`[n, input_words]`). Runs on the threads of the pool that it is called in.
    pub fn for_sample(
        kind: VectorKind,
        metric: Metric,
        dim: u32,
        seed: u64,
        sample: &[f32],
    ) -> Self {
        let scale_exp = match kind {
            VectorKind::Half => choose_scale(metric, sample, dim as usize),
            VectorKind::Bits => 0,
        };
        Self::new(kind, metric, dim, scale_exp, seed)
    }

    /// That of the index with this metapage, which is valid.
    pub(crate) fn of_meta(meta: &MetaPage) -> Self {
        let kind = VectorKind::from_u32(meta.vector_kind).expect("get_meta checked it");
        let metric = Metric::from_u32(meta.metric).expect("get_meta checked it");
        Self::new(kind, metric, meta.dim, meta.scale_exp, meta.rotation_seed)
    }

    /// The kind.
    pub fn kind(&self) -> VectorKind {
        match self {
            Self::Half(_) => VectorKind::Half,
            Self::Bits(_) => VectorKind::Bits,
        }
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        match self {
            Self::Half(scaling) => scaling.metric,
            Self::Bits(bits) => bits.metric,
        }
    }

    /// Dimension of the values.
    pub fn dim(&self) -> u32 {
        match self {
            Self::Half(scaling) => scaling.dim,
            Self::Bits(bits) => bits.dim,
        }
    }

    /// Exponent of the scale; 0 where nothing is scaled.
    pub fn scale_exp(&self) -> i32 {
        match self {
            Self::Half(scaling) => scaling.scale_exp,
            Self::Bits(_) => 0,
        }
    }

    /// Words of 16 bits of a row.
    pub fn row_words(&self) -> u32 {
        row_words(self.kind(), self.dim())
    }

    /// Dimension of the coarse vectors.
    pub fn coarse_dim(&self) -> u32 {
        coarse_dim(self.kind(), self.dim())
    }

    /// Words of an input.
    pub fn input_words(&self) -> usize {
        input_words(self.kind(), self.dim())
    }

    /// Relative rounding allowance of the f32 sums that the index and the operators compute.
    pub fn rounding(&self) -> f32 {
        match self {
            Self::Half(scaling) => crate::bound::rounding(scaling.dim),
            Self::Bits(_) => 0.0,
        }
    }

    /// The stored form of a value, or `None` for the zero vector under Cosine, which has no direction and is not indexed. Fails if the
    /// dimension differs.
    pub fn to_stored(&self, input: &[f32]) -> Result<Option<StoredVector>> {
        match self {
            Self::Half(scaling) => scaling.to_stored(input),
            Self::Bits(bits) => Ok(Some(StoredVector {
                row: bits.row_of(input)?,
                err: 0.0,
            })),
        }
    }

    /// The coarse vectors of a sample (`[n, input_words]`), `[n, coarse_dim]`: the input of [`crate::kmeans::train`]. What is not indexed is
    /// left out. Runs on the threads of the pool that it is called in.
    pub fn train_rows(&self, sample: &[f32]) -> Result<Vec<f32>> {
        if let Self::Half(scaling) = self {
            return scale_sample(scaling, sample);
        }
        let coarse = |input: &[f32]| -> Result<Vec<f32>> {
            let Some(stored) = self.to_stored(input)? else {
                return Ok(Vec::new());
            };
            let coarse = self.coarse_rows(&stored.row);
            Ok(coarse.iter().map(|x| x.to_f32()).collect())
        };
        let rows: Vec<Vec<f32>> = sample
            .par_chunks_exact(self.input_words())
            .map(coarse)
            .collect::<Result<_>>()?;
        Ok(rows.concat())
    }

    /// The coarse vectors of rows (`[n, row_words]`), `[n, coarse_dim]`.
    pub fn coarse_rows<'a>(&self, rows: &'a [f16]) -> Cow<'a, [f16]> {
        let Self::Bits(bits) = self else {
            return Cow::Borrowed(rows);
        };
        let (words, dim) = (self.row_words() as usize, self.coarse_dim() as usize);
        let mut out = vec![f16::ZERO; rows.len() / words * dim];
        let pairs = rows
            .par_chunks_exact(words)
            .zip(out.par_chunks_exact_mut(dim));
        pairs.for_each(|(row, out)| bits.coarse_into(row, out));
        Cow::Owned(out)
    }
}

/// See [`RowForm::row_words`].
pub fn row_words(kind: VectorKind, dim: u32) -> u32 {
    match kind {
        VectorKind::Half => dim,
        VectorKind::Bits => bits::row_words(dim),
    }
}

/// See [`RowForm::coarse_dim`].
pub fn coarse_dim(kind: VectorKind, dim: u32) -> u32 {
    match kind {
        VectorKind::Half => dim,
        VectorKind::Bits => bits::coarse_dim(dim),
    }
}

/// See [`RowForm::input_words`].
pub fn input_words(kind: VectorKind, dim: u32) -> usize {
    match kind {
        VectorKind::Half => dim as usize,
        VectorKind::Bits => bits::input_words(dim),
    }
}

/// Most dimensions of an index of this kind.
pub const fn max_dim(kind: VectorKind) -> u32 {
    match kind {
        VectorKind::Half => MAX_DIM,
        VectorKind::Bits => bits::MAX_BITS,
    }
}

/// Dimension of the value that this is the input of.
pub fn dim_of(kind: VectorKind, input: &[f32]) -> u32 {
    match kind {
        VectorKind::Half => input.len() as u32,
        VectorKind::Bits => bits::dim_of(input),
    }
}

/// Errors: the value is not of dimension `dim`.
pub fn check_dim(kind: VectorKind, dim: u32, input: &[f32]) -> Result<()> {
    let found = dim_of(kind, input);
    if found == dim {
        return Ok(());
    }
    Err(IvfError::Dimension {
        expected: dim,
        found,
    })
}
