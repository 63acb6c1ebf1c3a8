//! Scans one posting list: the filter where it pays, exact keys of what survives, then the appended entries.
//!
//! Two passes over the frozen part, because rows and codes lie on different pages and only one page may be locked at a
//! time: the first collects the survivors of the filter (all live entries without it) with their radii and rows'
//! addresses, the second reads their vectors in slot order. No list is locked; a rewrite is noticed by the pages'
//! stamps, and the list is then started again.

use std::ops::ControlFlow;

use half::f16;

use crate::coarse::Probe;
use crate::index::{Index, read_entry, reread_entry};
use crate::layout::directory::ListEntry;
use crate::layout::group::{GROUP, GroupHeader};
use crate::list_reader::{ListReader, Visit};
use crate::query::Query;
use crate::rabitq::passing;
use crate::store::PageStore;
use crate::survivors::{Survivor, Survivors};
use crate::topk::{Candidate, TopK};
use crate::{IvfError, Metric, Result, Tid};

/// A list that changes so often during one scan is not being rewritten but damaged.
const MAX_RESTARTS: u32 = 1000;

/// Which entries of a list to scan.
#[derive(Debug, Clone, Copy)]
pub enum Parts<'a> {
    /// All, as the directory has them now.
    All,
    /// Only the appended ones, as of this directory entry: a hot tier serves the frozen part of that entry.
    Appended(&'a ListEntry),
}

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

/// Survivors of one list, and the reader's buffers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    reader: ListReader,
    survivors: Survivors,
    later: Survivors,
}

/// Scans the list of `probe` into `top`. `exact`: the filter, which can err, is off.
///
/// With [`Parts::All`] a list that is rewritten meanwhile is started again and the result is `Done`. With
/// [`Parts::Appended`] the result is `Changed` if the list is no longer that of the entry; nothing of this list is
/// then left in `top`, and what the hot tier gave for it is not to be used either.
#[allow(clippy::too_many_arguments)]
pub fn scan_list<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    probe: &Probe,
    parts: Parts<'_>,
    exact: bool,
    top: &mut TopK,
    stats: &mut SearchStats,
) -> Result<Visit> {
    s.check_interrupts()?;
    stats.lists += 1;
    let list = probe.list;
    let mut scratch = std::mem::take(&mut top.scratch);
    let mut scan = Scan {
        s,
        index,
        query,
        list,
        top,
        stats,
        scratch: &mut scratch,
    };
    let visit = match parts {
        Parts::Appended(entry) => scan.appended(entry),
        Parts::All => scan.all(probe, exact),
    };
    if !matches!(visit, Ok(Visit::Done)) {
        scan.top.remove_list(list);
    }
    top.scratch = scratch;
    visit
}

struct Scan<'a, S> {
    s: &'a S,
    index: &'a Index,
    query: &'a Query,
    list: u32,
    top: &'a mut TopK,
    stats: &'a mut SearchStats,
    scratch: &'a mut Scratch,
}

