//! Exact keys of entries that something without their vectors let through: a hot tier of codes alone.

use std::ops::ControlFlow;

use crate::Result;
use crate::coarse::Probe;
use crate::index::Index;
use crate::layout::directory::ListEntry;
use crate::layout::group::{GROUP, GroupHeader};
use crate::list_reader::Visit;
use crate::query::Query;
use crate::scan_list::{ListScan, Scratch, SearchStats};
use crate::store::PageStore;
use crate::survivors::{Survivor, gather};
use crate::topk::TopK;

/// Entries read before the threshold is looked at again; each time twice as many.
const FIRST_CHUNK: usize = 32;

/// An entry of the frozen part of a list, and how near it may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlotBound {
    /// Which of the search's lists, by its place among them.
    pub probe: u32,
    /// Slot in the list.
    pub slot: u32,
    /// The entry's key is not below this (or hardly ever, as with codes).
    pub bound: f32,
}

/// Reads the vectors of `candidates` (ascending by bound) from the index's pages into `top`, until no bound is below the k-th key
/// found. `lists`: those that candidates refer to, with the directory entries that the slots are of.
///
/// Dead entries are passed over. A list that was rewritten meanwhile is scanned anew as it is now, appended entries
/// included: whatever `top` holds of it is replaced. Entries that are not among the candidates are the caller's to answer for
/// ([`TopK::lower_threshold`]).
pub fn rerank<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    lists: &[(Probe, ListEntry)],
    candidates: &[SlotBound],
    top: &mut TopK,
    stats: &mut SearchStats,
) -> Result<()> {
    let scratch = std::mem::take(&mut top.scratch);
    let mut rerank = Rerank {
        s,
        index,
        query,
        lists,
        rewritten: vec![false; lists.len()],
        top,
        stats,
        scratch,
    };
    let outcome = rerank.all(candidates);
    let scratch = std::mem::take(&mut rerank.scratch);
    top.scratch = scratch;
    s.announce(Vec::new());
    outcome
}

struct Rerank<'a, S> {
    s: &'a S,
    index: &'a Index,
    query: &'a Query,
    lists: &'a [(Probe, ListEntry)],
    /// Lists that were scanned anew: all of their entries have been seen.
    rewritten: Vec<bool>,
    top: &'a mut TopK,
    stats: &'a mut SearchStats,
    scratch: Scratch,
}

impl<S: PageStore> Rerank<'_, S> {
    fn all(&mut self, candidates: &[SlotBound]) -> Result<()> {
        let mut rest = candidates;
        let mut chunk = FIRST_CHUNK;
        while let Some(first) = rest.first() {
            self.s.check_interrupts()?;
            self.top.tighten();
            // NaN says nothing, so it is no reason to stop.
            if first.bound >= self.top.threshold() {
                self.top.note_refused();
                self.stats.filtered += rest.len() as u64;
                return Ok(());
            }
            let (now, later) = rest.split_at(chunk.min(rest.len()));
            let mut now = now.to_vec();
            now.retain(|candidate| !self.rewritten[candidate.probe as usize]);
            now.sort_unstable_by_key(|candidate| (candidate.probe, candidate.slot));
            for of_list in now.chunk_by(|a, b| a.probe == b.probe) {
                self.list(of_list)?;
            }
            rest = later;
            chunk *= 2;
        }
        Ok(())
    }

    /// Reads candidates of one list, in slot order.
    fn list(&mut self, candidates: &[SlotBound]) -> Result<()> {
        let probe = candidates[0].probe as usize;
        let entry = self.lists[probe].1;
        let visit = match self.survivors(candidates)? {
            Visit::Done => self.scan(probe).compute(&entry, true)?,
            Visit::Changed => Visit::Changed,
        };
        if visit == Visit::Changed {
            self.rewritten[probe] = true;
            self.scan(probe).restart(&entry)?;
        }
        Ok(())
    }

    /// Looks up tids and radii of the candidates that are live.
    fn survivors(&mut self, candidates: &[SlotBound]) -> Result<Visit> {
        let probe = candidates[0].probe;
        let (Probe { list, .. }, entry) = &self.lists[probe as usize];
        let mut survivors: Vec<Survivor> = std::mem::take(&mut self.scratch.survivors);
        survivors.clear();
        let group_of = |candidate: &SlotBound| candidate.slot / GROUP as u32;
        let mut visit = Visit::Done;
        for of_group in candidates.chunk_by(|a, b| group_of(a) == group_of(b)) {
            let group = group_of(&of_group[0]);
            let wanted = of_group
                .iter()
                .fold(0u32, |mask, c| mask | 1 << (c.slot % GROUP as u32));
            let mut found = false;
            let take = |_, header: &GroupHeader| {
                found = true;
                let mask = wanted & header.live;
                // Bounds of keys are none of raw distances.
                let bounds = [f32::NEG_INFINITY; GROUP];
                gather(&mut survivors, probe, group, header, mask, &bounds);
                ControlFlow::Continue(())
            };
            let reader = &mut self.scratch.reader;
            let groups = group..group + 1;
            visit = reader.headers(self.s, self.index, *list, entry, groups, take)?;
            if !found {
                // A slot the list does not have is one of another layout.
                visit = Visit::Changed;
            }
            if visit == Visit::Changed {
                break;
            }
        }
        self.scratch.survivors = survivors;
        Ok(visit)
    }

    fn scan(&mut self, probe: usize) -> ListScan<'_, S> {
        ListScan {
            s: self.s,
            index: self.index,
            query: self.query,
            probe: &self.lists[probe].0,
            probe_no: probe as u32,
            exact: true,
            top: self.top,
            stats: self.stats,
            scratch: &mut self.scratch,
        }
    }
}
