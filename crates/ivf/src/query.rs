//! A query made ready: scaled, and under Cosine normalised; for the filter also rotated and tabulated.

use half::f16;

use crate::bound::{Bound, QUERY_MAX};
use crate::form::bits::{BitQuery, BitRows};
use crate::form::sparse::{Prepared, SparseQuery, SparseRows};
use crate::form::{RowForm, check_dim};
use crate::index::Index;
use crate::layout::group::Filter;
use crate::rabitq::QueryCode;
use crate::rotation::Rotation;
use crate::stored::{Scale, Scaling};
use crate::{Metric, Result};

/// What rows are compared to.
#[derive(Debug, Clone)]
enum Target {
    /// The query's vector.
    Vector,
    Bits(BitQuery),
    Sparse(SparseQuery),
}

/// A prepared query. Serves all lists.
#[derive(Debug, Clone)]
pub struct Query {
    metric: Metric,
    /// `[dim]`, scaled space; where rows have coarse vectors beside them, that of the query, `[coarse_dim]`. Then come, of strings of bits, the row's
    /// words of 32 bits.
    words: Vec<f32>,
    /// Of the vector among the words.
    dim: usize,
    /// What rows are compared to.
    target: Target,
    unordered: bool,
    is_ordinary: bool,
    pub(crate) bound: Bound,
    /// Absent where there are no codes, and of a query prepared without.
    pub(crate) code: Option<QueryCode>,
}

impl Query {
    /// Prepares `q` (`[dim]`, finite) for an index of this scaling, filter and rotation. Fails if the dimension differs.
    pub fn new(scaling: &Scaling, filter: Filter, rotation: &Rotation, q: &[f32]) -> Result<Self> {
        let mut vector = vec![0.0; q.len()];
        let scaled = scale_into(scaling, q, &mut vector)?;
        Ok(Self {
            metric: scaling.metric,
            unordered: scaled.unordered,
            is_ordinary: scaled.is_ordinary,
            bound: scaled.bound,
            code: QueryCode::new(filter, rotation, &vector),
            target: Target::Vector,
            dim: vector.len(),
            words: vector,
        })
    }

    /// Prepares a string of bits, an input. Fails if it has another number of them.
    fn of_bits(form: &RowForm, rows: &BitRows, input: &[f32]) -> Result<Self> {
        let row = rows.row_of(input)?;
        let mut words = vec![0.0; form.query_words()];
        words_of_bits(form, &row, &mut words);
        Ok(Self {
            metric: rows.metric,
            words,
            dim: form.coarse_dim() as usize,
            target: Target::Bits(BitQuery::new(rows, &row)),
            unordered: false,
            is_ordinary: true,
            bound: bound_of_bits(rows),
            code: None,
        })
    }

    /// Prepares a sparse vector, an input. Fails if the dimension differs.
    fn of_sparse(form: &RowForm, rows: &SparseRows, input: &[f32]) -> Result<Self> {
        let found = rows.query(input)?;
        let unordered = found.is_none();
        let Prepared {
            query,
            sketch,
            norm,
            err,
        } = found.unwrap_or_else(|| Prepared::nothing(rows));
        Ok(Self {
            metric: rows.metric,
            dim: sketch.len(),
            words: sketch,
            target: Target::Sparse(query),
            unordered,
            is_ordinary: false,
            // The f32 form is no longer than the true one, but for what `err` holds.
            bound: Bound::new(rows.metric, form.terms(), rows.scale_exp, norm, norm, err),
            code: None,
        })
    }

    /// The query in scaled space (normalised under Cosine), `[dim]`; where rows have coarse vectors beside them, its coarse vector: what chooses lists.
    pub fn vector(&self) -> &[f32] {
        &self.words[..self.dim]
    }

    /// What a device gets of the query, `[query_words]`: [`Self::vector`], and of strings of bits their words, as bit patterns.
    pub fn words(&self) -> &[f32] {
        &self.words
    }

    /// Metric of the index.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// What the keys of this query are made of.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Whether the operator gives NaN for every row (the zero query under Cosine): all keys are 0, any order is right.
    pub fn unordered(&self) -> bool {
        self.unordered
    }

