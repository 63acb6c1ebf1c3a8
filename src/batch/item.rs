//! A candidate of a batch: how far it is, as far as the index knows, and its row.

use omen_ivf::Tid;
use omen_ivf::index::Index;
use omen_ivf::topk::Candidate;

use super::neighbours::Neighbour;

/// A candidate, and what is known of its row.
#[derive(Clone, Copy)]
pub(super) struct Item {
    /// What the operator returns, but for the rounding of the stored vector; exact once it was computed from the row.
    pub distance: f64,
    /// Where the chain of the row's versions begins.
    pub root: Tid,
    /// Of the row.
    pub state: State,
    /// Number of the query.
    pub query: u32,
    /// The bounds say too little: the distance must be computed from the row.
    pub is_loose: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum State {
    /// Not looked up.
    Unknown,
    /// No version is visible.
    Invisible,
    /// This one is.
    Visible(Tid),
}

impl Item {
    /// The row, if it is known and visible.
    pub(super) fn row(&self) -> Option<Neighbour> {
        match self.state {
            State::Visible(row) => Some(Neighbour {
                distance: self.distance,
                row,
            }),
            _ => None,
        }
    }
}

/// What is known of the operator's value for an entry.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// The operator returns no less.
    pub low: f64,
    /// It returns no more; infinite where that is not known.
    high: f64,
    /// The lower one says nothing either.
    is_unknown: bool,
}

impl Bounds {
    /// Of a candidate.
    pub(super) fn of(index: &Index, candidate: &Candidate) -> Self {
        let high = index.upper_bound(candidate.ceiling);
        let key = candidate.key;
        Self {
            low: index.lower_bound(key),
            high,
            is_unknown: !high.is_finite() && (key == 0.0 || key == f32::NEG_INFINITY),
        }
    }

    /// What the operator returns but for the rounding of the stored vector: the middle, or the lower bound where the upper one is
    /// not known.
    pub(super) fn middle(self) -> f64 {
        if self.low.is_finite() && self.high.is_finite() {
            (self.low + self.high) / 2.0
        } else {
            self.low
        }
    }

    /// How far the operator's value may be from the middle, as far as that is known.
    pub(super) fn radius(self) -> f64 {
        if self.is_unknown {
            f64::INFINITY
        } else if self.high.is_finite() {
            (self.high - self.low) / 2.0
        } else {
            0.0
        }
    }
}
