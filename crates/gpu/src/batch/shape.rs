//! What a plan has to know of the tier.

use crate::context::Scans;
use crate::memory::query_words;
use omen_ivf::Metric;

/// What the tier contributes to a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TierShape {
    /// Metric of the index.
    pub metric: Metric,
    /// Dimension of the vectors that lists are chosen by.
    pub dim: usize,
    /// Words of 32 bits that a query brings besides; 0 but of strings of bits.
    pub bit_words: usize,
    /// Halves per row, or words of as many bits.
    pub row_pitch: usize,
    /// Lists of the index.
    pub n_lists: usize,
    /// Slots in use.
    pub n_slots: usize,
    /// Slots of the longest list.
    pub longest: usize,
    /// Which scan kernels the device runs.
    pub scans: Scans,
    /// Dimensions of the entries' codes; 0 if there are none.
    pub code_dim: usize,
    /// Whether the rows are there; else codes alone are searched, and the answer is slots.
    pub has_rows: bool,
}

impl TierShape {
    /// Words of 32 bits of a query.
    pub fn query_words(&self) -> usize {
        self.dim + self.bit_words
    }

    /// Words of 32 bits of a query that rows are compared to, padded.
    pub fn row_query_words(&self) -> usize {
        query_words(self.metric.is_of_bits(), self.row_pitch)
    }

    /// Tiles of `rows` rows that the lists make, at most.
    pub(super) fn tiles(&self, rows: usize) -> usize {
        self.n_slots / rows + self.n_lists
    }
}
