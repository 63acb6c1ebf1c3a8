//! What a tier of codes alone names: entries whose vectors the CPU reads from the index's pages, nearest bound first.
//!
//! The tier's lists are current, so its slots are those of the pages; which entries are dead by now, the pages say.

use omen_gpu::{BatchFound, GpuError, Tier};
use omen_ivf::coarse::Probe;
use omen_ivf::index::Index;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::query::Query;
use omen_ivf::rerank::{SlotBound, rerank};
use omen_ivf::scan_list::SearchStats;
use omen_ivf::topk::TopK;

use super::stats::ScanRecord;
use super::tiers::Stop;
use crate::storage::IndexPages;

/// A tier of codes alone beside the pages of its index.
pub(super) struct NamedSlots<'a> {
    /// The index's pages.
    pub pages: &'a IndexPages,
    /// The index.
    pub index: &'a Index,
    /// The tier.
    pub tier: &'a Tier,
    /// Lists that the device has searched, ascending by number, with the directory entries of which the tier is current.
    pub lists: &'a [(Probe, ListEntry)],
}

impl NamedSlots<'_> {
    /// Whether the device answered query number `q` of `found` at all.
    pub(super) fn is_answered(found: &BatchFound, q: usize) -> bool {
        found.heads[q].overflow == 0
    }

    /// Reads what the device named for `query`, number `q` of `found`, into `top`, which may hold appended entries of the same lists.
    /// What it did not name lies beyond the frontier that `top` then has.
    pub(super) fn rerank(
        &self,
        query: &Query,
        found: &BatchFound,
        q: usize,
        top: &mut TopK,
        record: &mut ScanRecord,
    ) -> Result<(), Stop> {
        let named = found.slots_of(q);
        let mut candidates = Vec::with_capacity(named.len());
        for near in named {
            let place = self.tier.place_of(near.slot).and_then(|(list, slot)| {
                let by_number = |(probe, _): &(Probe, ListEntry)| probe.list.cmp(&list);
                let probe = self.lists.binary_search_by(by_number).ok()?;
                Some((probe as u32, slot))
            });
            let Some((probe, slot)) = place else {
                let what = "a slot of a list that was not to be searched";
                return Err(GpuError::Other(what.into()).into());
            };
            candidates.push(SlotBound {
                probe,
                slot,
                bound: near.bound,
            });
        }
        let mut did = SearchStats::default();
        let (pages, index, lists) = (self.pages, self.index, self.lists);
        rerank(pages, index, query, lists, &candidates, top, &mut did)?;
        top.lower_threshold(found.heads[q].frontier);
        // That they were looked at is counted with the lists.
        record.reranked += did.candidates;
        record.restarts += did.restarts;
        Ok(())
    }
}
