//! Keys and the proof that they bound what the SQL operators return.
//!
//! Notation: `u` the query and `x` a row as the user wrote them (f32); `s = 2^scale_exp`; `us`, `xs` the same in scaled
//! space (times `s`; under Cosine first divided by their length); `q` the query's f32 vector and `h` the stored row;
//! `g = rounding(dim)`; `e0 = 2^-24`. Norms are Euclidean, but for L1, where all of them, radii included, are sums of magnitudes. What is known:
//!
//! - (A) a sum of `dim` terms by omen_distance is off by at most `(g - 14 e0) * sum |term| + dim * 2^-149`, if it does not
//!   overflow (documentation of omen_distance, which leaves 14 units to spare);
//! - (B) `|us - q| <= q_err`, and under L2 and Cosine `q_err` holds another `sqrt(dim) * 2^-74`, under L1 `dim * 2^-148` (`query.rs`);
//! - (C) `|xs - h| <= err` for L2, Cosine and L1, `|xs - h| + 2g |xs| <= err` for NegIp (`stored.rs`);
//! - (D) `q` and `h` are finite, `|q_i| <= 2^56`, `|h_i| < 2^16`, so that no sum over `q` and `h` overflows.
//!
//! Of sparse vectors the operators add up terms one after the other, so that (A) does not hold for them as it stands: a sum of n terms is off by at most
//! `(n + 3) e0 sum |term|`. Here `dim` is then `form/sparse.rs`'s `TERMS`, by which `g` is that of as many terms as two values have. Their raw sums the index
//! adds up in f64 and rounds once, and what a row or a query leaves out is in `err` and `q_err` of (B) and (C).
//!
//! # Keys
//! **L2, Cosine**: `key <= |us - xs|`. By (A) the computed `d = l2sq(q, h)` is at most
//! `|q-h|^2 (1+g) + dim 2^-149`, so `sqrt(d) <= |q-h| (1+g) + sqrt(dim) 2^-74`, and (B), (C) give
//! `|us-xs| >= |q-h| - err - |us-q| >= sqrt(d)(1-g) - err - q_err`. The key takes `1-2g`; the difference, `g sqrt(d)` with
//! `g >= 24 e0`, pays for the root, the product and two subtractions in f32, each off by at most `e0 sqrt(d)` (a
//! difference that is negative becomes 0, which always holds). Infinite `err` or `q_err` gives 0.
//!
//! **L1**: the same without the root: `d = l1(q, h)` is at most `|q-h| (1+g) + dim 2^-149`, so `|q-h| >= d (1-g) - dim 2^-149`, and
//! the triangle inequality holds for sums of magnitudes too. The key takes `1-2g`; what that leaves, `g d >= 24 e0 d`, pays for the product and
//! two subtractions.
//!
//! **NegIp**: `key / s^2` is at most the operator's value up to absolute slack that `lower_bound` adds. The operator and the
//! index differ by rounding of each and by `|<us,xs> - <q,h>| <= |us-q| |xs| + |q| |xs-h|`:
//! in all at most `q_err |xs| + |q| |xs-h| + g (|q|+q_err) |xs| + g |q| |h|` plus underflow, where `|h| <= |xs| + |xs-h|`. With
//! `|xs| <= err/2g` this is at most `err * (1+2g) * (|q| + q_err/2g) = err * slope` (`slope` is rounded up). The key's
//! own two roundings are at most `e0 |<q,h>| + 2 e0 err slope`, covered by the units spared in (A) and by `1+2g` against `1+g`.
//!
//! The operator of NegIp can overflow to minus infinity. Its partial sums are at most `|u| |x| (1+g)`, and
//! `|xs| <= err/2g`: entries with `err >= err_limit = 2g * 0.99 * MAX * s^2 / |us|` get the key minus infinity. Finite `err`
//! are below [`MAX_ERR`], so for a *plain* query (`err_limit >= MAX_ERR`) no entry needs the test.
//!
//! **Hamming, Jaccard**: rows are the strings themselves. Counts of bits are exact, and so are those of `MAX_BITS` bits as f32: key, ceiling and
//! operator are one number. Jaccard's distance is computed in f64, as by the operator, and rounded to the nearest f32, `d`: the operator's value is
//! between the f32 below `d` and the one above it, which are key and ceiling. Where `d` is a multiple of `1/256` it is the operator's value: shares
//! of at most `MAX_BITS` bits differ from such a number by more than the rounding does, or not at all, and then no step of f64 rounds. So the
//! many rows that have nothing in common with a query have one bound, their value.
//!
//! # Ceilings
//! The same from above, for entries whose place in the order can be told without the heap. **L2, Cosine**: `|us - xs| <= ceiling`:
//! by (A) `|q-h| <= sqrt(d) (1+g) + sqrt(dim) 2^-74`, and (B), (C) add `err + q_err`. The ceiling takes `1+2g`, whose spare `g sqrt(d)`
//! pays for the root and the product; both sums are rounded up. **L1**: likewise, without the root. **NegIp**: the slack of the key is that of the absolute difference,
//! so it holds on both sides. Where the key falls back to 0 or minus infinity, the ceiling is infinite.
//!
//! # From key to operator ([`Bound::lower_bound`]), from ceiling to operator ([`upper_bound`])
//! **L2**: the operator is `sqrt(f)`, `f = l2sq(u, x)` in f32. Overflow gives infinity, which no bound exceeds. Otherwise
//! `f >= |u-x|^2 (1-g) - dim 2^-149` by (A) and `|u-x| >= key/s`.
//!
//! **L1**: the operator is `f = l1(u, x)` in f32, at least `|u-x| (1-g) - dim 2^-149` by (A), or infinite.
//!
//! **Cosine**: with both lengths in `[COSINE_NORM_MIN, COSINE_NORM_MAX]` nothing overflows and underflow is below
//! `e0` relative to the sums, so the operator's cosine is within `2.2 g` of the true one, `1 - |ux - xx|^2 / 2` for the unit vectors.
//! Other lengths have infinite `err` or `q_err`, hence key 0, and the operator is never negative (it clamps), or NaN, which sorts last.
//!
//! **NegIp**: as above; `dim 2^-148` for underflow, once in scaled space and once in the user's.
//!
//! From above the same terms count with the other sign; L2's sum is known not to overflow while `|u-x|^2 (1+2g)`, L1's while `|u-x| (1+2g)`, is below half of the
//! largest f32, beyond which the bound is infinity. A finite ceiling implies finite `err` and `q_err`: lengths within the
//! operator's range (Cosine), no overflow (NegIp).
//!
//! NaN is greater than everything in the order of float8, so an operator that returns NaN breaks no lower bound; where the ceiling
//! is finite, the operator is not NaN.

