//! Build: the frozen part of one list, from its pieces in order.
//!
//! The vector stream is written as the pieces come. The codes, a fraction of the size, are kept in memory until the list
//! ends, so that each stream's pages lie together.

use crate::Result;
use crate::layout::directory::ListEntry;
use crate::layout::group::GROUP;
use crate::list_piece::{FIRST_LAYOUT, Joined, Part, Piece};
use crate::store::BulkWriter;

/// Distances are summed up by so many groups at a time, if their rows are not larger than so many bytes: what the radius of a list comes to
/// does not depend on the size of pieces.
const SUM_GROUPS: usize = 64;
const SUM_BYTES: usize = 8 << 20;

/// Writes the frozen part of one list.
pub(crate) struct ListWriter {
    /// The list, or `ROOT_LIST`.
    pub list: u32,
    vectors: Joined,
    codes: Vec<Part>,
    count: u32,
    sum_groups: usize,
    /// Of the last groups, and how many they are.
    sum: (f64, usize),
    sum_sq: f64,
}

impl ListWriter {
    /// An empty list of rows of so many words.
    pub(crate) fn new(list: u32, words: usize) -> Self {
        Self {
            list,
            vectors: Joined::default(),
            codes: Vec::new(),
            count: 0,
            sum_groups: (SUM_BYTES / (2 * words * GROUP)).clamp(1, SUM_GROUPS),
            sum: (0.0, 0),
            sum_sq: 0.0,
        }
    }

    /// Adds the next piece. Gives back the memory of its vector pages.
    pub(crate) fn add<W: BulkWriter>(&mut self, w: &mut W, piece: Piece) -> Result<Vec<u8>> {
        for sum in piece.sums {
            self.sum.0 += sum;
            self.sum.1 += 1;
            if self.sum.1 == self.sum_groups {
                self.sum_sq += std::mem::take(&mut self.sum).0;
            }
        }
        self.count += piece.n_entries;
        self.codes.push(piece.codes);
        self.vectors.add(w, piece.vectors)
    }

    /// Ends the list. Gives its entry.
    pub(crate) fn finish<W: BulkWriter>(self, w: &mut W) -> Result<ListEntry> {
        let vector_run = self.vectors.finish(w)?;
        let mut codes = Joined::default();
        for part in self.codes {
            codes.add(w, part)?;
        }
        let sum_sq = self.sum_sq + self.sum.0;
        Ok(ListEntry {
            frozen_count: self.count,
            code_run: codes.finish(w)?,
            vector_run,
            radius: if self.count == 0 {
                0.0
            } else {
                (sum_sq / f64::from(self.count)).sqrt() as f32
            },
            ..ListEntry::empty(FIRST_LAYOUT)
        })
    }
}