    /// Whether it is one for a device: its keys promise something, and need no look entry by entry.
    pub fn is_ordinary(&self) -> bool {
        self.is_ordinary
    }

    /// The distance a key is made of: `l2sq_f16` (L2, Cosine), `dot_f16` (NegIp) or `l1_f16` (L1) of the query and a stored row; of bits
    /// the distance itself.
    #[inline(always)]
    pub fn raw(&self, row: &[f16]) -> f32 {
        match &self.target {
            Target::Vector => match self.metric {
                Metric::NegIp => omen_distance::dot_f16(&self.words, row),
                Metric::L1 => omen_distance::l1_f16(&self.words, row),
                _ => omen_distance::l2sq_f16(&self.words, row),
            },
            Target::Bits(bits) => bits.distance(row),
            Target::Sparse(sparse) => sparse.raw(row),
        }
    }

    /// The key of an entry (see `bound.rs`).
    #[inline(always)]
    pub fn key(&self, row: &[f16], err: f32) -> f32 {
        self.bound.key(self.raw(row), err)
    }
}

impl Index {
    /// Prepares a query, an input (of vectors `[dim]`, the user's numbers, finite). Fails if the dimension differs.
    pub fn prepare(&self, q: &[f32]) -> Result<Query> {
        self.prepare_for(self.meta.shape().filter, q)
    }

    fn prepare_for(&self, filter: Filter, q: &[f32]) -> Result<Query> {
        match &self.form {
            RowForm::Half(scaling) => Query::new(scaling, filter, &self.rotation, q),
            RowForm::Bits(rows) => Query::of_bits(&self.form, rows, q),
            RowForm::Sparse(rows) => Query::of_sparse(&self.form, rows, q),
        }
    }

    /// As [`Self::prepare`], without what the filter needs: for what reads no codes, at a tenth of the cost.
    pub fn prepare_uncoded(&self, q: &[f32]) -> Result<Query> {
        self.prepare_for(Filter::None, q)
    }

    /// Adds to a query of [`Self::prepare_uncoded`] what the filter needs, if it lacks that.
    pub fn add_code(&self, query: &mut Query) {
        if query.code.is_none() {
            query.code = QueryCode::new(self.meta.shape().filter, &self.rotation, query.vector());
        }
    }

    /// Prepares a query for a device: writes [`Query::words`] to `out` (`[query_words]`) and returns the bound. `None`: its keys promise
    /// nothing or need a look entry by entry, or the form has no kernels, so it is not for a device. Fails if the dimension differs.
    pub fn prepare_into(&self, q: &[f32], out: &mut [f32]) -> Result<Option<Bound>> {
        match &self.form {
            RowForm::Half(scaling) => {
                let scaled = scale_into(scaling, q, out)?;
                Ok(scaled.is_ordinary.then_some(scaled.bound))
            }
            RowForm::Bits(rows) => {
                words_of_bits(&self.form, &rows.row_of(q)?, out);
                Ok(Some(bound_of_bits(rows)))
            }
            RowForm::Sparse(_) => {
                check_dim(self.form.kind(), self.meta.dim, q)?;
                Ok(None)
            }
        }
    }

    /// See [`Query::unordered`], of the query `q`, an input.
    pub fn is_unordered(&self, q: &[f32]) -> bool {
        self.metric() == Metric::Cosine && self.form.is_zero(q)
    }

    /// How this index scales vectors.
    pub fn scaling(&self) -> Scaling {
        Scaling {
            metric: self.metric(),
            dim: self.meta.dim,
            scale_exp: self.meta.scale_exp,
        }
    }

    /// The stored form of an input, or `None` for the zero vector under Cosine, which is not indexed.
    pub fn to_stored(&self, v: &[f32]) -> Result<Option<crate::stored::StoredVector>> {
        self.form.to_stored(v)
    }

    /// The largest value the SQL operator can return for an entry of this ceiling. Monotone in `ceiling`.
    pub fn upper_bound(&self, ceiling: f32) -> f64 {
        crate::bound::upper_bound(
            self.metric(),
            self.form.terms(),
            self.meta.scale_exp,
            ceiling,
        )
    }