use omen_distance::Limit;

use crate::Metric;
use crate::form::bits::MAX_BITS;
use crate::survivors::Survivor;

/// Radii from here on are stored as infinity: such an entry is always a candidate.
pub const MAX_ERR: f32 = (1u64 << 32) as f32;
/// Shortest vector that Cosine's operator computes well: squared, 16000 * 2^-149 is below 2^-24 of it.
pub const COSINE_NORM_MIN: f64 = 1.0 / (1u64 << 55) as f64;
/// Longest vector that Cosine's operator computes without overflow.
pub const COSINE_NORM_MAX: f64 = (1u64 << 63) as f64;
/// Query components are clamped here (what is cut off goes into `q_err`), so that no f32 sum overflows.
pub(crate) const QUERY_MAX: f64 = (1u64 << 56) as f64;

/// Relative rounding allowance of f32 sums over `dim` terms: `MetaPage::rounding`.
pub fn rounding(dim: u32) -> f32 {
    // Exact: at most 2024 units of 2^-24 and a fraction in eighths.
    omen_distance::rounding(dim as usize) as f32
}

/// An upper bound in f32 of a non-negative f64 that was computed with a few thousand roundings.
pub(crate) fn round_up(x: f64) -> f32 {
    if x == 0.0 {
        0.0
    } else {
        ((x * (1.0 + 1e-6)) as f32).next_up()
    }
}

/// Whether this distance of Jaccard is exact.
fn is_share(raw: f32) -> bool {
    (raw * 256.0).fract() == 0.0
}

// From a/b to p/256 it is at least 1/256b, or nothing; to the nearest f32, below 1, 2^-25 at most.
const _: () = assert!(256 * (MAX_BITS as u64) < 1 << 25);

/// What keys of one query depend on, besides the row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    metric: Metric,
    dim: u32,
    scale_exp: i32,
    g: f32,
    /// `1 - 2g`, rounded down.
    shrink: f32,
    /// `1 + 2g`, rounded up.
    grow: f32,
    /// Radius of the query's own rounding (scaled space).
    q_err: f32,
    /// NegIp: `|q| + q_err/2g`, rounded up.
    q_norm: f32,
    /// NegIp: `q_norm (1 + 2g)`, rounded up.
    slope: f32,
    /// NegIp: entries with a radius from here on get the key minus infinity.
    err_limit: f32,
}

