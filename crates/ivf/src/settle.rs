//! Which rows of an ordered scan have their place without a look at the table.
//!
//! A candidate's bounds hold the operator's value. Where they overlap with nobody's before or after it, the row's place is
//! proven, and nobody need fetch the vector to find it out: of ten neighbours nine,
//! as a rule, since halving a number's bits moves distances by a ten-thousandth.

use crate::index::Index;
use crate::topk::Candidate;

/// Looks at the candidates of a scan as they are handed out, ascending by key.
#[derive(Debug, Clone, Copy)]
pub struct Settler {
    /// Upper bound of everything handed out.
    reach: f64,
}

impl Default for Settler {
    fn default() -> Self {
        Self {
            reach: f64::NEG_INFINITY,
        }
    }
}

impl Settler {
    /// Whether `candidate`, which is handed out now, is settled: no row handed out before has a larger value of the operator, and none that comes
    /// later a smaller one, unless the search missed it. (Equal ones are many where distances are counts of bits.) `next_key`: least key of what
    /// is known to come later.
    pub fn settles(&mut self, index: &Index, candidate: &Candidate, next_key: f32) -> bool {
        let upper = index.upper_bound(candidate.ceiling);
        // Of an infinite bound nothing is known, not even that what comes after it ends the scan.
        let settled = self.reach <= index.lower_bound(candidate.key)
            && upper < f64::INFINITY
            && upper <= index.lower_bound(next_key);
        self.reach = self.reach.max(upper);
        settled
    }
}
