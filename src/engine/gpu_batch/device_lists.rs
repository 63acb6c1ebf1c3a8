//! A batch in one call of the device, which chooses the lists of each query.
//!
//! Freshness: the directory is read once, before the call. Lists that are not on the device as they are there are empty for it, and are
//! searched on pages by the queries that chose them; so is what was appended to the others. A list that is rewritten before its appended
//! entries are read has them where the device lacks them: the CPU answers that query.

use std::time::{Duration, Instant};

use omen_gpu::{Batch, BatchFound, Source};
use omen_ivf::bound::rounding;
use omen_ivf::index::read_entries;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::AppendedTo;
use omen_ivf::scan_list::Served;
use omen_ivf::topk::Candidates;

use super::prepare::prepare;
use super::{Answers, Pairs};
use crate::engine::answer::{Lists, OnDevice, complete};
use crate::engine::batch::{BatchRequest, search_on_cpu};
use crate::engine::gpu::{lists_for, n_slots_of, note_slots, uninterrupted};
use crate::engine::heat;
use crate::engine::refresh::Behind;
use crate::engine::stats::ScanRecord;
use crate::engine::tiers::{LoadedTier, Stop};
use crate::guc;

/// Queries that the device gets `omen.gpu_timeout` for.
const QUERIES_A_TIMEOUT: usize = 1024;

/// Answers a batch. `None`: the device has no list as the index has it now. Errors: also what the device does not take.
pub(super) fn answer(
    loaded: &LoadedTier,
    request: &BatchRequest,
    record: &mut ScanRecord,
) -> Result<Option<Answers>, Stop> {
    let index = request.index;
    let all: Vec<u32> = (0..index.n_lists()).collect();
    let directory = Directory::new(loaded, request, read_entries(request.pages, index, &all)?);
    if directory.stale.len() == all.len() {
        return Ok(None);
    }
    let (found, is_ordinary) = ask(loaded, request, &directory, record)?;
    let mut search = PageSearch {
        loaded,
        request,
        directory: &directory,
        all: &all,
        found: &found,
        pairs: Pairs::default(),
        behind: Behind::default(),
        n_asked: 0,
        stale_time: Duration::ZERO,
    };
    let mut answers = Vec::with_capacity(request.vectors.len());
    let mut on_pages = Vec::new();
    for (q, is_ordinary) in is_ordinary.into_iter().enumerate() {
        let answer = if is_ordinary {
            search.complete(q, record)?
        } else {
            None
        };
        if answer.is_none() {
            on_pages.push(q);
        }
        answers.push(answer.unwrap_or_else(nothing));
    }
    let (pairs, behind) = (search.pairs, search.behind);
    let (n_asked, stale_time) = (search.n_asked, search.stale_time);
    let vectors: Vec<&[f32]> = on_pages.iter().map(|&q| request.vectors[q]).collect();
    for (q, answer) in on_pages
        .into_iter()
        .zip(search_on_cpu(request, &vectors, record)?)
    {
        answers[q] = answer;
    }
    Ok(Some(Answers {
        found: answers,
        pairs,
        behind,
        n_asked,
        stale_time,
    }))
}

fn nothing() -> Candidates {
    Candidates {
        items: Vec::new(),
        frontier: f32::INFINITY,
    }
}

/// The directory as just read, and what of it is on the device.
struct Directory {
    entries: Vec<ListEntry>,
    /// What the device has of the entries appended to each list.
    appended: Vec<AppendedTo>,
    /// Lists that are not on the device as the directory has them, and whether a list is one.
    stale: Vec<u32>,
    is_stale: Vec<bool>,
    /// Whether pages are to be searched too: lists are stale, or something was appended to others, or the device has codes alone.
    wants_pages: bool,
}

impl Directory {
    fn new(loaded: &LoadedTier, request: &BatchRequest, entries: Vec<ListEntry>) -> Self {
        let BatchRequest { pages, index, .. } = *request;
        let mut appended = Vec::with_capacity(entries.len());
        let mut may_lack = false;
        let of_list = |(list, entry): (u32, &ListEntry)| {
            let here = loaded.tier.current(list, entry);
            may_lack |= here.is_some_and(|here| here.appended.may_lack(pages, index, list, entry));
            appended.push(here.map_or(AppendedTo::NOTHING, |here| here.appended));
            here.is_none()
        };
        let is_stale: Vec<bool> = (0..).zip(&entries).map(of_list).collect();
        let stale: Vec<u32> = (0..)
            .zip(&is_stale)
            .filter_map(|(list, &stale)| stale.then_some(list))
            .collect();
        Self {
            wants_pages: !stale.is_empty() || may_lack || !loaded.tier.parts().rows(),
            appended,
            stale,
            is_stale,
            entries,
        }
    }
}

