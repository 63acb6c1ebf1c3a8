//! The service's part in a round of one query, over the lists nearest to it, which it chooses, or over lists that are given.

use std::time::Instant;

use omen_gpu::GpuError;
use omen_gpu::params::QueryBound;
use omen_ivf::coarse::Probe;
use omen_ivf::index::read_entries;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::probes::Reach;
use omen_ivf::query::Query;
use omen_service::message::{ChosenList, Request, SlotPlaces, StaleList};

use super::thinned::Thinned;
use super::{MAX_ASKED, Part, Tier, Told, check_lists, is_known_stale, is_searched, out_of_date};
use crate::engine::answer::Round;
use crate::engine::choice;
use crate::engine::fallback::Attempt;
use crate::engine::gpu::GIVEN_TO_CODES;
use crate::engine::lists::entries_of;
use crate::engine::nearest::settle::{Asked, LookedUp, settle};
use crate::engine::nearest::{Nearest, takes_lists};
use crate::engine::refresh::Behind;
use crate::engine::service_tiers::Lacks;
use crate::engine::stats::ScanRecord;
use crate::engine::tiers::Stop;
use crate::gpu_service::Service;
use crate::gpu_service::session::Questions;
use crate::guc::{self, EngineSetting};

/// Which lists are searched.
#[derive(Clone, Copy)]
pub(in crate::engine) enum Which<'a> {
    /// The nearest, which the device chooses.
    Nearest(Reach),
    /// These.
    Given(&'a [Probe]),
}

/// How an attempt ends that did not fail.
pub(in crate::engine) enum Answer {
    Found(Nearest),
    /// The device does not take it, or not so.
    Refused(GpuError),
}

/// A round's answer by the service. `None`: the CPU is to answer. The query need not have a code, and may get one.
pub(in crate::engine) fn attempt(
    service: &Service,
    setting: EngineSetting,
    round: &Round,
    which: Which,
    query: &mut Query,
    record: &mut ScanRecord,
) -> Attempt<Answer> {
    let Round { pages, index, .. } = *round;
    if !query.is_ordinary() {
        return Ok(None);
    }
    let (tier, file) = (Tier::new(service, pages, index), pages.file());
    let (reach, lists) = match which {
        Which::Nearest(reach) => (reach, Vec::new()),
        Which::Given(probes) => {
            let lists = probes.iter().map(|probe| probe.list);
            (Reach::from(probes.len() as u32), lists.collect())
        }
    };
    let n_lists = reach.probes.min(index.n_lists()) as usize;
    if !tier.takes(setting, round.k, n_lists, lists.len())? {
        return Ok(None);
    }
    let prefers_gpu = |few_search| {
        if few_search {
            choice::prefers_gpu(file, index, n_lists)
        } else {
            choice::prefers_crowded_gpu(file, n_lists)
        }
    };
    if !tier.is_to_answer(setting, 0.0, prefers_gpu, || Ok(()), record)? {
        return Ok(None);
    }
    let codes_alone = tier.has_codes_alone();
    if codes_alone && !lists.is_empty() {
        return Err(GpuError::Unsupported(GIVEN_TO_CODES.into()).into());
    }
    tier.check_exact(round.exact)?;
    let (mut stale, mut lacks) = (Vec::new(), Lacks::default());
    let mut ask = |k: usize, query: &Query, record: &mut ScanRecord| {
        tier.queries_of_message(k, n_lists, lists.len())?;
        let began = Instant::now();
        let questions = Questions {
            request: Request {
                probes: reach.probes,
                k: k as u32,
                spread: reach.spread,
                rounding: query.bound().rounding(),
                ..Request::default()
            },
            lists: &lists,
            stale: &stale,
            in_message: 1,
            timeout: guc::gpu_timeout(),
        };
        let (parts, outcome) = tier.ask(&questions, 1, &mut |_, vector, bound| {
            vector.copy_from_slice(query.words());
            bound.fill(QueryBound::from(query.bound()));
        });
        record.gpu += began.elapsed();
        outcome?;
        current(round, parts, &mut stale, &mut lacks)
    };
    let n_repeats = MAX_ASKED - 1;
    match settle(round, query, n_lists, n_repeats, record, &mut ask) {
        // Of codes alone nobody takes lists.
        Err(Stop::Gpu(error)) if !codes_alone && takes_lists(&error) => {
            Ok(Some(Answer::Refused(error)))
        }
        Err(stop) => Err(stop),
        Ok(Some(nearest)) => {
            lacks.behind = nearest.behind;
            tier.look_after(lacks, nearest.lists.len(), record);
            Ok(Some(Answer::Found(nearest)))
        }
        Ok(None) => {
            let what = "lists change faster than the GPU service can be told";
            Err(GpuError::Other(what.into()).into())
        }
    }
}