impl Bound {
    /// The bound of a query whose f32 vector has norm `norm`, differs from the true scaled query (norm `true_norm`) by at most
    /// `q_err`, all in f64 and scaled space.
    pub(crate) fn new(
        metric: Metric,
        dim: u32,
        scale_exp: i32,
        norm: f64,
        true_norm: f64,
        q_err: f64,
    ) -> Self {
        let g = rounding(dim);
        let g2 = 2.0 * f64::from(g);
        let underflow = f64::from(dim).sqrt() * 2f64.powi(-74);
        let q_err = match metric {
            Metric::L2 | Metric::Cosine => q_err + underflow,
            Metric::L1 => q_err + f64::from(dim) * 2f64.powi(-148),
            Metric::Hamming | Metric::Jaccard => 0.0,
            Metric::NegIp => q_err,
        };
        let q_norm = norm + q_err / g2;
        let limit = g2 * 0.99 * f64::from(f32::MAX) * 4f64.powi(scale_exp) / true_norm;
        let plain = metric != Metric::NegIp
            || limit >= f64::from(MAX_ERR) && q_norm < f64::from(f32::MAX) / 4.0;
        Self {
            metric,
            dim,
            scale_exp,
            g,
            shrink: (1.0 - g2 as f32).next_down(),
            grow: (1.0 + g2 as f32).next_up(),
            q_err: round_up(q_err),
            q_norm: round_up(q_norm),
            slope: round_up(q_norm * (1.0 + g2)),
            err_limit: if plain {
                f32::INFINITY
            } else if q_norm.is_finite() && q_norm < f64::from(f32::MAX) / 4.0 {
                (limit as f32).next_down().max(0.0)
            } else {
                0.0
            },
        }
    }

    /// Whether the key formula alone holds for every entry (see the module): other queries need [`Bound::key`]
    /// itself, entry by entry, and are not for the GPU.
    pub fn is_plain(&self) -> bool {
        self.err_limit == f32::INFINITY
    }

    /// The allowance `g`.
    pub fn rounding(&self) -> f32 {
        self.g
    }

    /// L2, Cosine, L1: radius of the query's own rounding. 0 or tiny for ordinary queries; may be infinite.
    pub fn q_err(&self) -> f32 {
        self.q_err
    }

    /// NegIp: the `||q||` of the key formula, rounded up, the query's rounding included.
    pub fn q_norm(&self) -> f32 {
        self.q_norm
    }

    /// The key of an entry: `raw` is `l2sq_f16(q, h)` (L2, Cosine), `dot_f16(q, h)` (NegIp) or `l1_f16(q, h)` (L1), `err` its radius.
    #[inline(always)]
    pub fn key(&self, raw: f32, err: f32) -> f32 {
        match self.metric {
            Metric::L2 | Metric::Cosine => {
                let key = raw.sqrt() * self.shrink - (err + self.q_err);
                // Not f32::max: infinite err gives minus infinity or, with an infinite root, NaN; both become 0.
                if key > 0.0 { key } else { 0.0 }
            }
            Metric::L1 => {
                let key = raw * self.shrink - (err + self.q_err);
                if key > 0.0 { key } else { 0.0 }
            }
            Metric::Hamming => raw,
            Metric::Jaccard if is_share(raw) => raw,
            Metric::Jaccard => raw.next_down().max(0.0),
            Metric::NegIp => {
                let key = -raw - err * self.slope;
                if err < self.err_limit && !key.is_nan() {
                    key
                } else {
                    f32::NEG_INFINITY
                }
            }
        }
    }

    /// The ceiling of an entry, from what [`Self::key`] takes.
    pub fn ceiling(&self, raw: f32, err: f32) -> f32 {
        let ceiling = match self.metric {
            Metric::L2 | Metric::Cosine => {
                let radius = (err + self.q_err).next_up();
                (raw.sqrt() * self.grow + radius).next_up()
            }
            Metric::L1 => {
                let radius = (err + self.q_err).next_up();
                (raw * self.grow + radius).next_up()
            }
            Metric::Hamming => raw,
            Metric::Jaccard if is_share(raw) => raw,
            Metric::Jaccard => raw.next_up(),
            Metric::NegIp if err < self.err_limit => -raw + err * self.slope,
            Metric::NegIp => f32::INFINITY,
        };
        if ceiling.is_nan() {
            f32::INFINITY
        } else {
            ceiling
        }
    }