    /// The least value the SQL operator can return for an entry of this key. Monotone in `key`.
    pub fn lower_bound(&self, key: f32) -> f64 {
        crate::bound::lower_bound(self.metric(), self.form.terms(), self.meta.scale_exp, key)
    }
}

/// What is known of a query in scaled space.
struct Scaled {
    bound: Bound,
    unordered: bool,
    /// No coordinate had to be cut, and keys are what the formula alone gives.
    is_ordinary: bool,
}

/// Writes `q` in scaled space to `out` (both `[dim]`). Fails if the dimension differs.
fn scale_into(scaling: &Scaling, q: &[f32], out: &mut [f32]) -> Result<Scaled> {
    let scale = scaling.scale_of(q)?;
    let mut sums = Sums::default();
    match scale {
        Some(scale) => {
            let (in_eights, in_rest) = q.as_chunks::<8>();
            let (out_eights, out_rest) = out.as_chunks_mut::<8>();
            for (from, to) in in_eights.iter().zip(out_eights) {
                for (lane, (&x, y)) in from.iter().zip(to).enumerate() {
                    *y = sums.add(lane, scale.apply(x));
                }
            }
            for (&x, y) in in_rest.iter().zip(out_rest) {
                *y = sums.add(0, scale.apply(x));
            }
        }
        // The operator returns NaN for every row: no key may promise anything.
        None => out.fill(0.0),
    }
    let [norm_sq, true_norm_sq, diff_sq] = sums.totals();
    let true_norm = true_norm_sq.sqrt();
    let rounded = match (scaling.metric, scale) {
        (Metric::L1, Some(scale)) => l1_rounded(&scale, q, out),
        _ => diff_sq.sqrt(),
    };
    let q_err = scale.map_or(f64::INFINITY, |scale| scale.err) + rounded;
    let bound = Bound::new(
        scaling.metric,
        scaling.dim,
        scaling.scale_exp,
        norm_sq.sqrt(),
        true_norm,
        q_err,
    );
    Ok(Scaled {
        bound,
        unordered: scale.is_none(),
        is_ordinary: bound.is_plain() && q_err.is_finite() && true_norm <= QUERY_MAX,
    })
}

/// Writes a string's coarse vector and its row's words to `out`, `[query_words]`.
fn words_of_bits(form: &RowForm, row: &[f16], out: &mut [f32]) {
    let (vector, words) = out.split_at_mut(form.coarse_dim() as usize);
    let coarse = form.coarse_row(row);
    for (x, h) in vector.iter_mut().zip(coarse.iter()) {
        *x = h.to_f32();
    }
    let (bytes, rest) = bytemuck::cast_slice_mut::<f32, u8>(words).split_at_mut(2 * row.len());
    bytes.copy_from_slice(bytemuck::cast_slice(row));
    rest.fill(0);
}

fn bound_of_bits(rows: &BitRows) -> Bound {
    Bound::new(rows.metric, rows.dim, 0, 0.0, 0.0, 0.0)
}

/// How far the query `q` scaled is from its f32 form, by L1.
fn l1_rounded(scale: &Scale, q: &[f32], scaled: &[f32]) -> f64 {
    let pairs = q.iter().zip(scaled);
    pairs
        .map(|(&x, &y)| (scale.apply(x) - f64::from(y)).abs())
        .sum()
}

/// Sums over coordinates, in eight lanes: one after the other the additions would wait for each other.
#[derive(Default)]
struct Sums {
    /// Squares of the coordinates as f32, of the true ones, and of the differences.
    lanes: [[f64; 8]; 3],
}

impl Sums {
    /// Adds the coordinate `x`; returns it as f32, cut to what sums can bear.
    #[inline(always)]
    fn add(&mut self, lane: usize, x: f64) -> f32 {
        let rounded = x.clamp(-QUERY_MAX, QUERY_MAX) as f32;
        let y = f64::from(rounded);
        self.lanes[0][lane] += y * y;
        self.lanes[1][lane] += x * x;
        self.lanes[2][lane] += (x - y) * (x - y);
        rounded
    }

    fn totals(&self) -> [f64; 3] {
        self.lanes.map(|lanes| lanes.iter().sum())
    }
}
