//! A round of many queries. They go to the service in messages of as many as fit, which it makes batches of; all answers are there before the
//! directory is read, once, so no slot is held while pages are. What lists spoilt is asked for again, and in the end the CPU's.

use std::time::{Duration, Instant};

use omen_gpu::{GpuError, candidates_from};
use omen_ivf::bound::rounding;
use omen_ivf::index::read_entries;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::scan_list::Served;
use omen_ivf::topk::Candidates;
use omen_service::message::{ChosenList, Request, SlotPlaces, StaleList};

use super::thinned::{Thinned, is_thinned};
use super::{
    MAX_ASKED, OfQuery, Part, Tier, Told, check_lists, is_known_stale, is_searched, out_of_date,
};
use crate::engine::answer::{EXACT_BY_CODES, Lists, OnDevice, complete};
use crate::engine::batch::{BatchRequest, note_sample, search_on_cpu};
use crate::engine::fallback::Attempt;
use crate::engine::gpu_batch::prepare::prepare;
use crate::engine::gpu_batch::{n_together, note_batch};
use crate::engine::service_tiers::Lacks;
use crate::engine::stats::{Engine, ScanRecord};
use crate::engine::tiers::Stop;
use crate::engine::{choice, heat};
use crate::gpu_service::Service;
use crate::gpu_service::session::Questions;
use crate::guc::{self, EngineSetting};

/// Answers of so many messages are kept at most until pages are read: 32 MB.
const MAX_MESSAGES: usize = 256;

/// The answers to the first queries of a round, usually to all, and who gave them is noted. `None`: the CPU is to answer.
pub(in crate::engine) fn attempt(
    service: &Service,
    setting: EngineSetting,
    request: &BatchRequest,
    record: &mut ScanRecord,
) -> Attempt<Vec<Candidates>> {
    let BatchRequest {
        pages,
        index,
        vectors,
        reach,
        k,
        exact,
    } = *request;
    let (tier, file) = (Tier::new(service, pages, index), pages.file());
    let n_lists = reach.probes.min(index.n_lists()) as usize;
    if !tier.takes(setting, k, n_lists, 0)? {
        return Ok(None);
    }
    let to_come = choice::cpu_seconds(file, vectors.len(), n_lists);
    let prefers_gpu = |few_search| {
        if few_search {
            choice::prefers_gpu_for_batch(file, index, vectors.len(), n_lists)
        } else {
            choice::prefers_crowded_gpu_for_batch(file, vectors.len(), n_lists)
        }
    };
    // Where not all of the index fits, the lists that are searched get the room.
    let before_load = || note_sample(request);
    if !tier.is_to_answer(setting, to_come, prefers_gpu, before_load, record)? {
        return Ok(None);
    }
    tier.check_exact(exact)?;
    let codes_alone = tier.has_codes_alone();
    let in_message = tier.queries_of_message(k, n_lists, 0)?;
    let n_queries = n_together(codes_alone, vectors.len(), k).min(in_message * MAX_MESSAGES);
    let request = &BatchRequest {
        vectors: &vectors[..n_queries],
        ..*request
    };
    let began = Instant::now();
    let mut asking = Asking {
        in_message,
        tier,
        request,
        may_ask: vec![true; n_queries],
        answers: vec![None; n_queries],
        n_pairs: 0,
        lacks: Lacks::default(),
        n_asked: 0,
        stale_time: Duration::ZERO,
    };
    asking.search(record)?;
    let Asking {
        tier,
        n_pairs,
        mut lacks,
        stale_time,
        answers,
        ..
    } = asking;
    record.engine = if asking.n_asked > 0 {
        Engine::Gpu
    } else {
        // Nothing of what was searched is as the tier has it.
        Engine::Cpu
    };
    let found: Vec<Candidates> = answers.into_iter().map_while(|a| a).collect();
    let took = (began.elapsed(), stale_time);
    note_batch(request, codes_alone, &found, n_pairs, took);
    lacks.behind.time += stale_time;
    tier.look_after(lacks, n_pairs, record);
    Ok(Some(found))
}

/// A round that is under way.
struct Asking<'a> {
    tier: Tier<'a>,
    request: &'a BatchRequest<'a>,
    /// Queries of a message.
    in_message: usize,
    /// `[n]`: whether a device can answer a query, as far as is known; others are asked in vain.
    may_ask: Vec<bool>,
    /// `[n]`
    answers: Vec<Option<Candidates>>,
    /// Pairs of query and list, and those that the tier lacks, or has of old.
    n_pairs: usize,
    lacks: Lacks,
    /// Queries that the device has searched any list for.
    n_asked: usize,
    /// Time for lists that the tier lacks or has of old.
    stale_time: Duration,
}

