//! Twin of `plan_count`, `plan_items`, `plan_scatter`.

use crate::params::{ListSlots, ScanItem};

/// One round: which pairs are in it, by list, and the items they make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// Query numbers, by list (within a list in any order).
    pub group: Vec<u32>,
    /// The pairs' numbers, query * probes + place, likewise.
    pub pairs: Vec<u32>,
    /// Items; `first_query` counts from the beginning of `group`.
    pub items: Vec<ScanItem>,
}

/// Plans a round of the pairs that `wanted(query, place)` tells. `lists`: `[n_queries, probes]`.
pub fn plan_round(
    lists: &[u32],
    probes: usize,
    slots: &[ListSlots],
    tile_rows: u32,
    width: u32,
    wanted: impl Fn(usize, usize) -> bool,
) -> Round {
    let mut by_list: Vec<Vec<u32>> = vec![Vec::new(); slots.len()];
    for (pair, &list) in lists.iter().enumerate() {
        if wanted(pair / probes, pair % probes) {
            by_list[list as usize].push(pair as u32);
        }
    }
    let mut round = Round::default();
    for (pairs, slots) in by_list.iter().zip(slots) {
        let first_query = round.group.len() as u32;
        round
            .group
            .extend(pairs.iter().map(|&pair| pair / probes as u32));
        round.pairs.extend(pairs);
        for row in (0..slots.n_slots).step_by(tile_rows as usize) {
            for query in (0..pairs.len() as u32).step_by(width as usize) {
                round.items.push(ScanItem {
                    first_slot: slots.first_slot + row,
                    first_row: row,
                    first_query: first_query + query,
                    n_rows: tile_rows.min(slots.n_slots - row) as u16,
                    n_queries: width.min(pairs.len() as u32 - query) as u16,
                });
            }
        }
    }
    round
}
