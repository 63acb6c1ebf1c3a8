//! Rounds that the shared service answers, whose tiers are another process's.
//!
//! Freshness: an answer says of each list which generations the tier has it with; those of the directory, read after the answer, must be the
//! same, for the reasons that `nearest/device.rs` gives. Of lists in which entries have died since, the dead ones are left out (`thinned.rs`). Lists
//! that were rewritten are told to the service, which skips them from then on, and what they spoilt is asked for once more.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | whether the service is to answer; asking it |
//! | `one.rs` | a round of one query |
//! | `many.rs` | a round of many queries |
//! | `thinned.rs` | what has died since the service's tier was brought up to date |

pub(super) mod many;
pub(super) mod one;
mod thinned;

use std::time::{Duration, Instant};

use omen_gpu::batch::codes::named_for;
use omen_gpu::params::Found;
use omen_gpu::{GpuError, NearSlot, candidates_from};
use omen_ivf::index::Index;
use omen_ivf::layout::directory::ListEntry;
use omen_service::message::{
    Answer, AnswerView, ChosenList, MAX_QUERIES, Refusal, Request, STALE, SlotPlaces, StaleList,
    TierKey,
};

use super::answer::{EXACT_BY_CODES, OnDevice};
use super::gpu::uninterrupted;
use super::named_slots::NamedSlots;
use super::service_tiers::{self, Lacks};
use super::stats::ScanRecord;
use super::tiers::Stop;
use crate::error::PgError;
use crate::gpu_service::Service;
use crate::gpu_service::loading::Fit;
use crate::gpu_service::session::{self, Fill, Questions};
use crate::guc::EngineSetting;
use crate::storage::IndexPages;

/// Where the GPU is enforced, a search waits so long for loads of other indexes.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// So often a search is asked for again because lists were out of date.
const MAX_ASKED: usize = 3;

/// An index and its tier in the service.
struct Tier<'a> {
    service: &'a Service,
    pages: &'a IndexPages,
    index: &'a Index,
    key: TierKey,
}

/// What the service answered to one message.
struct Part {
    /// Lists of its queries, each once, as the tier has them.
    lists: Vec<ChosenList>,
    /// Whether slots are what was found.
    names_slots: bool,
    queries: Vec<OfQuery>,
}

/// The answer to one query.
struct OfQuery {
    told: Told,
    /// Places of its lists among those of the part; `None`: all of them.
    places: Option<Vec<u32>>,
}

/// What the device found.
#[derive(Clone)]
enum Told {
    Entries {
        found: Vec<Found>,
        frontier: f32,
    },
    /// Slots of a tier of codes alone.
    Slots {
        named: Vec<NearSlot>,
        frontier: f32,
        is_lost: bool,
    },
}

impl OfQuery {
    /// What the device found, in lists of which `slots` says where they are.
    fn on_device(&self, slots: &SlotPlaces<'_>) -> Result<OnDevice, Stop> {
        Ok(match &self.told {
            Told::Entries { found, frontier } => {
                OnDevice::Entries(candidates_from(found, *frontier))
            }
            Told::Slots {
                named,
                frontier,
                is_lost,
            } => {
                let (named, place_of) = (named.iter().copied(), |slot| slots.place_of(slot));
                OnDevice::Named(NamedSlots::new(named, *frontier, *is_lost, place_of)?)
            }
        })
    }
}

impl<'a> Tier<'a> {
    fn new(service: &'a Service, pages: &'a IndexPages, index: &'a Index) -> Self {
        Self {
            service,
            pages,
            index,
            key: service_tiers::key_of(pages, index),
        }
    }

    /// How many queries a message may have, for `k` candidates from `n_lists` lists each, of which `n_given` are given. Error: not even one.
    fn queries_of_message(&self, k: usize, n_lists: usize, n_given: usize) -> Result<usize, Stop> {
        let room = self.service.queue.slot_bytes();
        let (words, all_lists) = (self.index.query_words(), self.index.n_lists() as usize);
        let (n_found, found_bytes, what) = if self.has_codes_alone() {
            let n_named = named_for(k)?;
            (n_named, size_of::<NearSlot>(), "slots by codes alone")
        } else {
            (k, size_of::<Found>(), "candidates")
        };
        let found_bytes = n_found.saturating_mul(found_bytes);
        let fits = |&n: &usize| {
            Request::bytes(n, words, n_given, 0) <= room
                && Answer::bytes(n, found_bytes, n_lists, all_lists) <= room
        };
        (1..=MAX_QUERIES).rev().find(fits).ok_or_else(|| {
            let what = format!("an answer of {n_found} {what} and {n_lists} lists");
            GpuError::Unsupported(what).into()
        })
    }

    /// Whether such a round is for the service; one that fits no message is not where the tier is not there either. Error: it does not fit.
    fn takes(
        &self,
        setting: EngineSetting,
        k: usize,
        n_lists: usize,
        n_given: usize,
    ) -> Result<bool, Stop> {
        let is_there = || self.service.control.has_tier(&self.key);
        match self.queries_of_message(k, n_lists, n_given) {
            Err(_) if setting == EngineSetting::Auto && !is_there() => Ok(false),
            outcome => outcome.map(|_| true),
        }
    }