/// The service's answer, without what has died since. `None`: it has searched lists, now `stale`, that it has otherwise than the index, so that its
/// answer is of no use. What it lacks is in `lacks`.
fn current(
    round: &Round,
    mut parts: Vec<Part>,
    stale: &mut Vec<StaleList>,
    lacks: &mut Lacks,
) -> Result<Option<Asked>, Stop> {
    let Round { pages, index, .. } = *round;
    let answer = parts.pop().and_then(|mut part| {
        let query = part.queries.pop()?;
        Some((part.lists, query))
    });
    let Some((chosen, mut query)) = answer else {
        return Err(GpuError::Other("no answer to a query".into()).into());
    };
    check_lists(&chosen, index)?;
    // Not before the device has searched. Of a list that has not changed since it was loaded, no page need be looked at, unless its rows are there alone.
    let has_rows = matches!(query.told, Told::Entries { .. });
    let is_unchanged = |chosen: &&ChosenList| {
        has_rows && is_searched(chosen) && chosen.appended.is_all(pages, chosen.list)
    };
    let (unchanged, rest): (Vec<&ChosenList>, Vec<_>) = chosen.iter().partition(is_unchanged);
    let numbers: Vec<u32> = rest.iter().map(|chosen| chosen.list).collect();
    let entries = read_entries(pages, index, &numbers)?;
    let began = Instant::now();
    let both = || rest.iter().copied().zip(&entries);
    let outdated = both().filter_map(|(chosen, entry)| out_of_date(chosen, entry));
    *stale = outdated.collect();
    let mut n_thinned = 0;
    if !stale.is_empty() {
        let Told::Entries { found, .. } = &mut query.told else {
            return Ok(None);
        };
        let thinned = Thinned::of(both());
        n_thinned = thinned.n();
        if n_thinned < stale.len() || !thinned.leave_out_dead(round, found)? {
            return Ok(None);
        }
        stale.clear();
    }
    let checked = began.elapsed();
    let n_stale = chosen.iter().filter(|c| is_known_stale(c)).count();
    *lacks = Lacks {
        n_stale,
        n_absent: chosen.iter().filter(|c| !is_searched(c)).count() - n_stale,
        n_thinned,
        behind: Behind::default(),
    };
    let looked_up = |(chosen, entry): (&ChosenList, &ListEntry)| LookedUp {
        list: chosen.list,
        entry: *entry,
        searched: is_searched(chosen).then_some(chosen.appended),
    };
    let n_slots = |chosen: &ChosenList| u64::from(chosen.n_slots);
    let n_unchanged: u64 = unchanged.iter().map(|l| u64::from(l.n_live)).sum();
    Ok(Some(Asked {
        found: query.on_device(&SlotPlaces::new(&chosen))?,
        n_slots: chosen.iter().map(n_slots).sum(),
        n_entries: n_unchanged + entries_of(&entries),
        looked_up: both().map(looked_up).collect(),
        lists: chosen.iter().map(|chosen| chosen.list).collect(),
        checked,
    }))
}
