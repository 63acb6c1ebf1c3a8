//! A round of many queries on the GPU: the frozen part of lists whose hot tier is current there, the rest by the CPU. The rules of
//! freshness are those of `gpu.rs`; the directory is read once for all queries.

use std::time::{Duration, Instant};

use omen_gpu::TierQuery;
use omen_ivf::coarse::{Probe, select_lists};
use omen_ivf::index::read_entries;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::Visit;
use omen_ivf::query::Query;
use omen_ivf::scan_list::{SearchStats, scan_appended};
use omen_ivf::store::NO_BLOCK;
use omen_ivf::topk::{Candidates, TopK};

use super::batch::BatchRequest;
use super::fallback::try_gpu;
use super::gpu::{STALE_SHARE, ask, load_if_wanted};
use super::stats::{Engine, ScanRecord};
use super::tiers::{LoadedTier, Stop};
use super::{SearchRequest, choice, merge, scan};
use crate::error::Result;
use crate::guc::EngineSetting;

/// Queries that the tier is asked at a time: a call must end before `omen.gpu_timeout`, and a cancelled statement soon.
const QUERIES_A_CALL: usize = 1024;

/// Answers a round with the GPU's help, and notes who did; `None`: the CPU is to answer. Fails only for what ends the query.
pub(super) fn search(
    request: &BatchRequest,
    record: &mut ScanRecord,
) -> Result<Option<Vec<Candidates>>> {
    try_gpu(request.pages, record, |device, setting, record| {
        let (file, n_queries) = (request.pages.file(), request.queries.len());
        let n_lists = request.reach.probes.min(request.index.n_lists()) as usize;
        let to_come = choice::cpu_seconds(file, n_queries, n_lists);
        let (pages, index) = (request.pages, request.index);
        load_if_wanted(device, setting, pages, index, to_come, record)?;
        let Some(loaded) = device.tier(file, index) else {
            return Ok(None);
        };
        let auto = setting == EngineSetting::Auto;
        if auto && !choice::prefers_gpu_for_batch(file, n_queries, n_lists) {
            return Ok(None);
        }
        let began = Instant::now();
        let mut search = TierSearch {
            loaded,
            request,
            stale_time: Duration::ZERO,
            n_pairs: 0,
            n_stale: 0,
            n_asked: 0,
        };
        let mut found = Vec::with_capacity(n_queries);
        for queries in request.queries.chunks(QUERIES_A_CALL) {
            pgrx::check_for_interrupts!();
            search.answer(queries, record, &mut found)?;
        }
        let (stale_time, n_pairs) = (search.stale_time, search.n_pairs);
        search.loaded.stale = search.n_stale * STALE_SHARE > n_pairs;
        record.engine = if search.n_asked > 0 {
            choice::note_gpu_batch(file, n_pairs, began.elapsed(), stale_time);
            device.note_success();
            Engine::Gpu
        } else {
            // Nothing of what was searched is as the tier has it.
            Engine::Cpu
        };
        Ok(Some(found))
    })
}

struct TierSearch<'a> {
    loaded: &'a mut LoadedTier,
    request: &'a BatchRequest<'a>,
    /// Time for lists that are out of date in the tier.
    stale_time: Duration,
    /// Pairs of query and list, and those of lists out of date.
    n_pairs: usize,
    n_stale: usize,
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
        queries: &[&Query],
        record: &mut ScanRecord,
        found: &mut Vec<Candidates>,
    ) -> std::result::Result<(), Stop> {
        let index = self.request.index;
        let all: Vec<u32> = (0..index.n_lists()).collect();
        let entries = read_entries(self.request.pages, index, &all)?;
        let mut splits = Vec::with_capacity(queries.len());
        for query in queries {
            splits.push(self.split(query, &entries, record)?);
        }
        let asked: Vec<TierQuery<'_>> = splits
            .iter()
            .filter(|split| !split.fresh.is_empty())
            .map(|split| TierQuery {
                q: split.query.vector(),
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
        query: &Query,
        entries: &[ListEntry],
        record: &mut ScanRecord,
    ) -> std::result::Result<Split, Stop> {
        let (pages, index) = (self.request.pages, self.request.index);
        let began = Instant::now();
        let query = index.with_code(query);
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
            let (layout, deletes) = (entry.layout_gen, entry.delete_gen);
            if !on_gpu || !self.loaded.tier.is_current(probe.list, layout, deletes) {
                split.stale.push(*probe);
                continue;
            }
            let visit = if entry.append_head == NO_BLOCK {
                Visit::Done
            } else {
                let top = split
                    .appended
                    .get_or_insert_with(|| TopK::new(self.request.k));
                scan_appended(pages, index, &split.query, probe, entry, top, &mut did)?
            };
            match visit {
                Visit::Done => split.fresh.push(probe.list),
                Visit::Changed => split.stale.push(*probe),
            }
        }
        record.add(&did);
        self.n_pairs += probes.len();
        if on_gpu {
            self.n_stale += split.stale.len();
        }
        Ok(split)
    }

    /// What the tier found for a query, with what pages hold beside it.
    fn complete(
        &mut self,
        split: Split,
        answer: Option<Candidates>,
        record: &mut ScanRecord,
    ) -> std::result::Result<Candidates, Stop> {
        let BatchRequest {
            pages,
            index,
            k,
            exact,
            ..
        } = *self.request;
        let lists = self.loaded.tier.lists();
        let slots_of = |&list: &u32| lists[list as usize].map_or(0, |list| u64::from(list.n_slots));
        let n_slots: u64 = split.fresh.iter().map(slots_of).sum();
        record.candidates += n_slots;
        record.reranked += n_slots;
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
