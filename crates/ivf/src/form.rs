//! What rows of an index hold, by the type of its column, and how values of that type become rows.
//!
//! A value comes as *input*: f32 words, as many for each value of an index, so that samples and batches are arrays. Of vectors these are the
//! coordinates; of strings of bits and sparse vectors see [`bits::input_of`] and [`sparse::input_of`], and what is no coordinate is a bit pattern.
//!
//! A row is made of words of 16 bits ([`RowForm::row_words`]), of which only this module and [`crate::query`] know what they hold. What
//! chooses lists, in training, assigning and searching, is a row's *coarse vector*, a function of the row as stored: of vectors the row itself. The
//! centroids, rows of the root list, are coarse vectors.

pub mod bits;
mod sketch;
pub mod sparse;

use std::borrow::Cow;

use half::f16;
use rayon::prelude::*;

use self::bits::BitRows;
use self::sparse::SparseRows;
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
    /// Sparse vectors.
    Sparse(SparseRows),
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
            VectorKind::Sparse => Self::Sparse(SparseRows {
                metric,
                dim,
                scale_exp,
                entries: sparse::USUAL_ENTRIES,
                seed,
            }),
        }
    }

    /// The same, with room for so many entries in a row of a sparse vector.
    pub fn with_entries(mut self, entries: u32) -> Self {
        if let Self::Sparse(rows) = &mut self {
            rows.entries = entries;
        }
        self
    }

    /// Entries that a row of a sparse vector has room for; 0 for others.
    pub fn entries(&self) -> u32 {
        match self {
            Self::Sparse(rows) => rows.entries,
            Self::Half(_) | Self::Bits(_) => 0,
        }
    }

    /// Why the CPU alone searches indexes of this form; `None`: kernels do too.
    pub fn cpu_only(&self) -> Option<&'static str> {
        cpu_only(self.kind())
    }

    /// Words of 32 bits that a device gets of a query: its coarse vector, which of vectors is all; of strings of bits then its row.
    pub fn query_words(&self) -> usize {
        let of_row = match self {
            Self::Bits(_) => self.row_words().div_ceil(2),
            Self::Half(_) | Self::Sparse(_) => 0,
        };
        (self.coarse_dim() + of_row) as usize
    }

    /// Terms that [`crate::bound::rounding`] counts for the sums of the operators.
    pub(crate) fn terms(&self) -> u32 {
        match self {
            Self::Half(scaling) => scaling.dim,
            Self::Bits(_) => 0,
            Self::Sparse(_) => sparse::TERMS,
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
            VectorKind::Sparse => {
                return Self::Sparse(SparseRows::for_sample(metric, dim, seed, sample));
            }
        };
        Self::new(kind, metric, dim, scale_exp, seed)
    }

    /// That of the index with this metapage, which is valid.
    pub(crate) fn of_meta(meta: &MetaPage) -> Self {
        let kind = VectorKind::from_u32(meta.vector_kind).expect("get_meta checked it");
        let metric = Metric::from_u32(meta.metric).expect("get_meta checked it");
        let form = Self::new(kind, metric, meta.dim, meta.scale_exp, meta.rotation_seed);
        form.with_entries(sparse::entries_of_words(meta.row_words))
    }

    /// The kind.
    pub fn kind(&self) -> VectorKind {
        match self {
            Self::Half(_) => VectorKind::Half,
            Self::Bits(_) => VectorKind::Bits,
            Self::Sparse(_) => VectorKind::Sparse,
        }
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        match self {
            Self::Half(scaling) => scaling.metric,
            Self::Bits(bits) => bits.metric,
            Self::Sparse(rows) => rows.metric,
        }
    }

    /// Dimension of the values.
    pub fn dim(&self) -> u32 {
        match self {
            Self::Half(scaling) => scaling.dim,
            Self::Bits(bits) => bits.dim,
            Self::Sparse(rows) => rows.dim,
        }
    }

    /// Exponent of the scale; 0 where nothing is scaled.
    pub fn scale_exp(&self) -> i32 {
        match self {
            Self::Half(scaling) => scaling.scale_exp,
            Self::Bits(_) => 0,
            Self::Sparse(rows) => rows.scale_exp,
        }
    }

    /// Words of 16 bits of a row.
    pub fn row_words(&self) -> u32 {
        match self {
            Self::Sparse(rows) => sparse::row_words(rows.entries),
            _ => row_words(self.kind(), self.dim()),
        }
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
            Self::Bits(_) => 0.0,
            _ => crate::bound::rounding(self.terms()),
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
            Self::Sparse(rows) => rows.to_stored(input),
        }
    }

    /// Whether this is the input of a value without length, of as many dimensions as the form's.
    pub(crate) fn is_zero(&self, input: &[f32]) -> bool {
        match self {
            Self::Half(_) => input.iter().all(|&x| x == 0.0),
            Self::Bits(_) => input[1..].iter().all(|word| word.to_bits() == 0),
            Self::Sparse(_) => sparse::norm_of(input) == 0.0,
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
            let coarse = self.coarse_row(&stored.row);
            Ok(coarse.iter().map(|x| x.to_f32()).collect())
        };
        let rows: Vec<Vec<f32>> = sample
            .par_chunks_exact(self.input_words())
            .map(coarse)
            .collect::<Result<_>>()?;
        Ok(rows.concat())
    }

    /// The coarse vector of a row (`[row_words]`), `[coarse_dim]`.
    pub fn coarse_row<'a>(&self, row: &'a [f16]) -> Cow<'a, [f16]> {
        if self.kind() == VectorKind::Half {
            return Cow::Borrowed(row);
        }
        let mut out = vec![f16::ZERO; self.coarse_dim() as usize];
        self.coarse_into(row, &mut out);
        Cow::Owned(out)
    }

    /// The coarse vectors of rows (`[n, row_words]`), `[n, coarse_dim]`. Runs on the threads of the pool that it is called in: elsewhere rayon
    /// would start threads of its own.
    pub fn coarse_rows<'a>(&self, rows: &'a [f16]) -> Cow<'a, [f16]> {
        if self.kind() == VectorKind::Half {
            return Cow::Borrowed(rows);
        }
        let (words, dim) = (self.row_words() as usize, self.coarse_dim() as usize);
        let mut out = vec![f16::ZERO; rows.len() / words * dim];
        let pairs = rows
            .par_chunks_exact(words)
            .zip(out.par_chunks_exact_mut(dim));
        pairs.for_each(|(row, out)| self.coarse_into(row, out));
        Cow::Owned(out)
    }

    fn coarse_into(&self, row: &[f16], out: &mut [f16]) {
        match self {
            Self::Half(_) => out.copy_from_slice(row),
            Self::Bits(bits) => bits.coarse_into(row, out),
            Self::Sparse(sparse) => sparse.coarse_into(row, out),
        }
    }
}

