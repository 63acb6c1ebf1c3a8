//! Bringing a hot tier up to date: the lists that the index has otherwise by now are written again, beside the others.

use omen_gpu::engine::TierWriter;
use omen_gpu::{LoadError, TierBuilder};
use omen_ivf::index::{Index, read_entries};

use crate::storage::IndexPages;

/// Rounds of a refresh: each has the room that those before gave back.
pub(crate) const MAX_ROUNDS: usize = 16;

/// What a round of a refresh did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    /// Lists that were out of date.
    pub(crate) n_stale: usize,
    /// Those of them that were written.
    pub(crate) n_written: usize,
    /// Lists with entries that are not in the tier.
    pub(crate) n_absent: usize,
}

impl Round {
    /// Lists that the tier lacks, or has of old, after the round.
    pub(crate) fn n_lacking(&self) -> usize {
        self.n_stale - self.n_written + self.n_absent
    }
}

/// Writes lists of a tier again that are out of date, as far as there is room; in the order of their slots, so that what they leave is in one
/// piece.
pub(crate) fn write_stale<W: TierWriter + ?Sized>(
    builder: &mut TierBuilder<W>,
    pages: &IndexPages,
    index: &Index,
) -> Result<Round, LoadError> {
    let numbers: Vec<u32> = (0..index.n_lists()).collect();
    let entries = read_entries(pages, index, &numbers)?;
    let before = builder.lists().to_vec();
    let is_stale = |&list: &u32| {
        let entry = &entries[list as usize];
        before[list as usize].is_some_and(|l| !l.is_current(entry.layout_gen, entry.delete_gen))
    };
    let mut stale: Vec<u32> = numbers.into_iter().filter(is_stale).collect();
    stale.sort_by_key(|&list| before[list as usize].map(|l| l.first_slot));
    builder.load_lists(pages, index, &stale)?;
    let is_written = |list: &&u32| {
        let at = **list as usize;
        builder.lists()[at] != before[at]
    };
    let both = before.iter().zip(&entries);
    let absent = both.filter(|(list, entry)| list.is_none() && entry.frozen_count > 0);
    Ok(Round {
        n_absent: absent.count(),
        n_stale: stale.len(),
        n_written: stale.iter().filter(is_written).count(),
    })
}
