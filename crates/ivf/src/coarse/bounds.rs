//! Bounds of the distances to the centroids, from their codes.

use std::ops::ControlFlow;

use omen_distance::{Estimate, Limit};

use crate::layout::group::{GROUP, GroupHeader};
use crate::list_reader::GroupVisitor;
use crate::rabitq::{QueryCode, passing};

/// No bound is above this.
const NO_LIMIT: Limit = Limit {
    square: false,
    offset: f32::INFINITY,
    slope: 0.0,
    factor: 1.0,
};

/// Visits the groups of the root list.
pub(super) struct Bounds<'a> {
    pub(super) code: &'a QueryCode,
    pub(super) estimate: Estimate,
    /// Squared norms of the centroids, and that of the vector, where codes estimate inner products and l2sq ranks.
    pub(super) norms: Option<(&'a [f32], f32)>,
    pub(super) n_lists: u32,
    /// Of the group being seen.
    pub(super) sums: [i32; GROUP],
    /// (bound, list)
    pub(super) bounds: Vec<(f32, u32)>,
}

impl GroupVisitor for Bounds<'_> {
    #[inline(always)]
    fn codes(&mut self, first: usize, bytes: &[u8]) {
        self.code.add(first, bytes, &mut self.sums);
    }

    #[inline(always)]
    fn group(&mut self, group: u32, header: &GroupHeader) -> ControlFlow<()> {
        let mut bounds = [0.0; GROUP];
        passing(&self.sums, header, &self.estimate, &NO_LIMIT, &mut bounds);
        self.sums = [0; GROUP];
        let lists = group * GROUP as u32..self.n_lists.min((group + 1) * GROUP as u32);
        let of_group = bounds.iter().copied().zip(lists);
        match self.norms {
            None => self.bounds.extend(of_group),
            Some((norms, norm_sq)) => self.bounds.extend(
                of_group.map(|(bound, list)| (norm_sq + norms[list as usize] + 2.0 * bound, list)),
            ),
        }
        ControlFlow::Continue(())
    }
}
