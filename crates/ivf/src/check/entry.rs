//! One entry: what its numbers can be, and whether it is in the right list.
//!
//! # Which list
//! INSERT puts a row into the list that [`nearest_list`] names, which is a function of the row and the centroids (and looks
//! past the nearest one once in tens of thousands, by its codes). A build takes the nearest by inner products that are summed up in single
//! precision, on the CPU or on a device, where centroids as good as equally far may change places. So an entry is in the right
//! list if `nearest_list` names it, or if its centroid is no farther than the one named, but for the rounding of such sums:
//! `dim` terms of rows and centroids relative to a point m near all centroids, each rounded to 2^-22 at worst (tensor cores), that
//! is `(dim + 16) 2^-22 (|x| + |m| + |c - m|) |c - m|`, four times because distances are twice the products and two are compared; and
//! where a centroid's low half underflows in binary16, 2^-25 a dimension. Distances summed up directly are better than that.

use std::hash::{DefaultHasher, Hash, Hasher};

use half::f16;

use crate::bound::{MAX_ERR, rounding};
use crate::coarse::nearest_list;
use crate::form::RowForm;
use crate::frozen_writer::read_centroid;
use crate::index::Index;
use crate::layout::page::ROOT_LIST;
use crate::store::PageStore;
use crate::{Metric, Result};

/// Allowance for numbers that were computed in another order.
const SLACK: f64 = 1e-5;
/// Largest finite value of binary16.
const F16_MAX: u16 = 0x7BFF;

/// What an index and a table are compared by: stored row and error radius.
pub(super) fn fingerprint(row: &[f16], err: f32) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytemuck::cast_slice::<f16, u8>(row).hash(&mut hasher);
    err.to_bits().hash(&mut hasher);
    hasher.finish()
}

/// Checks entries of one list.
pub(super) struct EntryCheck<'a, S> {
    s: &'a S,
    index: &'a Index,
    list: u32,
    /// Whether the centroids can tell which list a row belongs to.
    assigns: bool,
    centroid: Vec<f64>,
    /// Of the centroids.
    mean: Vec<f64>,
}

impl<'a, S: PageStore> EntryCheck<'a, S> {
    /// Of `list`, whose centroid is given, `[dim]`.
    pub(super) fn new(
        s: &'a S,
        index: &'a Index,
        list: u32,
        centroid: &[f16],
        assigns: bool,
    ) -> Result<Self> {
        let assigns = assigns && list != ROOT_LIST && index.n_lists() > 1;
        let mean = if assigns {
            wide(&read_centroid(s, index, ROOT_LIST)?)
        } else {
            Vec::new()
        };
        Ok(Self {
            s,
            index,
            list,
            assigns,
            centroid: wide(centroid),
            mean,
        })
    }

    /// What is wrong with a row and its radius, if anything is.
    pub(super) fn numbers(&self, row: &[f16], err: f32) -> Option<String> {
        let is_radius = err >= 0.0 && (err < MAX_ERR || err == f32::INFINITY);
        if let (RowForm::Sparse(rows), false) = (&self.index.form, self.list == ROOT_LIST) {
            // How much was left out the row does not tell.
            let wrong = || (!is_radius).then(|| format!("an error radius of {err}"));
            return rows.wrong_of(row).map(str::to_owned).or_else(wrong);
        }
        if let (RowForm::Bits(bits), false) = (&self.index.form, self.list == ROOT_LIST) {
            return if bits.has_strays(row) {
                Some("bits beyond the last".into())
            } else {
                (err != 0.0).then(|| format!("an error radius of {err}, of a string of bits"))
            };
        }
        if row.iter().any(|x| !x.is_finite()) {
            return Some("a vector that is not finite".into());
        }
        // Large ones are stored as infinity.
        if err.is_nan() || err < 0.0 || (MAX_ERR..f32::INFINITY).contains(&err) {
            return Some(format!("an error radius of {err}"));
        }
        if self.list == ROOT_LIST {
            return (err != 0.0).then(|| format!("a centroid with an error radius of {err}"));
        }
        let size = Size::of(row);
        if let Some(what) = self.length(&size) {
            return Some(what);
        }
        let (least, most) = self.radii(&size);
        let err = f64::from(err);
        (!(least..=most).contains(&err)).then(|| {
            format!("an error radius of {err:e}, which must be from {least:e} to {most:e}")
        })
    }