impl Asking<'_> {
    /// Answers all queries; only the first ones if the service fails after these. Errors: the service has answered none; those of the index.
    fn search(&mut self, record: &mut ScanRecord) -> Result<(), Stop> {
        let mut queries: Vec<usize> = (0..self.answers.len()).collect();
        let mut stale = Vec::new();
        for _ in 0..MAX_ASKED {
            let (parts, outcome) = self.ask(&queries, &stale, record);
            (queries, stale) = self.complete(queries, parts, record)?;
            if let Err(stop) = outcome {
                let is_any = self.answers.first().is_some_and(Option::is_some);
                // The next attempt meets with the error again if it is there to stay.
                return if is_any { Ok(()) } else { Err(stop) };
            }
            if queries.is_empty() {
                break;
            }
        }
        // Lists change faster than the service can be told; or the queries are not for a device.
        let left: Vec<usize> = (0..self.answers.len())
            .filter(|&q| self.answers[q].is_none())
            .collect();
        let vectors: Vec<&[f32]> = left.iter().map(|&q| self.request.vectors[q]).collect();
        let answers = search_on_cpu(self.request, &vectors, record)?;
        for (q, answer) in left.into_iter().zip(answers) {
            self.answers[q] = Some(answer);
        }
        Ok(())
    }

    /// Asks for some queries.
    fn ask(
        &mut self,
        queries: &[usize],
        stale: &[StaleList],
        record: &mut ScanRecord,
    ) -> (Vec<Part>, Result<(), Stop>) {
        let BatchRequest {
            index,
            vectors,
            reach,
            k,
            ..
        } = *self.request;
        let questions = Questions {
            request: Request {
                probes: reach.probes,
                k: k as u32,
                spread: reach.spread,
                rounding: rounding(index.meta.dim),
                ..Request::default()
            },
            lists: &[],
            stale,
            in_message: self.in_message,
            timeout: guc::gpu_timeout(),
        };
        let may_ask = &mut self.may_ask;
        let began = Instant::now();
        let mut prepared = Duration::ZERO;
        let n_queries = queries.len();
        let answered = self
            .tier
            .ask(&questions, n_queries, &mut |these, to, bounds| {
                let began = Instant::now();
                let these = &queries[these];
                let vectors: Vec<&[f32]> = these.iter().map(|&q| vectors[q]).collect();
                let mut are_ordinary = vec![true; these.len()];
                prepare(index, &vectors, to, bounds, &mut are_ordinary);
                for (&q, is) in these.iter().zip(are_ordinary) {
                    may_ask[q] = is;
                }
                prepared += began.elapsed();
            });
        record.select += prepared;
        record.gpu += began.elapsed().saturating_sub(prepared);
        answered
    }

    /// Adds to the answers to the first of `queries` what pages hold beside them. The queries that are to be asked again, and the lists that
    /// the service should know to be out of date.
    fn complete(
        &mut self,
        queries: Vec<usize>,
        parts: Vec<Part>,
        record: &mut ScanRecord,
    ) -> Result<(Vec<usize>, Vec<StaleList>), Stop> {
        let BatchRequest { pages, index, .. } = *self.request;
        let all: Vec<u32> = (0..index.n_lists()).collect();
        // Not before the device has searched.
        let entries = read_entries(pages, index, &all)?;
        let (mut again, mut stale) = (Vec::new(), Vec::new());
        let mut queries = queries.into_iter();
        for part in parts {
            pgrx::check_for_interrupts!();
            check_lists(&part.lists, index)?;
            let state_of = |chosen: &ChosenList| {
                let entry = &entries[chosen.list as usize];
                match out_of_date(chosen, entry) {
                    None => State::Current,
                    Some(_) if !part.names_slots && is_thinned(chosen, entry) => State::Thinned,
                    Some(_) => State::Stale,
                }
            };
            let states: Vec<State> = part.lists.iter().map(state_of).collect();
            stale.extend(part.stale_lists(&entries, |at| states[at] == State::Stale));
            let named_lists: &[ChosenList] = if part.names_slots { &part.lists } else { &[] };
            let lists = PartLists {
                part: &part,
                slots: SlotPlaces::new(named_lists),
                states: &states,
                thinned: Thinned::of(
                    part.lists
                        .iter()
                        .map(|chosen| (chosen, &entries[chosen.list as usize])),
                ),
                entries: &entries,
            };
            let mut is_thin = false;
            for (answer, q) in part.queries.iter().zip(queries.by_ref()) {
                if !self.may_ask[q] {
                    continue;
                }
                self.answers[q] = self.answer(q, answer, &lists, &mut is_thin, record)?;
                if self.answers[q].is_none() && self.may_ask[q] {
                    again.push(q);
                }
            }
            if is_thin {
                stale.extend(part.stale_lists(&entries, |at| states[at] == State::Thinned));
            }
        }
        stale.sort_unstable_by_key(|told| told.list);
        stale.dedup_by_key(|told| told.list);
        Ok((again, stale))
    }

    /// The answer to query `q`. `None`: it is out of date, or there is none by the device. Sets `is_thin` if that is for lists of which entries have
    /// died, which are then to be left out.
    fn answer(
        &mut self,
        q: usize,
        answer: &OfQuery,
        lists: &PartLists<'_>,
        is_thin: &mut bool,
        record: &mut ScanRecord,
    ) -> Result<Option<Candidates>, Stop> {
        let round = self.request.round();
        let Some(mine) = lists.of(answer) else {
            return Ok(None);
        };
        let found = match &answer.told {
            Told::Entries { found, frontier } if mine.n_thinned > 0 => {
                let (began, mut found) = (Instant::now(), found.clone());
                let is_good = lists.thinned.leave_out_dead(&round, &mut found)?;
                self.lacks.behind.time += began.elapsed();
                if !is_good {
                    *is_thin = true;
                    return Ok(None);
                }
                OnDevice::Entries(candidates_from(&found, *frontier))
            }
            _ => answer.on_device(&lists.slots)?,
        };
        let is_named = found.is_named();
        if is_named && round.exact {
            return Err(GpuError::Unsupported(EXACT_BY_CODES.into()).into());
        }
        let found = match found {
            found if found.is_lost() => {
                self.may_ask[q] = false;
                return Ok(None);
            }
            OnDevice::Entries(entries) if !mine.by_engine.want_pages(&round) => entries,
            found => {
                let began = Instant::now();
                let query = &mut round.index.prepare_uncoded(self.request.vectors[q])?;
                let (by_engine, stale_time) = (&mine.by_engine, &mut self.stale_time);
                let found = complete(&round, query, found, by_engine, stale_time, record)?;
                record.cpu += began.elapsed();
                let Some(completed) = found else {
                    // Rewritten just now: its new generations will show.
                    return Ok(None);
                };
                let behind = &mut self.lacks.behind;
                behind.n_appended += completed.n_appended;
                behind.time += completed.appended_time;
                completed.found
            }
        };
        heat::note(round.pages, round.index, mine.all.iter().copied());
        self.n_pairs += mine.all.len();
        self.lacks.n_stale += mine.n_stale;
        self.lacks.n_thinned += mine.n_thinned;
        self.lacks.behind.n_slots += mine.n_slots;
        self.lacks.n_absent += mine.by_engine.absent.len() - mine.n_stale;
        self.n_asked += usize::from(!mine.by_engine.searched.is_empty());
        record.probes = record.probes.max(mine.all.len() as u32);
        record.candidates += mine.n_slots;
        if !is_named {
            record.reranked += mine.n_slots;
        }
        Ok(Some(found))
    }
}