/// See [`RowForm::cpu_only`].
pub fn cpu_only(kind: VectorKind) -> Option<&'static str> {
    (kind == VectorKind::Sparse).then_some("kernels do not read sparse vectors")
}

/// See [`RowForm::row_words`]; of sparse vectors, where it depends on the values, what is usual.
pub fn row_words(kind: VectorKind, dim: u32) -> u32 {
    match kind {
        VectorKind::Half => dim,
        VectorKind::Bits => bits::row_words(dim),
        VectorKind::Sparse => sparse::row_words(sparse::USUAL_ENTRIES),
    }
}

/// See [`RowForm::coarse_dim`].
pub fn coarse_dim(kind: VectorKind, dim: u32) -> u32 {
    match kind {
        VectorKind::Half => dim,
        VectorKind::Bits => bits::coarse_dim(dim),
        VectorKind::Sparse => sparse::coarse_dim(),
    }
}

/// See [`RowForm::input_words`].
pub fn input_words(kind: VectorKind, dim: u32) -> usize {
    match kind {
        VectorKind::Half => dim as usize,
        VectorKind::Bits => bits::input_words(dim),
        VectorKind::Sparse => sparse::input_words(),
    }
}

/// Most dimensions of an index of this kind.
pub const fn max_dim(kind: VectorKind) -> u32 {
    match kind {
        VectorKind::Half => MAX_DIM,
        VectorKind::Bits => bits::MAX_BITS,
        VectorKind::Sparse => sparse::MAX_SPARSE_DIM,
    }
}

/// Dimension of the value that this is the input of.
pub fn dim_of(kind: VectorKind, input: &[f32]) -> u32 {
    match kind {
        VectorKind::Half => input.len() as u32,
        VectorKind::Bits => bits::dim_of(input),
        VectorKind::Sparse => sparse::dim_of(input),
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