    /// Under cosine rows have length 1, scaled and rounded.
    fn length(&self, size: &Size) -> Option<String> {
        if self.index.metric() != Metric::Cosine {
            return None;
        }
        let unit = 2f64.powi(self.index.meta.scale_exp);
        let off = (size.norm - unit).abs();
        let allowed = size.rounded + unit * SLACK;
        (off > allowed).then(|| format!("a vector of length {} instead of {unit}", size.norm))
    }

    /// The least and largest radius that the row can have (see `stored.rs`).
    fn radii(&self, size: &Size) -> (f64, f64) {
        let meta = &self.index.meta;
        let g = f64::from(rounding(meta.dim));
        let (least, more, may_be_infinite) = match self.index.metric() {
            Metric::L2 | Metric::L1 | Metric::Hamming | Metric::Jaccard => (0.0, 0.0, false),
            Metric::NegIp => (
                2.0 * g * (size.norm - size.rounded).max(0.0),
                2.0 * g * (size.norm + size.rounded),
                false,
            ),
            Metric::Cosine => {
                let division = 2f64.powi(meta.scale_exp) * f64::from(meta.dim + 8) * f64::EPSILON;
                (division, division, true)
            }
        };
        let most = if size.is_cut || may_be_infinite {
            f64::INFINITY
        } else {
            // A radius is rounded up by at least the next number.
            let rounded = match self.index.metric() {
                Metric::L1 => size.rounded_sum,
                _ => size.rounded,
            };
            (rounded + more) * (1.0 + SLACK) + f64::from(f32::MIN_POSITIVE)
        };
        (least * (1.0 - SLACK), most)
    }

    /// The list the row belongs to, if it is not this one.
    pub(super) fn other_list(&self, row: &[f16]) -> Result<Option<u32>> {
        if !self.assigns {
            return Ok(None);
        }
        let nearest = nearest_list(self.s, self.index, row)?;
        if nearest == self.list {
            return Ok(None);
        }
        let other = wide(&read_centroid(self.s, self.index, nearest)?);
        let row = wide(&self.index.form.coarse_row(row));
        let (here, there) = (l2sq(&row, &self.centroid), l2sq(&row, &other));
        let dim = self.index.coarse_dim() as f64;
        let from_mean = l2sq(&self.centroid, &self.mean)
            .max(l2sq(&other, &self.mean))
            .sqrt();
        let (x, m) = (norm(&row), norm(&self.mean));
        let unit = 2f64.powi(-22);
        let sums = 4.0 * (dim + 16.0) * unit * (x + m + from_mean) * from_mean;
        let halves = x * dim.sqrt() * unit;
        let direct = 2.0 * f64::from(rounding(self.index.coarse_dim() as u32)) * here;
        Ok((here > there + sums + halves + direct).then_some(nearest))
    }
}

/// What a stored row tells of the vector it was made of.
struct Size {
    norm: f64,
    /// Most that rounding to binary16 can have taken away, but for what was cut off.
    rounded: f64,
    /// The same by L1.
    rounded_sum: f64,
    /// Whether a number may have been cut off at the end of the range.
    is_cut: bool,
}

impl Size {
    fn of(row: &[f16]) -> Self {
        let (mut norm_sq, mut rounded_sq, mut rounded_sum, mut is_cut) = (0f64, 0f64, 0f64, false);
        for &x in row {
            let magnitude = x.to_bits() & 0x7FFF;
            is_cut |= magnitude == F16_MAX;
            let exponent = i32::from(magnitude >> 10).max(1);
            let x = x.to_f64();
            // Half a unit of the last place, and the rounding to f32 before.
            let half = 2f64.powi(exponent - 26) + x.abs() * 2f64.powi(-23);
            norm_sq += x * x;
            rounded_sq += half * half;
            rounded_sum += half;
        }
        Self {
            norm: norm_sq.sqrt(),
            rounded: rounded_sq.sqrt(),
            rounded_sum,
            is_cut,
        }
    }
}

fn wide(row: &[f16]) -> Vec<f64> {
    row.iter().map(|x| x.to_f64()).collect()
}

fn norm(a: &[f64]) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn l2sq(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}
