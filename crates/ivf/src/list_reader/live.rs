//! Whether entries of a list, known by their slots, are live still.

use std::ops::ControlFlow;

use super::appended::Wanted;
use super::{ChainPlace, ListReader, PageVisit, Visit};
use crate::Result;
use crate::index::Index;
use crate::layout::directory::ListEntry;
use crate::layout::group::GROUP;
use crate::store::PageStore;

impl ListReader {
    /// Whether the entries of `slots` (ascending; the appended ones follow the frozen ones, as a hot tier has them) are live by now. `None`: the list
    /// was rewritten, or has no such slots.
    pub fn are_live<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: u32,
        entry: &ListEntry,
        slots: &[u32],
    ) -> Result<Option<Vec<bool>>> {
        let mut live = Vec::with_capacity(slots.len());
        let n_frozen = entry.frozen_count;
        let (frozen, appended) = slots.split_at(slots.partition_point(|&slot| slot < n_frozen));
        let group_of = |slot: &u32| slot / GROUP as u32;
        for of_group in frozen.chunk_by(|a, b| group_of(a) == group_of(b)) {
            let group = group_of(&of_group[0]);
            let mut bits = 0;
            let visit = self.headers(s, index, list, entry, group..group + 1, |_, header| {
                bits = header.live;
                ControlFlow::Continue(())
            })?;
            if visit == Visit::Changed {
                return Ok(None);
            }
            live.extend(
                of_group
                    .iter()
                    .map(|slot| bits >> (slot % GROUP as u32) & 1 != 0),
            );
        }
        // Pages of the chain are known by those before.
        let mut place = ChainPlace::head(entry).filter(|_| !appended.is_empty());
        let mut next = n_frozen;
        while let Some(at) = place.filter(|_| live.len() < slots.len()) {
            let wanted = Wanted {
                dead_too: true,
                n_rowless: u32::MAX,
            };
            let visit = self.records(s, index, list, entry, at, wanted, |header, _| {
                if slots.get(live.len()) == Some(&next) {
                    live.push(header.live != 0);
                }
                next += 1;
            })?;
            let PageVisit::Next { next, .. } = visit else {
                return Ok(None);
            };
            place = next;
        }
        Ok((live.len() == slots.len()).then_some(live))
    }
}