/// Asks the device. Also says which queries it was asked in earnest.
fn ask(
    loaded: &LoadedTier,
    request: &BatchRequest,
    directory: &Directory,
    record: &mut ScanRecord,
) -> Result<(BatchFound, Vec<bool>), Stop> {
    let BatchRequest {
        index, vectors, k, ..
    } = *request;
    let n_queries = vectors.len();
    let lists = lists_for(loaded, request.reach, request.exact);
    let mut is_ordinary = vec![false; n_queries];
    let deadline = guc::gpu_timeout() * (n_queries.div_ceil(QUERIES_A_TIMEOUT) as u32);
    let began = Instant::now();
    let found = uninterrupted(|poll| {
        let mut batch = Batch {
            n_queries,
            source: Source::Fill(&mut |first, to, bounds| {
                let these = first..first + bounds.len();
                let is_ordinary = &mut is_ordinary[these.clone()];
                prepare(index, &vectors[these], to, bounds, is_ordinary);
            }),
            lists,
            skipped: &directory.stale,
            k,
            want_lists: directory.wants_pages,
            tuning: Default::default(),
        };
        let rounding = rounding(index.meta.dim);
        loaded
            .tier
            .search_batch(&mut batch, rounding, deadline, poll)
    });
    let prepared = loaded.tier.last_times().fill.min(began.elapsed());
    record.select += prepared;
    record.gpu += began.elapsed() - prepared;
    Ok((found?, is_ordinary))
}

/// Adds to what the device found what pages hold beside it.
struct PageSearch<'a> {
    loaded: &'a LoadedTier,
    request: &'a BatchRequest<'a>,
    directory: &'a Directory,
    /// All lists.
    all: &'a [u32],
    found: &'a BatchFound,
    pairs: Pairs,
    behind: Behind,
    n_asked: usize,
    stale_time: Duration,
}

impl<'a> PageSearch<'a> {
    /// The answer to query `q`. `None`: the CPU is to answer, since a list was rewritten meanwhile, or the device did not.
    fn complete(&mut self, q: usize, record: &mut ScanRecord) -> Result<Option<Candidates>, Stop> {
        let round = self.request.round();
        let lists = self.lists(q, record);
        let found = match OnDevice::of_tier(&self.loaded.tier, self.found, q)? {
            found if found.is_lost() => return Ok(None),
            OnDevice::Entries(entries) if !lists.want_pages(&round) => {
                return Ok(Some(entries));
            }
            found => found,
        };
        let began = Instant::now();
        let query = &mut round.index.prepare_uncoded(self.request.vectors[q])?;
        let stale_time = &mut self.stale_time;
        let found = complete(&round, query, found, &lists, stale_time, record)?;
        record.cpu += began.elapsed();
        Ok(found.map(|completed| {
            self.behind.n_appended += completed.n_appended;
            completed.found
        }))
    }

    /// Counts the lists of query `q`, and says who has them. None where pages hold nothing beside the device.
    fn lists(&mut self, q: usize, record: &mut ScanRecord) -> Lists<'a> {
        let Some(lists) = self.lists_of(q) else {
            self.note_unseen(record);
            return Lists::default();
        };
        let BatchRequest { pages, index, .. } = *self.request;
        let is_stale = |list: &u32| self.directory.is_stale[*list as usize];
        let (stale, fresh): (Vec<u32>, Vec<u32>) = lists.iter().partition(|list| is_stale(list));
        heat::note(pages, index, lists.iter().copied());
        self.pairs
            .add(self.loaded, lists.len(), stale.iter().copied());
        self.n_asked += usize::from(!fresh.is_empty());
        record.probes = record.probes.max(lists.len() as u32);
        note_slots(self.loaded, fresh.iter().copied(), record);
        self.behind.n_slots += n_slots_of(self.loaded, fresh.iter().copied());
        let directory = self.directory;
        let searched = |list: u32| Served {
            list,
            entry: &directory.entries[list as usize],
            appended: directory.appended[list as usize],
        };
        Lists {
            searched: fresh.into_iter().map(searched).collect(),
            absent: stale,
        }
    }

    /// The lists of query `q`, nearest first unless they are all. `None`: nobody asked.
    fn lists_of(&self, q: usize) -> Option<&'a [u32]> {
        match (self.directory.wants_pages, self.found.probes) {
            (false, _) => None,
            (true, 0) => Some(self.all),
            (true, probes) => {
                let n = self.found.n_probes[q] as usize;
                Some(&self.found.lists[q * probes..][..n.min(probes)])
            }
        }
    }

    /// Counts a query whose lists only the device knows.
    fn note_unseen(&mut self, record: &mut ScanRecord) {
        let (n_all, probes) = (self.all.len(), self.request.reach.probes as usize);
        let n_lists = probes.min(n_all);
        self.pairs.all += n_lists;
        self.n_asked += 1;
        record.probes = record.probes.max(n_lists as u32);
        // Lists of average size.
        let n_slots = self.request.index.meta.built_rows * n_lists as u64 / n_all.max(1) as u64;
        record.candidates += n_slots;
        record.reranked += n_slots;
    }
}
