//! A tier of the server, and what the server knows of it.

use crate::message::{ChosenList, STALE, StaleList, TierKey};
use omen_gpu::{BatchFound, Tier, TierList};
use std::time::Instant;

/// A tier of the server.
pub(super) struct Hosted {
    pub(super) tier: Tier,
    /// No other tier has had it.
    pub(super) number: u64,
    /// `[n_lists]`: lists that have changed since they were loaded.
    is_stale: Vec<bool>,
    /// The same, by number.
    pub(super) stale: Vec<u32>,
    pub(super) last_used: Instant,
    pub(super) n_requests: u64,
    /// Lists that the tier holds.
    n_lists: usize,
}

/// What a tier costs and is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierUse {
    /// Which tier.
    pub key: TierKey,
    /// Bytes of device memory.
    pub bytes: u64,
    /// When it was searched last, or inserted.
    pub last_used: Instant,
    /// Requests answered from it.
    pub n_requests: u64,
    /// Lists it holds.
    pub n_lists: usize,
    /// Those of them that are not searched any more.
    pub n_stale: usize,
}

impl Hosted {
    pub(super) fn new(tier: Tier, number: u64) -> Self {
        Self {
            number,
            is_stale: vec![false; tier.lists().len()],
            stale: Vec::new(),
            last_used: Instant::now(),
            n_requests: 0,
            n_lists: tier.lists().iter().flatten().count(),
            tier,
        }
    }

    pub(super) fn usage(&self, key: TierKey) -> TierUse {
        TierUse {
            key,
            bytes: self.tier.bytes(),
            last_used: self.last_used,
            n_requests: self.n_requests,
            n_lists: self.n_lists,
            n_stale: self.stale.len(),
        }
    }

    /// Takes over lists that were written; how many are new. `None`: they do not fit.
    pub(super) fn refresh(&mut self, lists: Vec<Option<TierList>>) -> Option<usize> {
        let before = self.tier.lists().to_vec();
        self.tier.end_refresh(lists).ok()?;
        let mut n_new = 0;
        for (at, (old, new)) in before.iter().zip(self.tier.lists()).enumerate() {
            if old != new {
                n_new += 1;
                self.is_stale[at] = false;
            }
        }
        let is_stale = &self.is_stale;
        self.stale.retain(|&list| is_stale[list as usize]);
        Some(n_new)
    }

    /// Lists that the tier has in another state than the index are not searched any more.
    pub(super) fn note_stale(&mut self, lists: &[StaleList]) {
        for seen in lists {
            let at = seen.list as usize;
            let Some(Some(_)) = self.tier.lists().get(at) else {
                continue;
            };
            let is_current = self
                .tier
                .is_current(seen.list, seen.layout_gen, seen.delete_gen);
            if !is_current && !self.is_stale[at] {
                self.is_stale[at] = true;
                self.stale.push(seen.list);
            }
        }
    }

    /// The lists of query `q`, and what was searched of them.
    pub(super) fn chosen(&self, found: &BatchFound, q: usize) -> Vec<ChosenList> {
        let lists = self.tier.lists();
        let of = |list: u32| {
            let at = list as usize;
            let here = lists.get(at).copied().flatten();
            let searched = here.filter(|_| !self.is_stale[at]);
            searched.map_or(
                ChosenList {
                    list,
                    delete_gen: if here.is_some() { STALE } else { 0 },
                    ..ChosenList::default()
                },
                |l| ChosenList {
                    list,
                    layout_gen: l.layout_gen,
                    delete_gen: l.delete_gen,
                    n_slots: l.n_slots,
                },
            )
        };
        match found.n_probes.get(q) {
            Some(&n) => found.lists[q * found.probes..][..n as usize]
                .iter()
                .map(|list| of(*list))
                .collect(),
            // Everything was searched: nothing was chosen.
            None => (0..lists.len() as u32).map(of).collect(),
        }
    }
}
