//! What a tier of codes alone names: entries whose vectors the CPU reads from the index's pages, nearest bound first.
//!
//! The tier's lists are current, so its slots are those of the pages; which entries are dead by now, the pages say.

use omen_gpu::{BatchFound, GpuError, NearSlot, Tier};
use omen_ivf::coarse::Probe;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::query::Query;
use omen_ivf::rerank::{SlotBound, rerank};
use omen_ivf::scan_list::{SearchStats, Served};
use omen_ivf::topk::TopK;

use super::answer::Round;
use super::pages::unranked;
use super::stats::ScanRecord;
use super::tiers::Stop;

/// An entry that codes do not rule out.
struct NamedSlot {
    list: u32,
    /// Slot in the list.
    slot: u32,
    bound: f32,
}

/// What a tier of codes alone names for one query.
pub(super) struct NamedSlots {
    /// Ascending by bound.
    slots: Vec<NamedSlot>,
    /// What is not among them lies beyond this.
    frontier: f32,
    /// Whether entries were lost, so that this is no answer.
    is_lost: bool,
}

impl NamedSlots {
    /// Of slots of a tier, which `place_of` finds in its lists. Errors: `Other` for one that is in none.
    pub(super) fn new(
        named: impl ExactSizeIterator<Item = NearSlot>,
        frontier: f32,
        is_lost: bool,
        place_of: impl Fn(u32) -> Option<(u32, u32)>,
    ) -> Result<Self, Stop> {
        let mut slots = Vec::with_capacity(named.len());
        for NearSlot { slot, bound } in named {
            let (list, slot) = place_of(slot).ok_or_else(not_searched)?;
            slots.push(NamedSlot { list, slot, bound });
        }
        Ok(Self {
            slots,
            frontier,
            is_lost,
        })
    }

    /// What `tier` named for query number `q` of `found`.
    pub(super) fn of_tier(tier: &Tier, found: &BatchFound, q: usize) -> Result<Self, Stop> {
        let (head, place_of) = (&found.heads[q], |slot| tier.place_of(slot));
        Self::new(
            found.slots_of(q),
            head.frontier,
            head.overflow != 0,
            place_of,
        )
    }

    /// Whether the query was not answered at all.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Reads the entries into `top`, which may hold appended ones of the same lists. What was not named lies beyond the frontier that `top` then
    /// has. `searched`: the lists that the device has searched, with the directory entries of which its tier is current.
    pub(super) fn rerank(
        &self,
        round: &Round,
        query: &Query,
        searched: &[Served<'_>],
        top: &mut TopK,
        record: &mut ScanRecord,
    ) -> Result<(), Stop> {
        let by_number = |searched: &Served| (unranked(searched.list), *searched.entry);
        let mut lists: Vec<(Probe, ListEntry)> = searched.iter().map(by_number).collect();
        lists.sort_unstable_by_key(|(probe, _)| probe.list);
        let mut candidates = Vec::with_capacity(self.slots.len());
        for &NamedSlot { list, slot, bound } in &self.slots {
            let place = lists.binary_search_by_key(&list, |(probe, _)| probe.list);
            candidates.push(SlotBound {
                probe: place.map_err(|_| not_searched())? as u32,
                slot,
                bound,
            });
        }
        let mut did = SearchStats::default();
        let (pages, index) = (round.pages, round.index);
        rerank(pages, index, query, &lists, &candidates, top, &mut did)?;
        top.lower_threshold(self.frontier);
        // That they were looked at is counted with the lists.
        record.reranked += did.candidates;
        record.restarts += did.restarts;
        Ok(())
    }
}

fn not_searched() -> Stop {
    GpuError::Other("a slot of a list that was not to be searched".into()).into()
}
