//! A batch whose lists the CPU chooses, query by query. The rules of freshness are those of `engine/gpu.rs`; the directory is read once
//! for many queries.

use std::time::{Duration, Instant};

use omen_gpu::TierQuery;
use omen_ivf::coarse::{Probe, select_lists};
use omen_ivf::index::read_entries;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::Visit;
use omen_ivf::query::Query;
use omen_ivf::scan_list::{SearchStats, Served, scan_appended};
use omen_ivf::topk::{Candidates, TopK};

use super::{Answers, Pairs};
use crate::engine::batch::BatchRequest;
use crate::engine::gpu::{ask, note_slots};
use crate::engine::refresh::Behind;
use crate::engine::stats::ScanRecord;
use crate::engine::tiers::{LoadedTier, Stop};
use crate::engine::{SearchRequest, heat, merge, scan};

/// Queries that the tier is asked at a time: a call must end before `omen.gpu_timeout`, and a cancelled statement soon.
const QUERIES_A_CALL: usize = 1024;

/// Answers a batch.
pub(super) fn answer(
    loaded: &LoadedTier,
    request: &BatchRequest,
    record: &mut ScanRecord,
) -> Result<Answers, Stop> {
    let mut search = TierSearch {
        loaded,
        request,
        stale_time: Duration::ZERO,
        pairs: Pairs::default(),
        behind: Behind::default(),
        n_asked: 0,
    };
    let mut found = Vec::with_capacity(request.vectors.len());
    for vectors in request.vectors.chunks(QUERIES_A_CALL) {
        pgrx::check_for_interrupts!();
        search.answer(vectors, record, &mut found)?;
    }
    Ok(Answers {
        found,
        pairs: search.pairs,
        behind: search.behind,
        n_asked: search.n_asked,
        stale_time: search.stale_time,
    })
}

struct TierSearch<'a> {
    loaded: &'a LoadedTier,
    request: &'a BatchRequest<'a>,
    /// Time for lists that are out of date in the tier.
    stale_time: Duration,
    pairs: Pairs,
    behind: Behind,
    /// Queries the tier was asked.
    n_asked: usize,
}

/// A query, and who searches its lists.
struct Split {
    query: Query,
    /// On the device, current.
    fresh: Vec<u32>,
    /// On pages.
    stale: Vec<Probe>,
    /// What appended entries gave; `None` where no list has any.
    appended: Option<TopK>,
}

impl TierSearch<'_> {
    /// Appends the answers to `queries` to `found`.
    fn answer(
        &mut self,
        vectors: &[&[f32]],
        record: &mut ScanRecord,
        found: &mut Vec<Candidates>,
    ) -> Result<(), Stop> {
        let index = self.request.index;
        let all: Vec<u32> = (0..index.n_lists()).collect();
        let entries = read_entries(self.request.pages, index, &all)?;
        let mut splits = Vec::with_capacity(vectors.len());
        for vector in vectors {
            splits.push(self.split(vector, &entries, record)?);
        }
        let asked: Vec<TierQuery<'_>> = splits
            .iter()
            .filter(|split| !split.fresh.is_empty())
            .map(|split| TierQuery {
                q: split.query.words(),
                q_norm: split.query.bound().q_norm(),
                q_err: split.query.bound().q_err(),
                lists: &split.fresh,
                k: self.request.k,
            })
            .collect();
        self.n_asked += asked.len();
        let began = Instant::now();
        let answers = match asked.as_slice() {
            [] => Ok(Vec::new()),
            asked => ask(self.loaded, asked, splits[0].query.bound().rounding()),
        };
        record.gpu += began.elapsed();
        let mut answers = answers?.into_iter();
        for split in splits {
            let answer = if split.fresh.is_empty() {
                None
            } else {
                answers.next()
            };
            found.push(self.complete(split, answer, record)?);
        }
        Ok(())
    }

    /// Chooses the lists of a query, and scans what was appended to those that are current on the device: while they are as just
    /// read, since a fold moves appended entries to where the tier lacks them.
    fn split(
        &mut self,
        vector: &[f32],
        entries: &[ListEntry],
        record: &mut ScanRecord,
    ) -> Result<Split, Stop> {
        let (pages, index) = (self.request.pages, self.request.index);
        let began = Instant::now();
        let query = index.prepare(vector)?;
        let probes = select_lists(pages, index, &query, self.request.reach)?;
        record.select += began.elapsed();
        record.probes = record.probes.max(probes.len() as u32);
        // Keys of other queries need the CPU's case by case look.
        let on_gpu = query.bound().is_plain() && !query.unordered();
        let mut split = Split {
            query,
            fresh: Vec::with_capacity(probes.len()),
            stale: Vec::new(),
            appended: None,
        };
        let mut did = SearchStats::default();
        for probe in &probes {
            let entry = &entries[probe.list as usize];
            let here = self.loaded.tier.current(probe.list, entry);
            let Some(here) = here.filter(|_| on_gpu) else {
                split.stale.push(*probe);
                continue;
            };
            let served = Served {
                list: probe.list,
                entry,
                appended: here.appended,
            };
            let visit = if served.may_lack(pages, index) {
                let top = split
                    .appended
                    .get_or_insert_with(|| TopK::new(self.request.k));
                scan_appended(pages, index, &split.query, &served, top, &mut did)?
            } else {
                Visit::Done
            };
            self.behind.n_slots += u64::from(here.n_slots);
            match visit {
                Visit::Done => split.fresh.push(probe.list),
                Visit::Changed => split.stale.push(*probe),
            }
        }
        record.add(&did);
        self.behind.n_appended += did.candidates;
        heat::note(pages, index, probes.iter().map(|probe| probe.list));
        // The tier is not to blame for queries that are not for it.
        let stale: &[Probe] = if on_gpu { &split.stale } else { &[] };
        let stale = stale.iter().map(|probe| probe.list);
        self.pairs.add(self.loaded, probes.len(), stale);
        Ok(split)
    }

    /// What the tier found for a query, with what pages hold beside it.
    fn complete(
        &mut self,
        split: Split,
        answer: Option<Candidates>,
        record: &mut ScanRecord,
    ) -> Result<Candidates, Stop> {
        let BatchRequest {
            pages,
            index,
            k,
            exact,
            ..
        } = *self.request;
        note_slots(self.loaded, split.fresh.iter().copied(), record);
        let mut top = split.appended;
        if !split.stale.is_empty() {
            let began = Instant::now();
            let request = SearchRequest {
                pages,
                index,
                query: &split.query,
                lists: &split.stale,
                k,
                exact,
            };
            let top = top.get_or_insert_with(|| TopK::new(k));
            scan(&request, &split.stale, top, record)?;
            let elapsed = began.elapsed();
            record.cpu += elapsed;
            self.stale_time += elapsed;
        }
        Ok(match (answer, top.map(TopK::into_candidates)) {
            (Some(on_gpu), Some(on_pages)) => merge(on_gpu, on_pages),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => Candidates {
                items: Vec::new(),
                frontier: f32::INFINITY,
            },
        })
    }
}
