//! A round of one query, over the lists nearest to it, which the service chooses, or over lists that are given.

use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_gpu::params::QueryBound;
use omen_ivf::coarse::Probe;
use omen_ivf::index::{Index, read_entries};
use omen_ivf::probes::Reach;
use omen_ivf::query::Query;
use omen_ivf::topk::TopK;
use omen_service::message::{Request, StaleList};

use super::{MAX_ASKED, Part, Tier, check_lists, is_known_stale, is_searched, out_of_date};
use crate::engine::fallback::Attempt;
use crate::engine::lists::entries_of;
use crate::engine::nearest::{Nearest, takes_lists};
use crate::engine::pages::{scan_all_appended, scan_stale, unranked};
use crate::engine::service_tiers::Lacks;
use crate::engine::stats::ScanRecord;
use crate::engine::tiers::Stop;
use crate::engine::{choice, heat, merge};
use crate::gpu_service::Service;
use crate::gpu_service::session::Questions;
use crate::guc::{self, EngineSetting};
use crate::storage::IndexPages;

/// Which lists are searched.
#[derive(Clone, Copy)]
pub(in crate::engine) enum Which<'a> {
    /// The nearest, which the device chooses.
    Nearest(Reach),
    /// These.
    Given(&'a [Probe]),
}

/// A round of one query.
#[derive(Clone, Copy)]
pub(in crate::engine) struct OneRequest<'a> {
    /// The index's pages.
    pub pages: &'a IndexPages,
    /// The index.
    pub index: &'a Index,
    /// Which lists to search.
    pub which: Which<'a>,
    /// How many candidates are wanted.
    pub k: usize,
    /// Whether only hard bounds may rule entries out.
    pub exact: bool,
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
    request: &OneRequest,
    query: &mut Query,
    record: &mut ScanRecord,
) -> Attempt<Answer> {
    let OneRequest {
        pages,
        index,
        which,
        k,
        ..
    } = *request;
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
    tier.queries_of_message(k, n_lists, lists.len())?;
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
    let asked = Request {
        probes: reach.probes,
        k: k as u32,
        spread: reach.spread,
        rounding: query.bound().rounding(),
        ..Request::default()
    };
    let began = Instant::now();
    let mut stale = Vec::new();
    for _ in 0..MAX_ASKED {
        let sent = Instant::now();
        let questions = Questions {
            request: asked,
            lists: &lists,
            stale: &stale,
            in_message: 1,
            timeout: guc::gpu_timeout(),
        };
        let (parts, outcome) = tier.ask(&questions, 1, &mut |_, vector, bound| {
            vector.copy_from_slice(query.vector());
            bound.fill(QueryBound::from(query.bound()));
        });
        record.gpu += sent.elapsed();
        match outcome {
            Err(Stop::Gpu(error)) if takes_lists(&error) => {
                return Ok(Some(Answer::Refused(error)));
            }
            outcome => outcome?,
        }
        match complete(request, query, parts, record)? {
            Completed::Found {
                nearest,
                stale_time,
                lacks,
            } => {
                choice::note_gpu(file, nearest.lists.len(), began.elapsed(), stale_time);
                tier.look_after(lacks, nearest.lists.len(), record)?;
                return Ok(Some(Answer::Found(nearest)));
            }
            Completed::OutOfDate(lists) => stale = lists,
        }
    }
    Err(GpuError::Other("lists change faster than the GPU service can be told".into()).into())
}

/// What became of an answer.
enum Completed {
    /// It counts.
    Found {
        nearest: Nearest,
        /// What lists took that the device does not have, or has of old; and how many they are.
        stale_time: Duration,
        lacks: Lacks,
    },
    /// These lists have other generations than the tier.
    OutOfDate(Vec<StaleList>),
}

/// Adds to an answer what pages hold beside it.
fn complete(
    request: &OneRequest,
    query: &mut Query,
    mut parts: Vec<Part>,
    record: &mut ScanRecord,
) -> Result<Completed, Stop> {
    let OneRequest {
        pages,
        index,
        k,
        exact,
        ..
    } = *request;
    let began = Instant::now();
    let answer = parts.pop().and_then(|mut part| {
        let query = part.queries.pop()?;
        Some((part.lists, query.candidates))
    });
    let Some((chosen, on_device)) = answer else {
        return Err(GpuError::Other("no answer to a query".into()).into());
    };
    check_lists(&chosen, index)?;
    let lists: Vec<u32> = chosen.iter().map(|chosen| chosen.list).collect();
    // Not before the device has searched.
    let entries = read_entries(pages, index, &lists)?;
    let both = || chosen.iter().zip(&entries);
    let stale: Vec<StaleList> = both()
        .filter_map(|(chosen, entry)| out_of_date(chosen, entry))
        .collect();
    if !stale.is_empty() {
        return Ok(Completed::OutOfDate(stale));
    }
    let fresh = both()
        .filter(|(chosen, _)| is_searched(chosen))
        .map(|(chosen, entry)| (chosen.list, entry));
    let mut top = TopK::new(k);
    if !scan_all_appended(pages, index, query, fresh, &mut top, record)? {
        // A list is being rewritten: its new generations will show.
        return Ok(Completed::OutOfDate(Vec::new()));
    }
    heat::note(pages, index, lists.iter().copied());
    let n_slots: u64 = chosen.iter().map(|l| u64::from(l.n_slots)).sum();
    record.candidates += n_slots;
    record.reranked += n_slots;
    let absent = chosen.iter().filter(|chosen| !is_searched(chosen));
    let absent: Vec<u32> = absent.map(|chosen| chosen.list).collect();
    let n_stale = chosen.iter().filter(|c| is_known_stale(c)).count();
    let stale_time = scan_stale(pages, index, query, &absent, exact, &mut top, record)?;
    record.cpu += began.elapsed();
    Ok(Completed::Found {
        nearest: Nearest {
            n_entries: entries_of(&entries),
            lists: lists.into_iter().map(unranked).collect(),
            is_ranked: false,
            found: merge(on_device, top.into_candidates()),
        },
        stale_time,
        lacks: Lacks {
            n_stale,
            n_absent: absent.len() - n_stale,
        },
    })
}