    /// L2, Cosine: an l2sq that an entry of key at most `threshold` cannot exceed; NegIp: the same for `-<q,h>`. Others have no codes: no limit.
    /// (Up to rounding of a few units, which the filter's own allowance covers.)
    #[inline(always)]
    pub(crate) fn raw_limit(&self, threshold: f32, err: f32) -> f32 {
        match self.metric {
            Metric::L2 | Metric::Cosine => {
                let reach = threshold + self.q_err + err;
                reach * reach * (1.0 + 4.0 * self.g)
            }
            Metric::NegIp => threshold + err * self.slope,
            Metric::L1 | Metric::Hamming | Metric::Jaccard => f32::INFINITY,
        }
    }

    /// Whether the key of an entry that the filter let through may be below `threshold` by its bound.
    #[inline(always)]
    pub(crate) fn may_be_below(&self, threshold: f32, survivor: &Survivor) -> bool {
        let limit = self.raw_limit(threshold, survivor.err);
        // NaN: infinities of both signs met, and nothing is known.
        survivor.bound <= limit || limit.is_nan() || survivor.bound.is_nan()
    }

    /// [`Self::raw_limit`] of a threshold, for whole groups.
    pub(crate) fn limit(&self, threshold: f32) -> Limit {
        match self.metric {
            Metric::L2 | Metric::Cosine => Limit {
                square: true,
                offset: threshold + self.q_err,
                slope: 1.0,
                factor: 1.0 + 4.0 * self.g,
            },
            Metric::NegIp => Limit {
                square: false,
                offset: threshold,
                slope: self.slope,
                factor: 1.0,
            },
            Metric::L1 | Metric::Hamming | Metric::Jaccard => Limit {
                square: false,
                offset: f32::INFINITY,
                slope: 0.0,
                factor: 1.0,
            },
        }
    }

    /// See [`lower_bound`].
    pub fn lower_bound(&self, key: f32) -> f64 {
        lower_bound(self.metric, self.dim, self.scale_exp, key)
    }
}

/// The largest value the SQL operator can return for an entry of this ceiling; in the user's numbers. Monotone in
/// `ceiling`; infinite when nothing is known.
pub fn upper_bound(metric: Metric, dim: u32, scale_exp: i32, ceiling: f32) -> f64 {
    if !ceiling.is_finite() {
        return f64::INFINITY;
    }
    let g = f64::from(rounding(dim));
    let ceiling = f64::from(ceiling);
    let distance = ceiling * 2f64.powi(-scale_exp);
    match metric {
        Metric::L2 => {
            let f = distance * distance * (1.0 + 2.0 * g) + f64::from(dim) * 2f64.powi(-148);
            if f < f64::from(f32::MAX) / 2.0 {
                f.sqrt() * (1.0 + 2f64.powi(-50))
            } else {
                f64::INFINITY
            }
        }
        Metric::L1 => {
            let f = distance * (1.0 + 2.0 * g) + f64::from(dim) * 2f64.powi(-148);
            if f < f64::from(f32::MAX) / 2.0 {
                f
            } else {
                f64::INFINITY
            }
        }
        Metric::Hamming | Metric::Jaccard => ceiling,
        Metric::Cosine => distance * distance / 2.0 + 8.0 * g,
        Metric::NegIp => {
            let underflow = f64::from(dim) * 2f64.powi(-148);
            let value = (ceiling + underflow) * 4f64.powi(-scale_exp) + underflow;
            value + value.abs() * 2f64.powi(-50)
        }
    }
}

/// The least value the SQL operator can return for an entry of this key; in the user's numbers. Monotone in `key`.
pub fn lower_bound(metric: Metric, dim: u32, scale_exp: i32, key: f32) -> f64 {
    if key.is_infinite() && key > 0.0 {
        return f64::INFINITY;
    }
    let g = f64::from(rounding(dim));
    let key = f64::from(key);
    let distance = key * 2f64.powi(-scale_exp);
    match metric {
        Metric::L2 => {
            let f = distance * distance * (1.0 - 2.0 * g) - f64::from(dim) * 2f64.powi(-148);
            f.max(0.0).sqrt()
        }
        Metric::L1 => (distance * (1.0 - 2.0 * g) - f64::from(dim) * 2f64.powi(-148)).max(0.0),
        Metric::Hamming | Metric::Jaccard => key,
        Metric::Cosine => distance * distance / 2.0 - 8.0 * g,
        Metric::NegIp => {
            let underflow = f64::from(dim) * 2f64.powi(-148);
            let value = (key - underflow) * 4f64.powi(-scale_exp) - underflow;
            if value == f64::NEG_INFINITY {
                value
            } else {
                value - value.abs() * 2f64.powi(-50)
            }
        }
    }
}