/// The lists of a part.
struct PartLists<'a> {
    part: &'a Part,
    /// Where their slots are, if slots are named.
    slots: SlotPlaces<'a>,
    /// How they are.
    states: &'a [State],
    thinned: Thinned<'a>,
    /// The directory.
    entries: &'a [ListEntry],
}

/// Lists of a query.
#[derive(Default)]
struct OfOne<'a> {
    all: Vec<u32>,
    by_engine: Lists<'a>,
    /// Those that the device has of old.
    n_stale: usize,
    /// Those in which entries have died since.
    n_thinned: usize,
    /// Entries that the device has searched.
    n_slots: u64,
}

/// How the device has a list that it has searched; a list that it has not is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Current,
    /// Some of its entries have died.
    Thinned,
    /// It is out of date.
    Stale,
}

impl Part {
    /// What to tell the service of the lists at places that are `wanted`.
    fn stale_lists(&self, entries: &[ListEntry], wanted: impl Fn(usize) -> bool) -> Vec<StaleList> {
        let lists = (0..).zip(&self.lists).filter(|(at, _)| wanted(*at));
        let lists =
            lists.filter_map(|(_, chosen)| out_of_date(chosen, &entries[chosen.list as usize]));
        lists.collect()
    }
}

impl<'a> PartLists<'a> {
    /// The lists of a query; `None` if the device has searched one that is out of date.
    fn of(&self, answer: &OfQuery) -> Option<OfOne<'a>> {
        let mut lists = OfOne::default();
        let mut add = |place: usize| {
            let chosen = &self.part.lists[place];
            lists.all.push(chosen.list);
            lists.n_slots += u64::from(chosen.n_slots);
            if !is_searched(chosen) {
                lists.by_engine.absent.push(chosen.list);
                lists.n_stale += usize::from(is_known_stale(chosen));
            } else {
                lists.by_engine.searched.push(Served {
                    list: chosen.list,
                    entry: &self.entries[chosen.list as usize],
                    appended: chosen.appended,
                });
            }
            lists.n_thinned += usize::from(self.states[place] == State::Thinned);
            self.states[place] != State::Stale
        };
        let is_current = match &answer.places {
            Some(places) => places.iter().all(|&place| add(place as usize)),
            None => (0..self.part.lists.len()).all(add),
        };
        is_current.then_some(lists)
    }
}
