//! A batch in one call of the device, which chooses the lists of each query.
//!
//! Freshness: the directory is read once, before the call. Lists that are not on the device as they are there are empty for it, and are
//! searched on pages by the queries that chose them; so is what was appended to the others. A list that is rewritten before its appended
//! entries are read has them where the device lacks them: the CPU answers that query.

use std::time::{Duration, Instant};

use omen_gpu::{Batch, BatchFound, Source};
use omen_ivf::bound::rounding;
use omen_ivf::coarse::Probe;
use omen_ivf::index::read_entries;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::store::NO_BLOCK;
use omen_ivf::topk::{Candidates, TopK};

use super::prepare::prepare;
use super::{Answers, Pairs};
use crate::engine::batch::{BatchRequest, search_on_cpu};
use crate::engine::gpu::{lists_for, note_slots, uninterrupted};
use crate::engine::named_slots::NamedSlots;
use crate::engine::pages::{scan_all_appended, scan_stale, unranked};
use crate::engine::shared::candidates_from;
use crate::engine::stats::ScanRecord;
use crate::engine::tiers::{LoadedTier, Stop};
use crate::engine::{heat, merge};
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
    let directory = Directory::new(loaded, read_entries(request.pages, index, &all)?);
    if directory.stale.len() == all.len() {
        return Ok(None);
    }
    let (found, is_ordinary) = ask(loaded, request, &directory, record)?;
    let all_lists = (!loaded.tier.parts().rows()).then(|| directory.with_probes());
    let named = all_lists.as_ref().map(|lists| NamedSlots {
        pages: request.pages,
        index,
        tier: &loaded.tier,
        lists,
    });
    let mut search = PageSearch {
        loaded,
        request,
        directory: &directory,
        all: &all,
        found: &found,
        named,
        pairs: Pairs::default(),
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
    let (pairs, n_asked, stale_time) = (search.pairs, search.n_asked, search.stale_time);
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
    /// Lists that are not on the device as the directory has them, and whether a list is one.
    stale: Vec<u32>,
    is_stale: Vec<bool>,
    /// Whether pages are to be searched too: lists are stale, or something was appended to others, or the device has codes alone.
    wants_pages: bool,
}

impl Directory {
    fn new(loaded: &LoadedTier, entries: Vec<ListEntry>) -> Self {
        let is_stale: Vec<bool> = (0..)
            .zip(&entries)
            .map(|(list, e)| !loaded.tier.is_current(list, e.layout_gen, e.delete_gen))
            .collect();
        let has_appended = |(e, stale): (&ListEntry, &bool)| !stale && e.append_head != NO_BLOCK;
        let stale: Vec<u32> = (0..)
            .zip(&is_stale)
            .filter_map(|(list, &stale)| stale.then_some(list))
            .collect();
        Self {
            wants_pages: !stale.is_empty()
                || entries.iter().zip(&is_stale).any(has_appended)
                || !loaded.tier.parts().rows(),
            stale,
            is_stale,
            entries,
        }
    }

    /// All lists with their entries. Those that are stale have no slots on the device.
    fn with_probes(&self) -> Vec<(Probe, ListEntry)> {
        let lists = (0..).zip(&self.entries);
        lists
            .map(|(list, entry)| (unranked(list), *entry))
            .collect()
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

/// What the device found for query `q`.
pub(in crate::engine) fn candidates_of(found: &BatchFound, q: usize) -> Candidates {
    candidates_from(found.of(q), found.heads[q].frontier)
}

/// What of a query's lists is to be searched on pages.
#[derive(Default)]
struct OnPages {
    /// Lists that are out of date on the device.
    stale: Vec<u32>,
    /// The others that something was appended to.
    appended: Vec<u32>,
}

/// Adds to what the device found what pages hold beside it.
struct PageSearch<'a> {
    loaded: &'a LoadedTier,
    request: &'a BatchRequest<'a>,
    directory: &'a Directory,
    /// All lists.
    all: &'a [u32],
    found: &'a BatchFound,
    /// If these are slots to be looked at.
    named: Option<NamedSlots<'a>>,
    pairs: Pairs,
    n_asked: usize,
    stale_time: Duration,
}

impl<'a> PageSearch<'a> {
    /// The answer to query `q`. `None`: the CPU is to answer, since a list was rewritten meanwhile, or the device did not.
    fn complete(&mut self, q: usize, record: &mut ScanRecord) -> Result<Option<Candidates>, Stop> {
        let BatchRequest {
            pages,
            index,
            k,
            exact,
            ..
        } = *self.request;
        let OnPages { stale, appended } = self.on_pages(q, record);
        if self.named.is_none() && stale.is_empty() && appended.is_empty() {
            return Ok(Some(candidates_of(self.found, q)));
        }
        let query = &mut index.prepare_uncoded(self.request.vectors[q])?;
        let mut top = TopK::new(k);
        let entry_of = |&list: &u32| (list, &self.directory.entries[list as usize]);
        let appended = appended.iter().map(entry_of);
        if !scan_all_appended(pages, index, query, appended, &mut top, record)? {
            return Ok(None);
        }
        let began = Instant::now();
        if let Some(named) = &self.named {
            if !NamedSlots::is_answered(self.found, q) {
                return Ok(None);
            }
            named.rerank(query, self.found, q, &mut top, record)?;
        }
        self.stale_time += scan_stale(pages, index, query, &stale, exact, &mut top, record)?;
        record.cpu += began.elapsed();
        let on_pages = top.into_candidates();
        Ok(Some(match self.named {
            Some(_) => on_pages,
            None => merge(candidates_of(self.found, q), on_pages),
        }))
    }

    /// Counts the lists of query `q`, and says which of them pages have to be searched for.
    fn on_pages(&mut self, q: usize, record: &mut ScanRecord) -> OnPages {
        let Some(lists) = self.lists_of(q) else {
            self.note_unseen(record);
            return OnPages::default();
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
        let entries = &self.directory.entries;
        let mut appended = fresh;
        appended.retain(|&list| entries[list as usize].append_head != NO_BLOCK);
        OnPages { stale, appended }
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
