//! A query made ready: scaled, and under Cosine normalised; for the filter also rotated and tabulated.

use half::f16;

use crate::bound::{Bound, QUERY_MAX};
use crate::index::Index;
use crate::layout::group::Filter;
use crate::rabitq::QueryCode;
use crate::rotation::Rotation;
use crate::stored::Scaling;
use crate::{Metric, Result};

/// A prepared query. Serves all lists.
#[derive(Debug, Clone)]
pub struct Query {
    metric: Metric,
    /// `[dim]`, scaled space.
    vector: Vec<f32>,
    unordered: bool,
    pub(crate) bound: Bound,
    /// Absent where there are no codes.
    pub(crate) code: Option<QueryCode>,
}

impl Query {
    /// Prepares `q` (`[dim]`, finite) for an index of this scaling, filter and rotation. Fails if the dimension differs.
    pub fn new(scaling: &Scaling, filter: Filter, rotation: &Rotation, q: &[f32]) -> Result<Self> {
        let scaled = scaling.scaled(q)?;
        let unordered = scaled.is_none();
        let (values, mut q_err) = match scaled {
            Some(scaled) => (scaled.values, scaled.err),
            // The operator returns NaN for every row: no key may promise anything.
            None => (vec![0.0; q.len()], f64::INFINITY),
        };
        let vector: Vec<f32> = values
            .iter()
            .map(|&x| x.clamp(-QUERY_MAX, QUERY_MAX) as f32)
            .collect();
        let (mut norm_sq, mut true_norm_sq, mut diff_sq) = (0f64, 0f64, 0f64);
        for (&x, &y) in values.iter().zip(&vector) {
            let y = f64::from(y);
            true_norm_sq += x * x;
            norm_sq += y * y;
            diff_sq += (x - y) * (x - y);
        }
        q_err += diff_sq.sqrt();
        let (norm, true_norm) = (norm_sq.sqrt(), true_norm_sq.sqrt());
        let bound = Bound::new(
            scaling.metric,
            scaling.dim,
            scaling.scale_exp,
            norm,
            true_norm,
            q_err,
        );
        let code = QueryCode::new(filter, rotation, &vector);
        Ok(Self {
            metric: scaling.metric,
            vector,
            unordered,
            bound,
            code,
        })
    }

    /// The query in scaled space (normalised under Cosine), `[dim]`.
    pub fn vector(&self) -> &[f32] {
        &self.vector
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

    /// The distance a key is made of: `l2sq_f16` (L2, Cosine) or `dot_f16` (NegIp) of the query and a stored row.
    #[inline(always)]
    pub fn raw(&self, row: &[f16]) -> f32 {
        match self.metric {
            Metric::L2 | Metric::Cosine => omen_distance::l2sq_f16(&self.vector, row),
            Metric::NegIp => omen_distance::dot_f16(&self.vector, row),
        }
    }

    /// The key of an entry (see `bound.rs`).
    #[inline(always)]
    pub fn key(&self, row: &[f16], err: f32) -> f32 {
        self.bound.key(self.raw(row), err)
    }
}

impl Index {
    /// Prepares a query (`[dim]`, the user's numbers, finite). Fails if the dimension differs.
    pub fn prepare(&self, q: &[f32]) -> Result<Query> {
        Query::new(&self.scaling(), self.meta.shape().filter, &self.rotation, q)
    }

    /// As [`Self::prepare`], without what the filter needs: for a device that reads no codes, at a tenth of the cost.
    pub fn prepare_uncoded(&self, q: &[f32]) -> Result<Query> {
        Query::new(&self.scaling(), Filter::None, &self.rotation, q)
    }

    /// A query of [`Self::prepare_uncoded`] as [`Self::prepare`] would have made it.
    pub fn with_code(&self, query: &Query) -> Query {
        Query {
            code: QueryCode::new(self.meta.shape().filter, &self.rotation, &query.vector),
            ..query.clone()
        }
    }

    /// How this index scales vectors.
    pub fn scaling(&self) -> Scaling {
        Scaling {
            metric: self.metric(),
            dim: self.meta.dim,
            scale_exp: self.meta.scale_exp,
        }
    }

    /// The stored form of `v` (`[dim]`), or `None` for the zero vector under Cosine, which is not indexed.
    pub fn to_stored(&self, v: &[f32]) -> Result<Option<crate::stored::StoredVector>> {
        self.scaling().to_stored(v)
    }

    /// The largest value the SQL operator can return for an entry of this ceiling. Monotone in `ceiling`.
    pub fn upper_bound(&self, ceiling: f32) -> f64 {
        crate::bound::upper_bound(self.metric(), self.meta.dim, self.meta.scale_exp, ceiling)
    }

    /// The least value the SQL operator can return for an entry of this key. Monotone in `key`.
    pub fn lower_bound(&self, key: f32) -> f64 {
        crate::bound::lower_bound(self.metric(), self.meta.dim, self.meta.scale_exp, key)
    }
}
