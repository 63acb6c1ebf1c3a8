//! Which lists of a tier are where: its part in host memory.

use crate::directory::slots_of;
use crate::error::GpuError;
use crate::params::ListSlots;
use crate::plan::{Piece, Walk, pieces_of};
use crate::query::TierQuery;
use crate::tier::{TierList, TierSpec};
use omen_ivf::Metric;

/// Which lists are where: the tier's part in host memory.
pub(crate) struct Catalog {
    spec: TierSpec,
    pitch: usize,
    lists: Vec<Option<TierList>>,
    pieces: Vec<Piece>,
    /// `[n_lists + 1]`: first piece of each list.
    first_piece: Vec<u32>,
    /// First slot and number of each list that has slots, in the order of slots.
    by_slot: Vec<(u32, u32)>,
    extent: Extent,
}

/// How far the lists of a tier reach.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    /// Slots in use: one beyond the last.
    pub(crate) n_slots: usize,
    /// The same with those that lists may come to use.
    pub(crate) n_roomy_slots: usize,
    /// Slots of the longest list, with those that it may come to use.
    pub(crate) longest: usize,
    /// Whether every slot in use belongs to a list. Those between lists may have live bits all the same: a list that was rewritten while it was
    /// loaded leaves slots behind, and a refresh may be about to make a list longer.
    pub(crate) is_dense: bool,
}

impl Extent {
    fn of(lists: &[Option<TierList>]) -> Self {
        let (mut extent, mut n_listed) = (Self::default(), 0);
        for list in lists.iter().flatten() {
            let (slots, room) = (list.slots(), list.room());
            n_listed += slots.len();
            extent.n_slots = extent.n_slots.max(slots.end);
            extent.n_roomy_slots = extent.n_roomy_slots.max(room.end);
            extent.longest = extent.longest.max(room.len());
        }
        extent.is_dense = n_listed == extent.n_slots;
        extent
    }
}

impl Catalog {
    pub(crate) fn new(spec: TierSpec, pitch: usize, lists: Vec<Option<TierList>>) -> Self {
        let mut pieces = Vec::new();
        let mut first_piece = vec![0];
        for list in &lists {
            if let Some(list) = list {
                pieces.extend(pieces_of(list.first_slot, list.n_slots));
            }
            first_piece.push(pieces.len() as u32);
        }
        let mut by_slot: Vec<(u32, u32)> = lists
            .iter()
            .zip(0..)
            .filter_map(|(list, number)| {
                list.filter(|l| l.n_slots > 0)
                    .map(|l| (l.first_slot, number))
            })
            .collect();
        by_slot.sort_unstable();
        Self {
            extent: Extent::of(&lists),
            spec,
            pitch,
            lists,
            pieces,
            first_piece,
            by_slot,
        }
    }

    pub(crate) fn place_of(&self, slot: u32) -> Option<(u32, u32)> {
        let i = self.by_slot.partition_point(|(first, _)| *first <= slot);
        let (first, number) = self.by_slot[i.checked_sub(1)?];
        let list = self.lists[number as usize]?;
        (slot - first < list.n_slots).then_some((number, slot - first))
    }

    pub(crate) fn metric(&self) -> Metric {
        self.spec.metric
    }

    pub(crate) fn pitch(&self) -> usize {
        self.pitch
    }

    pub(crate) fn spec(&self) -> TierSpec {
        self.spec
    }

    /// All lists of the index.
    pub(crate) fn lists(&self) -> &[Option<TierList>] {
        &self.lists
    }

    /// How far the lists reach.
    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    /// The slots of all lists, none for those of `skipped`.
    pub(crate) fn slots_without(&self, skipped: &[u32]) -> Vec<ListSlots> {
        slots_of(&self.lists, skipped)
    }

    /// Those of `lists` that are here, without `skipped`.
    pub(crate) fn only_resident(&self, lists: &[u32], skipped: &[u32]) -> Vec<u32> {
        let here = |list: &u32| self.lists[*list as usize].is_some() && !skipped.contains(list);
        lists.iter().copied().filter(here).collect()
    }

    /// All lists that are here, without `skipped`.
    pub(crate) fn resident(&self, skipped: &[u32]) -> Vec<u32> {
        let all: Vec<u32> = (0..self.lists.len() as u32).collect();
        self.only_resident(&all, skipped)
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Checks a query against the tier; the pieces it walks, nearest list first.
    pub(crate) fn walk(&self, query: &TierQuery<'_>) -> Result<Walk, GpuError> {
        let words = self.spec.query_words();
        if query.q.len() != words {
            return Err(GpuError::Other(format!(
                "query of {} words in place of {words}",
                query.q.len()
            )));
        }
        let mut walk = Walk::default();
        for &number in query.lists {
            let Some(Some(list)) = self.lists.get(number as usize) else {
                return Err(GpuError::NotResident(number));
            };
            walk.pieces
                .extend(self.first_piece[number as usize]..self.first_piece[number as usize + 1]);
            walk.n_rows += list.n_slots as usize;
        }
        Ok(walk)
    }
}
