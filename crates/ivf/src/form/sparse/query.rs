//! A sparse vector that is searched for, and its distances to rows.

use half::f16;

use super::{MAX_NNZ, SKETCH_DIM, Scaled, SparseRows, entries_of, nnz_of};
use crate::Result;
use crate::bound::QUERY_MAX;
use crate::params::Metric;

/// A query and what its bounds are made of.
pub(crate) struct Prepared {
    pub(crate) query: SparseQuery,
    /// Its coarse vector, `[coarse_dim]`.
    pub(crate) sketch: Vec<f32>,
    /// Its norm in scaled space.
    pub(crate) norm: f64,
    /// How far it is from what the user wrote, in the metric's norm.
    pub(crate) err: f64,
}

impl Prepared {
    /// That of which nothing is known.
    pub(crate) fn nothing(rows: &SparseRows) -> Self {
        Self {
            query: SparseQuery {
                metric: rows.metric,
                elements: Vec::new(),
            },
            sketch: vec![0.0; SKETCH_DIM as usize],
            norm: 0.0,
            err: f64::INFINITY,
        }
    }
}

impl SparseRows {
    /// Prepares a query, an input. `None` for the zero vector under Cosine. Fails if the dimension differs.
    pub(crate) fn query(&self, input: &[f32]) -> Result<Option<Prepared>> {
        let Some(Scaled {
            elements,
            mut err,
            norm,
        }) = self.scaled(input)?
        else {
            return Ok(None);
        };
        let mut sketch = vec![0f32; SKETCH_DIM as usize];
        let (mut lost_sq, mut lost_sum) = (0f64, 0f64);
        let mut x = Vec::with_capacity(elements.len());
        for (index, true_x) in elements {
            let rounded = true_x.clamp(-QUERY_MAX, QUERY_MAX) as f32;
            let lost = true_x - f64::from(rounded);
            lost_sq += lost * lost;
            lost_sum += lost.abs();
            self.add_to(&mut sketch, index, rounded);
            x.push((index, rounded));
        }
        err += if self.metric == Metric::L1 {
            lost_sum
        } else {
            lost_sq.sqrt()
        };
        // The operators' sums round more than is allowed for: nothing is promised, and all rows are looked up in the table.
        if nnz_of(input) as usize > MAX_NNZ {
            err = f64::INFINITY;
        }
        let query = SparseQuery {
            metric: self.metric,
            elements: x,
        };
        Ok(Some(Prepared {
            query,
            sketch,
            norm,
            err,
        }))
    }
}

/// A sparse vector that is searched for.
#[derive(Debug, Clone)]
pub(crate) struct SparseQuery {
    metric: Metric,
    /// In ascending order of indices, scaled.
    elements: Vec<(u32, f32)>,
}

impl SparseQuery {
    /// The sum that a row's key is made of (`Query::raw`), added up in f64.
    pub(crate) fn raw(&self, row: &[f16]) -> f32 {
        let sum = match self.metric {
            Metric::NegIp => self.sum(row, |q, h| q * h),
            Metric::L1 => self.sum(row, |q, h| (q - h).abs()),
            _ => self.sum(row, |q, h| (q - h) * (q - h)),
        };
        sum as f32
    }

    /// The sum of `term` over the indices that either has.
    #[inline(always)]
    fn sum(&self, row: &[f16], term: impl Fn(f64, f64) -> f64) -> f64 {
        let mut sum = 0f64;
        let mut elements = self.elements.iter().peekable();
        for (index, h) in entries_of(row) {
            while let Some(&(_, q)) = elements.next_if(|(at, _)| *at < index) {
                sum += term(q.into(), 0.0);
            }
            let matched = elements.next_if(|(at, _)| *at == index);
            sum += term(matched.map_or(0.0, |&(_, q)| q.into()), h.to_f64());
        }
        elements.fold(sum, |sum, &(_, q)| sum + term(q.into(), 0.0))
    }
}
