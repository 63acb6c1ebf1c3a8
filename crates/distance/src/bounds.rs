//! From a group's sums to bounds, and to the entries whose bound is within a limit.
//!
//! The arithmetic is written once, in plain loops that take the instructions of the function they are inlined into.
//! No operation is fused and the order is fixed, so all variants agree bit for bit.

use crate::bits::GROUP;

/// What a group's entries contribute, `[32]` each.
#[derive(Debug, Clone, Copy)]
pub struct GroupFactors<'a> {
    /// Added to the bound.
    pub add: &'a [f32; GROUP],
    /// Multiplies the query's part.
    pub rescale: &'a [f32; GROUP],
    /// Standard error of the estimate, for a query at distance 1.
    pub error: &'a [f32; GROUP],
    /// How far the entry may be from the row it stands for.
    pub radius: &'a [f32; GROUP],
}

/// What a query and a list contribute:
/// `bound_i = ((add_i + add) + rescale_i * (step * sums_i + base)) - spread * error_i - |rescale_i| * slack`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// What a unit of the sums is worth.
    pub step: f32,
    /// Added to what the sums are worth.
    pub base: f32,
    /// Added to the bound.
    pub add: f32,
    /// Standard errors to allow for, times the query's distance.
    pub spread: f32,
    /// Error of `step * sums_i + base`.
    pub slack: f32,
}

/// The largest bound of interest: `reach_i = offset + radius_i * slope` as `limit_i`, or, with `square`, `reach_i * reach_i * factor`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Whether the reach is squared.
    pub square: bool,
    /// Reach of an entry of radius 0.
    pub offset: f32,
    /// What the radius adds.
    pub slope: f32,
    /// Multiplies the square.
    pub factor: f32,
}

/// A group's bounds or limits.
pub(crate) type Row = [f32; GROUP];

/// The bounds and the limits of a group.
#[inline(always)]
pub(crate) fn bounds_and_limits(
    sums: &[i32; GROUP],
    factors: &GroupFactors,
    estimate: &Estimate,
    limit: &Limit,
) -> (Row, Row) {
    // Locals, which overlap nothing: the loops need no test for it.
    let (mut bounds, mut limits) = ([0f32; GROUP], [0f32; GROUP]);
    for (i, bound) in bounds.iter_mut().enumerate() {
        let rescale = factors.rescale[i];
        let inner = estimate.step * sums[i] as f32 + estimate.base;
        *bound = ((factors.add[i] + estimate.add) + rescale * inner)
            - estimate.spread * factors.error[i]
            - rescale.abs() * estimate.slack;
    }
    for (limit_i, &radius) in limits.iter_mut().zip(factors.radius) {
        *limit_i = limit.offset + radius * limit.slope;
    }
    if limit.square {
        for limit_i in &mut limits {
            *limit_i = *limit_i * *limit_i * limit.factor;
        }
    }
    (bounds, limits)
}
