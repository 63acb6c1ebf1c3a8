//! Scans one posting list: the filter where there is one, exact keys of what survives, then the appended entries.
//!
//! Two passes over the frozen part, because rows and codes lie on different pages and only one page may be locked at a
//! time: the first collects the survivors of the filter (all live entries without it) with their radii and rows'
//! addresses, the second reads their vectors in slot order. No list is locked; a rewrite is noticed by the pages'
//! stamps, and the list is then started again. `scan_lists.rs` runs this over the lists of a search.

use std::ops::ControlFlow;

use half::f16;
use omen_distance::{Estimate, Limit};

use crate::announce::{first_appended, row_blocks};
use crate::coarse::Probe;
use crate::index::{Index, reread_entry};
use crate::layout::directory::ListEntry;
use crate::layout::group::{GROUP, GroupHeader};
use crate::list_reader::{AppendedTo, GroupVisitor, ListReader, Visit};
use crate::query::Query;
use crate::rabitq::{QueryCode, passing};
use crate::store::PageStore;
use crate::survivors::{Survivor, gather, split_nearest};
use crate::topk::{Candidate, TopK};
use crate::{IvfError, Result, Tid};

/// A list that changes so often during one scan is not being rewritten but damaged.
const MAX_RESTARTS: u32 = 1000;

/// What a search did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// Lists visited.
    pub lists: u64,
    /// Groups whose header was read.
    pub groups: u64,
    /// Frozen entries that the filter skipped.
    pub filtered: u64,
    /// Keys computed.
    pub candidates: u64,
    /// Lists started again because they were rewritten.
    pub restarts: u64,
}

/// Survivors, and the reader's buffers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) reader: ListReader,
    /// Of the list being scanned.
    pub(crate) survivors: Vec<Survivor>,
    later: Vec<Survivor>,
}

/// A list that a hot tier serves.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// The list.
    pub list: u32,
    /// Its directory entry, with which the tier is current.
    pub entry: &'a ListEntry,
    /// What the tier has of the entries appended to it.
    pub appended: AppendedTo,
}

impl Served<'_> {
    /// Whether more may have been appended to it.
    pub fn may_lack<S: PageStore>(&self, s: &S, index: &Index) -> bool {
        self.appended.may_lack(s, index, self.list, self.entry)
    }
}

/// Scans the entries appended to a list that the tier lacks, as of its directory entry, into `top`. The result is `Changed` if the list is no longer that of the entry; nothing of this list is then left in
/// `top`, and what the hot tier gave for it is not to be used either.
pub fn scan_appended<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    served: &Served,
    top: &mut TopK,
    stats: &mut SearchStats,
) -> Result<Visit> {
    s.check_interrupts()?;
    stats.lists += 1;
    // Appended entries have no codes, and their keys need no centroid.
    let probe = &Probe {
        list: served.list,
        l2sq: 0.0,
        ip: 0.0,
    };
    let mut scratch = std::mem::take(&mut top.scratch);
    let mut scan = ListScan {
        s,
        index,
        query,
        probe,
        probe_no: 0,
        exact: true,
        top,
        stats,
        scratch: &mut scratch,
    };
    let visit = scan.appended(served.entry, &served.appended);
    if !matches!(visit, Ok(Visit::Done)) {
        top.remove_list(probe.list);
    }
    top.scratch = scratch;
    visit
}

/// A scan of one list, number `probe_no` of the search's.
pub(crate) struct ListScan<'a, S> {
    pub(crate) s: &'a S,
    pub(crate) index: &'a Index,
    pub(crate) query: &'a Query,
    pub(crate) probe: &'a Probe,
    pub(crate) probe_no: u32,
    /// The filter, which can err, is off.
    pub(crate) exact: bool,
    pub(crate) top: &'a mut TopK,
    pub(crate) stats: &'a mut SearchStats,
    pub(crate) scratch: &'a mut Scratch,
}