impl<S: PageStore> Scan<'_, S> {
    fn all(&mut self, probe: &Probe, exact: bool) -> Result<Visit> {
        let mut entry = read_entry(self.s, self.index, self.list)?;
        for _ in 0..MAX_RESTARTS {
            if self.frozen(&entry, probe, exact)? == Visit::Done
                && self.appended(&entry)? == Visit::Done
            {
                return Ok(Visit::Done);
            }
            self.top.remove_list(self.list);
            self.stats.restarts += 1;
            entry = reread_entry(self.s, self.index, self.list, &entry)?;
        }
        let (block, _, _) = self.index.entry_address(self.list);
        Err(IvfError::corrupt(
            block,
            format!(
                "list {} changed {MAX_RESTARTS} times during one scan",
                self.list
            ),
        ))
    }

    fn frozen(&mut self, entry: &ListEntry, probe: &Probe, exact: bool) -> Result<Visit> {
        if entry.frozen_count == entry.frozen_dead {
            return Ok(Visit::Done);
        }
        if self.collect(entry, probe, exact)? == Visit::Changed {
            return Ok(Visit::Changed);
        }
        self.compute(entry)
    }

    /// First pass: fills `survivors`.
    fn collect(&mut self, entry: &ListEntry, probe: &Probe, exact: bool) -> Result<Visit> {
        let Scratch {
            reader, survivors, ..
        } = &mut *self.scratch;
        survivors.clear();
        let threshold = self.top.threshold();
        let lut = self.query.lut.as_ref().filter(|_| !exact);
        let add = match self.query.metric() {
            Metric::L2 | Metric::Cosine => probe.l2sq,
            Metric::NegIp => -probe.ip,
        };
        let distance = probe.l2sq.sqrt();
        let mut bounds = [f32::NEG_INFINITY; GROUP];
        let (mut groups, mut filtered) = (0, 0);
        let take = |group, header: &GroupHeader, codes: &[u8]| {
            groups += 1;
            let mask = match lut {
                Some(lut) => {
                    bounds = lut.bounds(header, codes, (add, distance));
                    passing(header, &bounds, &self.query.bound, threshold)
                }
                None => header.live,
            };
            filtered += u64::from((header.live & !mask).count_ones());
            survivors.gather(group, header, mask, &bounds);
            ControlFlow::Continue(())
        };
        let visit = reader.for_each_group(self.s, self.index, self.list, entry, take)?;
        self.stats.groups += groups;
        self.note_filtered(filtered);
        if lut.is_some() && threshold == f32::INFINITY {
            return Ok(if visit == Visit::Done {
                self.lower_threshold(entry)?
            } else {
                visit
            });
        }
        Ok(visit)
    }

    /// Reads the most promising survivors first, so that a threshold spares the others, if there are many.
    fn lower_threshold(&mut self, entry: &ListEntry) -> Result<Visit> {
        let Scratch {
            survivors, later, ..
        } = &mut *self.scratch;
        let n = 2 * self.top.k();
        if survivors.entries.len() < 2 * n {
            return Ok(Visit::Done);
        }
        survivors.split_nearest(n, later);
        let visit = self.compute(entry)?;
        let Scratch {
            survivors, later, ..
        } = &mut *self.scratch;
        std::mem::swap(survivors, later);
        let (bound, threshold) = (&self.query.bound, self.top.threshold());
        let within = |limit: f32, raw: f32| raw <= limit || limit.is_nan();
        let keep = |entry: &Survivor| within(bound.raw_limit(threshold, entry.err), entry.bound);
        let filtered = survivors.retain(|_, entry| keep(entry)) as u64;
        self.note_filtered(filtered);
        Ok(visit)
    }

    fn note_filtered(&mut self, filtered: u64) {
        self.stats.filtered += filtered;
        if filtered > 0 {
            self.top.note_refused();
        }
    }

    /// Second pass: exact keys of the survivors.
    fn compute(&mut self, entry: &ListEntry) -> Result<Visit> {
        let Scratch {
            reader, survivors, ..
        } = &mut *self.scratch;
        let (query, list) = (self.query, self.list);
        let mut left = survivors.entries.iter();
        let (mut computed, mut filtered) = (0, 0);
        let visit = reader.read_rows(
            self.s,
            self.index,
            list,
            entry,
            &survivors.slots,
            |_, row| {
                let Some(survivor) = left.next() else { return };
                // The threshold has often fallen since the first pass.
                if survivor.bound != f32::NEG_INFINITY
                    && survivor.bound > query.bound.raw_limit(self.top.threshold(), survivor.err)
                {
                    filtered += 1;
                    return;
                }
                computed += 1;
                let key = query.key(row, survivor.err);
                self.top.push(
                    Candidate {
                        key,
                        tid: survivor.tid,
                    },
                    list,
                );
            },
        )?;
        self.stats.candidates += computed;
        self.note_filtered(filtered);
        Ok(visit)
    }

    fn appended(&mut self, entry: &ListEntry) -> Result<Visit> {
        let (query, list) = (self.query, self.list);
        let mut computed = 0;
        let visit = {
            let take = |tid: Tid, err: f32, row: &[f16]| {
                computed += 1;
                self.top.push(
                    Candidate {
                        key: query.key(row, err),
                        tid,
                    },
                    list,
                );
            };
            self.scratch
                .reader
                .for_each_appended(self.s, self.index, list, entry, take)?
        };
        self.stats.candidates += computed;
        Ok(visit)
    }
}
