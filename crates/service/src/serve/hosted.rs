//! A tier of the server, and what the server knows of it.

use crate::message::{ChosenList, STALE, StaleList, TierKey};
use omen_gpu::memory::{Parts, TierPlan, with_room};
use omen_gpu::{BatchFound, Tier, TierList};
use std::ops::Range;
use std::time::Instant;

/// A tier of the server.
pub(super) struct Hosted {
    pub(super) tier: Tier,
    /// No other tier has had it, nor this one before its last refresh.
    pub(super) number: u64,
    /// `[n_lists]`: lists that have changed since they were loaded.
    is_stale: Vec<bool>,
    /// The same, by number.
    pub(super) stale: Vec<u32>,
    pub(super) last_used: Instant,
    pub(super) n_requests: u64,
    /// Whether other processes may have it mapped.
    pub(super) is_exported: bool,
}

/// The lists of some queries.
pub(super) struct Chosen {
    /// Each once.
    pub(super) lists: Vec<ChosenList>,
    /// Of each query the places of its lists among those; `None`: all are everybody's.
    pub(super) places: Option<Vec<Vec<u32>>>,
}

/// What a tier costs and is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierUse {
    /// Which tier.
    pub key: TierKey,
    /// No other tier has had it, nor this one before its last refresh.
    pub number: u64,
    /// Bytes of device memory.
    pub bytes: u64,
    /// When it was searched last, or inserted.
    pub last_used: Instant,
    /// Queries answered from it.
    pub n_requests: u64,
    /// Lists it holds.
    pub n_lists: usize,
    /// Those of them that are not searched any more.
    pub n_stale: usize,
    /// Of a tier of codes alone, the bytes that it would take with rows, and with room for lists to be refreshed.
    pub bytes_with_rows: Option<u64>,
}

impl Hosted {
    pub(super) fn new(tier: Tier, number: u64) -> Self {
        Self {
            number,
            is_stale: vec![false; tier.lists().len()],
            stale: Vec::new(),
            last_used: Instant::now(),
            n_requests: 0,
            is_exported: false,
            tier,
        }
    }

    pub(super) fn usage(&self, key: TierKey) -> TierUse {
        TierUse {
            key,
            number: self.number,
            bytes: self.tier.bytes(),
            last_used: self.last_used,
            n_requests: self.n_requests,
            n_lists: self.tier.lists().iter().flatten().count(),
            n_stale: self.stale.len(),
            bytes_with_rows: self.bytes_with_rows(),
        }
    }

    fn bytes_with_rows(&self) -> Option<u64> {
        if self.tier.parts().rows() {
            return None;
        }
        let (spec, lists) = (self.tier.spec(), self.tier.lists().iter().flatten());
        let n_slots: u64 = lists.map(|list| u64::from(list.n_slots)).sum();
        let n_slots = with_room(n_slots, spec.n_lists);
        let plan = TierPlan::new(&spec, Parts::RowsAndCodes, n_slots);
        Some(plan.map_or(u64::MAX, |plan| plan.bytes_needed()))
    }

    /// Takes over lists that were written, and a new number; how many are new. `None`: they do not fit.
    pub(super) fn refresh(&mut self, lists: Vec<Option<TierList>>, number: u64) -> Option<usize> {
        let before = self.tier.lists().to_vec();
        self.tier.end_refresh(lists).ok()?;
        self.number = number;
        let mut n_new = 0;
        for (at, (old, new)) in before.iter().zip(self.tier.lists()).enumerate() {
            if old.map(TierList::without_version) != new.map(TierList::without_version) {
                n_new += 1;
                self.is_stale[at] = false;
            }
        }
        let is_stale = &self.is_stale;
        self.stale.retain(|&list| is_stale[list as usize]);
        Some(n_new)
    }

    /// Lists that the index has in a later state than the tier are not searched any more. (Generations only rise; what a session has seen may be
    /// older than a refresh.)
    pub(super) fn note_stale(&mut self, lists: &[StaleList]) {
        // A copy: what the slot says later does not count.
        for &seen in lists {
            let at = seen.list as usize;
            let Some(Some(here)) = self.tier.lists().get(at) else {
                continue;
            };
            let is_above = |seen: u32, here: u32| seen.wrapping_sub(here) as i32 > 0;
            let appended = &here.appended;
            let is_later = is_above(seen.layout_gen, here.layout_gen)
                || seen.layout_gen == here.layout_gen
                    && (is_above(seen.delete_gen, here.delete_gen)
                        || appended.n_records > 0
                            && is_above(seen.append_delete_gen, appended.delete_gen));
            if is_later && !self.is_stale[at] {
                self.is_stale[at] = true;
                self.stale.push(seen.list);
            }
        }
    }

    /// Those of `lists` that are searched here.
    pub(super) fn only_here(&self, lists: &[u32]) -> Vec<u32> {
        let is_here = |list: &u32| {
            self.tier.lists()[*list as usize].is_some() && !self.is_stale[*list as usize]
        };
        lists.iter().copied().filter(is_here).collect()
    }

    /// Lists that were given, and what was searched of them.
    pub(super) fn given(&self, lists: &[u32]) -> Chosen {
        Chosen {
            lists: lists.iter().map(|&list| self.searched(list)).collect(),
            places: None,
        }
    }

    /// The lists of some queries of a batch, and what was searched of them.
    pub(super) fn chosen(&self, found: &BatchFound, queries: Range<usize>) -> Chosen {
        let n_lists = self.tier.lists().len();
        // If nothing was chosen, everything was searched.
        let is_all = found.n_probes.is_empty()
            || queries.len() > 1
                && found.n_probes[queries.clone()]
                    .iter()
                    .all(|&n| n as usize == n_lists);
        if is_all {
            let lists = (0..n_lists as u32).map(|list| self.searched(list));
            return Chosen {
                lists: lists.collect(),
                places: None,
            };
        }
        let of_query = |q: usize| &found.lists[q * found.probes..][..found.n_probes[q] as usize];
        if queries.len() == 1 {
            let lists = of_query(queries.start).iter();
            return Chosen {
                lists: lists.map(|&list| self.searched(list)).collect(),
                places: None,
            };
        }
        const NOWHERE: u32 = u32::MAX;
        let (mut place_of, mut lists) = (vec![NOWHERE; n_lists], Vec::new());
        let mut place = |list: u32| {
            let place = &mut place_of[list as usize];
            if *place == NOWHERE {
                *place = lists.len() as u32;
                lists.push(self.searched(list));
            }
            *place
        };
        let places = queries
            .map(|q| of_query(q).iter().map(|&list| place(list)).collect())
            .collect();
        Chosen {
            places: Some(places),
            lists,
        }
    }

    /// What is searched of a list.
    fn searched(&self, list: u32) -> ChosenList {
        let at = list as usize;
        let here = self.tier.lists().get(at).copied().flatten();
        match here.filter(|_| !self.is_stale[at]) {
            None => ChosenList {
                list,
                delete_gen: if here.is_some() { STALE } else { 0 },
                ..ChosenList::default()
            },
            Some(l) => ChosenList {
                list,
                layout_gen: l.layout_gen,
                delete_gen: l.delete_gen,
                n_slots: l.n_slots,
                n_live: l.n_live,
                first_slot: l.first_slot,
                appended: l.appended,
            },
        }
    }
}