    /// Whether the tier is there, and has codes alone: its answers say so too.
    fn has_codes_alone(&self) -> bool {
        self.service.control.has_codes_alone(&self.key)
    }

    /// Codes may err: an exact search of codes alone is refused.
    fn check_exact(&self, exact: bool) -> Result<(), Stop> {
        if exact && self.has_codes_alone() {
            return Err(GpuError::Unsupported(EXACT_BY_CODES.into()).into());
        }
        Ok(())
    }

    /// Whether the service is to answer: it has the tier, which may have to be loaded, and `prefers_gpu` says so where it is free to say. The
    /// argument of that is whether few sessions search. `to_come`: seconds that the CPU would take beyond what it has taken. `before_load` is
    /// called before this session loads the tier.
    fn is_to_answer(
        &self,
        setting: EngineSetting,
        to_come: f64,
        prefers_gpu: impl FnOnce(bool) -> bool,
        before_load: impl FnOnce() -> Result<(), PgError>,
        record: &mut ScanRecord,
    ) -> Result<bool, Stop> {
        let Self {
            service,
            pages,
            index,
            key,
        } = self;
        if !service.control.has_tier(key) {
            if !service_tiers::wants_loading(service, setting, pages, index, to_come) {
                return Ok(false);
            }
            // An enforced GPU waits for it.
            if setting == EngineSetting::Auto
                && service_tiers::leaves_loading(service, pages, index)?
            {
                return Ok(false);
            }
            before_load()?;
            let began = Instant::now();
            let wait = match setting {
                EngineSetting::Gpu => LONGEST_WAIT,
                _ => Duration::ZERO,
            };
            let fit = Fit::Best;
            let outcome = service_tiers::load_in_turn(service, pages, index, key, fit, false, wait);
            record.load += began.elapsed();
            outcome?;
        }
        Ok(setting != EngineSetting::Auto || prefers_gpu(session::few_search(service)))
    }

    /// Asks for `n_queries` queries, which `fill` writes; their answers, in order. If not all were answered, the first, and the reason.
    fn ask(
        &self,
        questions: &Questions,
        n_queries: usize,
        fill: &mut Fill,
    ) -> (Vec<Part>, Result<(), Stop>) {
        let questions = Questions {
            request: Request {
                key: self.key,
                words: self.index.query_words() as u32,
                ..questions.request
            },
            ..*questions
        };
        let (mut parts, mut n_answered) = (Vec::new(), 0);
        let outcome = uninterrupted(|_| {
            let left = n_answered..n_queries;
            let mut take = |answer: &AnswerView| {
                let queries = answer.each().map(|query| OfQuery {
                    told: if answer.names_slots() {
                        Told::Slots {
                            named: query.named.to_vec(),
                            frontier: query.frontier,
                            is_lost: query.is_lost,
                        }
                    } else {
                        Told::Entries {
                            found: query.found.to_vec(),
                            frontier: query.frontier,
                        }
                    },
                    places: query.places.map(<[u32]>::to_vec),
                });
                let part = Part {
                    lists: answer.lists.to_vec(),
                    names_slots: answer.names_slots(),
                    queries: queries.collect(),
                };
                n_answered += part.queries.len();
                parts.push(part);
            };
            session::ask(self.service, &questions, left, fill, &mut take).map_err(|refusal| {
                match refusal {
                    Refusal::NotLoaded => GpuError::Other(refusal.to_string()),
                    Refusal::Down => GpuError::Lost(refusal.to_string()),
                    Refusal::Gpu(error) => error,
                }
            })
        });
        (parts, outcome)
    }

    /// Has the tier brought up to date of which a search of `n_lists` lists lacked some.
    fn look_after(&self, lacks: Lacks, n_lists: usize, record: &mut ScanRecord) {
        let (service, key, lacks) = (self.service, &self.key, (lacks, n_lists));
        service_tiers::load_again(service, self.pages, self.index, key, lacks, record);
    }
}

/// Whether the device has searched a list: those it lacks have no generation.
fn is_searched(chosen: &ChosenList) -> bool {
    chosen.layout_gen != 0
}

/// Whether the device has a list out of date, and knows it.
fn is_known_stale(chosen: &ChosenList) -> bool {
    !is_searched(chosen) && chosen.delete_gen == STALE
}

/// If the device has searched a list that is not, by its directory entry, as its tier has it: what to tell the service.
fn out_of_date(chosen: &ChosenList, entry: &ListEntry) -> Option<StaleList> {
    (is_searched(chosen) && !is_current(chosen, entry)).then(|| StaleList::new(chosen.list, entry))
}

/// Whether a list is as the device has it, but for what was appended since.
fn is_current(chosen: &ChosenList, entry: &ListEntry) -> bool {
    let there = (chosen.layout_gen, chosen.delete_gen);
    there == (entry.layout_gen, entry.delete_gen) && chosen.appended.is_current(entry)
}

/// Refuses an answer that names lists which the index does not have.
fn check_lists(lists: &[ChosenList], index: &Index) -> Result<(), Stop> {
    if lists.iter().any(|chosen| chosen.list >= index.n_lists()) {
        return Err(GpuError::Other("the service names lists that are not there".into()).into());
    }
    Ok(())
}
