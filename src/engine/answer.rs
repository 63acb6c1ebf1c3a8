//! What a device answers to a query, be it this session's or the shared service's, and what pages hold beside it.

use std::time::{Duration, Instant};

use omen_gpu::{BatchFound, Tier, candidates_from};
use omen_ivf::index::Index;
use omen_ivf::query::Query;
use omen_ivf::scan_list::Served;
use omen_ivf::topk::{Candidates, TopK};

use super::merge;
use super::named_slots::NamedSlots;
use super::pages::{scan_all_appended, scan_stale};
use super::stats::ScanRecord;
use super::tiers::Stop;
use crate::storage::IndexPages;

/// Why a tier of codes alone does not answer an exact search.
pub(super) const EXACT_BY_CODES: &str = "an exact search by codes alone";

/// A round of a search, whichever lists it visits.
#[derive(Clone, Copy)]
pub(super) struct Round<'a> {
    /// The index's pages.
    pub pages: &'a IndexPages,
    /// The index.
    pub index: &'a Index,
    /// How many candidates are wanted.
    pub k: usize,
    /// Whether only hard bounds may rule entries out.
    pub exact: bool,
}

/// What a device found for a query.
pub(super) enum OnDevice {
    /// The nearest entries.
    Entries(Candidates),
    /// Entries that may be: it has codes alone.
    Named(NamedSlots),
}

impl OnDevice {
    /// What `tier` found for query number `q` of `found`.
    pub(super) fn of_tier(tier: &Tier, found: &BatchFound, q: usize) -> Result<Self, Stop> {
        Ok(if tier.parts().rows() {
            Self::Entries(candidates_from(found.of(q), found.heads[q].frontier))
        } else {
            Self::Named(NamedSlots::of_tier(tier, found, q)?)
        })
    }

    /// Whether these are slots.
    pub(super) fn is_named(&self) -> bool {
        matches!(self, Self::Named(_))
    }

    /// Whether the query was not answered at all.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Named(named) if named.is_lost())
    }
}

/// The lists of a query by who has their frozen part.
#[derive(Default)]
pub(super) struct Lists<'a> {
    /// The device, which has searched them.
    pub searched: Vec<Served<'a>>,
    /// The pages alone: lists that the device lacks, or has of old.
    pub absent: Vec<u32>,
}

impl Lists<'_> {
    /// Whether pages hold anything beside what the device has searched.
    pub(super) fn want_pages(&self, round: &Round) -> bool {
        !self.absent.is_empty()
            || self
                .searched
                .iter()
                .any(|list| list.may_lack(round.pages, round.index))
    }
}

/// A device's answer with what pages hold beside it.
pub(super) struct Completed {
    pub found: Candidates,
    /// Appended entries that were looked at because the device lacks them, none for codes alone, which never have any; and how long that took.
    pub n_appended: u64,
    pub appended_time: Duration,
}

/// Adds to what a device found what pages hold beside it, and to `stale_time` what lists took that it has not. `None`: a list was rewritten
/// meanwhile, and has appended entries where the device lacks them.
pub(super) fn complete(
    round: &Round,
    query: &mut Query,
    found: OnDevice,
    lists: &Lists,
    stale_time: &mut Duration,
    record: &mut ScanRecord,
) -> Result<Option<Completed>, Stop> {
    let Round {
        pages,
        index,
        k,
        exact,
    } = *round;
    let Lists { searched, absent } = lists;
    let mut top = TopK::new(k);
    if let OnDevice::Entries(found) = &found {
        // Beyond its frontier nothing is kept that pages hold.
        top.lower_threshold(found.frontier);
    }
    let began = Instant::now();
    let scanned = scan_all_appended(pages, index, query, searched, &mut top, record)?;
    let Some(n_appended) = scanned else {
        return Ok(None);
    };
    let appended_time = began.elapsed();
    let entries = match found {
        OnDevice::Entries(entries) => Some(entries),
        OnDevice::Named(named) => {
            named.rerank(round, query, searched, &mut top, record)?;
            None
        }
    };
    *stale_time += scan_stale(pages, index, query, absent, exact, &mut top, record)?;
    let on_pages = top.into_candidates();
    Ok(Some(Completed {
        n_appended: if entries.is_some() { n_appended } else { 0 },
        found: match entries {
            Some(entries) => merge(entries, on_pages),
            None => on_pages,
        },
        appended_time,
    }))
}