impl<S: PageStore> ListScan<'_, S> {
    /// Scans the whole list, which was rewritten since `entry` was read: from the start, until it holds still.
    pub(crate) fn restart(&mut self, entry: &ListEntry) -> Result<()> {
        let list = self.probe.list;
        let mut entry = *entry;
        for _ in 0..MAX_RESTARTS {
            self.top.remove_list(list);
            self.stats.restarts += 1;
            entry = reread_entry(self.s, self.index, list, &entry)?;
            if self.whole(&entry)? == Visit::Done {
                return Ok(());
            }
        }
        let (block, _, _) = self.index.entry_address(list);
        Err(IvfError::corrupt(
            block,
            format!("list {list} changed {MAX_RESTARTS} times during one scan"),
        ))
    }

    /// Scans all entries of the list as of `entry`.
    pub(crate) fn whole(&mut self, entry: &ListEntry) -> Result<Visit> {
        if self.frozen(entry)? == Visit::Changed {
            return Ok(Visit::Changed);
        }
        self.appended(entry, &AppendedTo::NOTHING)
    }

    fn frozen(&mut self, entry: &ListEntry) -> Result<Visit> {
        if self.collect(entry)? == Visit::Changed {
            return Ok(Visit::Changed);
        }
        let first = self.filters() && self.top.threshold() == f32::INFINITY;
        if first && self.lower_threshold(entry)? == Visit::Changed {
            return Ok(Visit::Changed);
        }
        self.compute(entry, self.filters())
    }

    fn filters(&self) -> bool {
        self.query.code.is_some() && !self.exact
    }

    /// First pass: fills `survivors`.
    pub(crate) fn collect(&mut self, entry: &ListEntry) -> Result<Visit> {
        let Scratch {
            reader, survivors, ..
        } = &mut *self.scratch;
        survivors.clear();
        if entry.frozen_count == entry.frozen_dead {
            return Ok(Visit::Done);
        }
        let (probe, probe_no, query) = (self.probe, self.probe_no, self.query);
        let code = query.code.as_ref().filter(|_| !self.exact);
        let mut collector = Collector {
            code: code.map(|code| (code, code.estimate(probe.rank(query), probe.l2sq.sqrt()))),
            limit: query.bound.limit(self.top.threshold()),
            probe_no,
            sums: [0; GROUP],
            bounds: [f32::NEG_INFINITY; GROUP],
            survivors,
            groups: 0,
            filtered: 0,
        };
        let visit = reader.visit_groups(self.s, self.index, probe.list, entry, &mut collector)?;
        let Collector {
            groups, filtered, ..
        } = collector;
        self.stats.groups += groups;
        self.note_filtered(filtered);
        Ok(visit)
    }

    /// Reads the most promising survivors first, so that a threshold spares the others, if there are many.
    fn lower_threshold(&mut self, entry: &ListEntry) -> Result<Visit> {
        let Scratch {
            survivors, later, ..
        } = &mut *self.scratch;
        let n = 2 * self.top.k();
        if survivors.len() < 2 * n {
            return Ok(Visit::Done);
        }
        split_nearest(survivors, n, later);
        let visit = self.compute(entry, true)?;
        let Scratch {
            survivors, later, ..
        } = &mut *self.scratch;
        std::mem::swap(survivors, later);
        Ok(visit)
    }

    pub(crate) fn note_filtered(&mut self, filtered: u64) {
        self.stats.filtered += filtered;
        if filtered > 0 {
            self.top.note_refused();
        }
    }

    /// Second pass: exact keys of the survivors, which are in slot order. `announces` what it reads, and the
    /// appended entries after it, if that was not done.
    pub(crate) fn compute(&mut self, entry: &ListEntry, announces: bool) -> Result<Visit> {
        let Scratch {
            reader, survivors, ..
        } = &mut *self.scratch;
        let (query, list) = (self.query, self.probe.list);
        // The threshold has often fallen since the first pass.
        let (bound, threshold) = (&query.bound, self.top.threshold());
        let before = survivors.len();
        if threshold < f32::INFINITY {
            survivors.retain(|survivor| bound.may_be_below(threshold, survivor));
        }
        let filtered = (before - survivors.len()) as u64;
        if announces && self.s.wants_announcements() {
            let mut blocks = Vec::new();
            row_blocks(self.index, entry, survivors, &mut blocks);
            blocks.extend(first_appended(entry));
            self.s.announce(blocks);
        }
        let mut left = survivors.iter();
        let slots = survivors.iter().map(|survivor| survivor.slot);
        let visit = reader.rows(self.s, self.index, list, entry, slots, |_, row| {
            let Some(survivor) = left.next() else { return };
            offer(self.top, query, list, survivor.tid, survivor.err, row);
        })?;
        self.stats.candidates += survivors.len() as u64;
        self.note_filtered(filtered);
        Ok(visit)
    }

    /// Exact keys of the appended entries beyond `known`.
    pub(crate) fn appended(&mut self, entry: &ListEntry, known: &AppendedTo) -> Result<Visit> {
        let (query, list) = (self.query, self.probe.list);
        let mut computed = 0;
        let take = |tid: Tid, err: f32, row: &[f16]| {
            computed += 1;
            offer(self.top, query, list, tid, err, row);
        };
        let visit = self
            .scratch
            .reader
            .for_each_appended(self.s, self.index, list, entry, known, take)?;
        self.stats.candidates += computed;
        Ok(visit)
    }
}

/// Gathers the survivors of a list.
struct Collector<'a> {
    /// Absent if all live entries survive.
    code: Option<(&'a QueryCode, Estimate)>,
    limit: Limit,
    probe_no: u32,
    /// Of the group being seen.
    sums: [i32; GROUP],
    bounds: [f32; GROUP],
    survivors: &'a mut Vec<Survivor>,
    groups: u64,
    filtered: u64,
}

impl GroupVisitor for Collector<'_> {
    #[inline(always)]
    fn codes(&mut self, first: usize, bytes: &[u8]) {
        if let Some((code, _)) = &self.code {
            code.add(first, bytes, &mut self.sums);
        }
    }

    #[inline(always)]
    fn group(&mut self, group: u32, header: &GroupHeader) -> ControlFlow<()> {
        self.groups += 1;
        let mask = match &self.code {
            Some((_, estimate)) => {
                let bounds = &mut self.bounds;
                let mask = passing(&self.sums, header, estimate, &self.limit, bounds);
                self.sums = [0; GROUP];
                mask
            }
            None => header.live,
        };
        self.filtered += u64::from((header.live & !mask).count_ones());
        gather(
            self.survivors,
            self.probe_no,
            group,
            header,
            mask,
            &self.bounds,
        );
        ControlFlow::Continue(())
    }
}

/// Offers an entry of `list`.
#[inline(always)]
fn offer(top: &mut TopK, query: &Query, list: u32, tid: Tid, err: f32, row: &[f16]) {
    let raw = query.raw(row);
    let key = query.bound.key(raw, err);
    if top.refuses(key) {
        return;
    }
    let ceiling = query.bound.ceiling(raw, err);
    top.push(Candidate { key, ceiling, tid }, list);
}
