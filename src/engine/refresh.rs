//! Bringing a hot tier up to date: the lists that the index has otherwise by now, or that much was appended to, are written again, beside the
//! others.

use std::collections::HashSet;
use std::time::Duration;

use omen_gpu::engine::TierWriter;
use omen_gpu::{LoadError, TierBuilder, TierList};
use omen_ivf::index::{Index, see_lists};
use omen_ivf::layout::directory::ListEntry;
use rayon::ThreadPool;

use crate::storage::IndexPages;

/// A session's tier is behind when searches look at one appended entry on pages for so many of the device's, and at so many at least: each is on a
/// page that is looked at for it, which costs the CPU a microsecond or more.
const MUCH_SHARE: u64 = 2048;
const MUCH_AT_LEAST: u64 = 16;
/// The same of the service's, which another process brings up to date for all.
const SHARED_SHARE: u64 = 8192;
const SHARED_AT_LEAST: u64 = 4;
/// A list that has no room for what was appended is written again if it lacks one for so many.
const LIST_SHARE: u64 = 32;

/// Rounds of a refresh: each has the room that those before gave back.
pub(crate) const MAX_ROUNDS: usize = 16;

/// What a round of a refresh did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    /// Lists that were out of date.
    pub(crate) n_stale: usize,
    /// Those of them that were written.
    pub(crate) n_written: usize,
    /// Lists that many entries had been appended to since they were written.
    pub(crate) n_behind: usize,
    /// Those of them that were written.
    pub(crate) n_extended: usize,
    /// Whether lists were brought up to date in place.
    pub(crate) is_renewed: bool,
    /// Whether it is known of lists that they have not changed, or of more than before.
    pub(crate) is_known: bool,
    /// Lists with entries that are not in the tier.
    pub(crate) n_absent: usize,
}

impl Round {
    /// Lists that the tier has of old, after the round.
    pub(crate) fn n_left(&self) -> usize {
        self.n_stale - self.n_written
    }

    /// The same, and those that it lacks.
    pub(crate) fn n_lacking(&self) -> usize {
        self.n_left() + self.n_absent
    }

    /// Whether all has been done that is to be.
    pub(crate) fn is_over(&self) -> bool {
        self.n_lacking() == 0 && self.n_extended == self.n_behind
    }

    /// Whether anything was written.
    pub(crate) fn has_written(&self) -> bool {
        self.is_renewed || self.has_moved()
    }

    /// Whether lists were moved, so that another round has the room that they left.
    pub(crate) fn has_moved(&self) -> bool {
        self.n_written + self.n_extended > 0
    }
}

/// What searches have looked at on pages for want of it in a tier.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Behind {
    /// Entries that were appended since to lists that the tier has, and all entries that it has of these lists.
    pub(crate) n_appended: u64,
    pub(crate) n_slots: u64,
    /// How long that took, and lists that are out of date.
    pub(crate) time: Duration,
}

impl Behind {
    /// Whether it is time for a session to bring its tier up to date.
    pub(crate) fn is_much(self) -> bool {
        self.n_appended >= MUCH_AT_LEAST && self.n_appended * MUCH_SHARE > self.n_slots
    }

    /// Whether it is time to have the service's brought up to date.
    pub(crate) fn is_much_for_all(self) -> bool {
        self.n_appended >= SHARED_AT_LEAST && self.n_appended * SHARED_SHARE > self.n_slots
    }
}

/// Whether a list is written again for what was appended to it.
fn lacks_many(here: &TierList, index: &Index, entry: &ListEntry) -> bool {
    let lacking = u64::from(here.appended.n_lacking(index, entry));
    lacking > 0 && lacking * LIST_SHARE > u64::from(here.n_slots)
}

/// Writes lists of a tier again that are out of date, as far as there is room; in place where they were not rewritten and have room; in the order of
/// their slots, so that what they leave is in one piece. The threads of `pool`, if there is one, make codes.
pub(crate) fn write_stale<W: TierWriter + ?Sized>(
    builder: &mut TierBuilder<W>,
    pages: &IndexPages,
    index: &Index,
    pool: Option<&ThreadPool>,
) -> Result<Round, LoadError> {
    let numbers: Vec<u32> = (0..index.n_lists()).collect();
    let seen = see_lists(pages, index, &numbers)?;
    let entry_of = |list: u32| &seen[list as usize].entry;
    let before = builder.lists().to_vec();
    let is_stale =
        |&list: &u32| before[list as usize].is_some_and(|here| !here.is_current(entry_of(list)));
    let by_slot = |lists: &mut Vec<u32>| {
        lists.sort_by_key(|&list| before[list as usize].map(|l| l.first_slot));
    };
    let stale: Vec<u32> = numbers.iter().copied().filter(is_stale).collect();
    let mut here = numbers;
    here.retain(|&list| before[list as usize].is_some());
    by_slot(&mut here);
    let as_seen = here.iter().map(|&list| (list, seen[list as usize]));
    let rewritten = builder.renew_lists(pages, index, as_seen, pool)?;
    builder.load_lists(pages, index, &rewritten)?;
    // Those of them that have found no room are not there as the index has them, whatever was appended.
    let rewritten: HashSet<u32> = rewritten.into_iter().collect();
    let mut behind = here;
    behind.retain(|list| {
        let (now, entry) = (builder.lists()[*list as usize], entry_of(*list));
        !rewritten.contains(list) && now.is_some_and(|now| lacks_many(&now, index, entry))
    });
    // Of a tier of codes alone nobody reads appended ones.
    if !builder.parts().rows() {
        behind.clear();
    }
    let extended = builder.lists().to_vec();
    builder.load_lists(pages, index, &behind)?;
    let is_written = |list: &&u32| {
        let at = **list as usize;
        builder.lists()[at] != before[at]
    };
    let both = before.iter().zip(&seen);
    let absent = both.filter(|(list, seen)| list.is_none() && seen.entry.frozen_count > 0);
    Ok(Round {
        n_absent: absent.count(),
        n_stale: stale.len(),
        n_written: stale.iter().filter(is_written).count(),
        n_behind: behind.len(),
        n_extended: behind
            .iter()
            .filter(|list| builder.lists()[**list as usize] != extended[**list as usize])
            .count(),
        is_renewed: extended.iter().zip(&before).any(|(now, before)| {
            now.map(TierList::without_version) != before.map(TierList::without_version)
        }),
        is_known: extended != before,
    })
}
