//! Lists of which the service's tier has entries that have died since: what it found in them is good, but for those. Which they are, the index's
//! pages say; for these are as many lists as VACUUM has been at since the last refresh, and of a few results fewer still are from them.
//!
//! A tid may be another row's by now: VACUUM lets the table have it only after the entry was marked dead, so that whoever finds the entry live
//! after its snapshot was taken has the row that the entry was made for, or none.

use omen_gpu::params::Found;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::ListReader;
use omen_service::message::{ChosenList, SlotPlaces};

use super::{is_current, is_searched};
use crate::engine::answer::Round;
use crate::engine::tiers::Stop;

/// If more than one in so many of the results have died, the list is searched on pages until it is brought up to date.
const DEAD_SHARE: usize = 2;

/// Whether of a list that the device has searched nothing has changed but that entries have died.
pub(super) fn is_thinned(chosen: &ChosenList, entry: &ListEntry) -> bool {
    is_searched(chosen) && chosen.layout_gen == entry.layout_gen && !is_current(chosen, entry)
}

/// The thinned ones of some lists that a device has searched.
pub(super) struct Thinned<'a> {
    /// By number, with their directory entries.
    lists: Vec<(&'a ChosenList, &'a ListEntry)>,
    places: SlotPlaces<'a>,
}

impl<'a> Thinned<'a> {
    /// Of `lists`, each once.
    pub(super) fn of(lists: impl Iterator<Item = (&'a ChosenList, &'a ListEntry)>) -> Self {
        let mut lists: Vec<_> = lists.filter(|(chosen, e)| is_thinned(chosen, e)).collect();
        lists.sort_unstable_by_key(|(chosen, _)| chosen.list);
        Self {
            places: SlotPlaces::new(lists.iter().map(|(chosen, _)| *chosen)),
            lists,
        }
    }

    /// How many there are.
    pub(super) fn n(&self) -> usize {
        self.lists.len()
    }

    fn entry_of(&self, list: u32) -> Option<&'a ListEntry> {
        let at = self
            .lists
            .binary_search_by_key(&list, |(chosen, _)| chosen.list);
        at.ok().map(|at| self.lists[at].1)
    }

    /// Leaves out of what the device found what has died since in these lists. `false`: that cannot be told, or so much has died that they are
    /// better not searched by the device.
    pub(super) fn leave_out_dead(
        &self,
        round: &Round,
        found: &mut Vec<Found>,
    ) -> Result<bool, Stop> {
        // Of each result in such a list: list, slot there, and its place among the results.
        let mut asked: Vec<(u32, u32, usize)> = (0..)
            .zip(found.iter())
            .filter_map(|(at, found)| {
                let (list, slot) = self.places.place_of(found.slot)?;
                Some((list, slot, at))
            })
            .collect();
        asked.sort_unstable();
        let (mut reader, mut dead) = (ListReader::new(), Vec::new());
        for of_list in asked.chunk_by(|a, b| a.0 == b.0) {
            let list = of_list[0].0;
            let slots: Vec<u32> = of_list.iter().map(|(_, slot, _)| *slot).collect();
            let live = match self.entry_of(list) {
                Some(entry) => reader.are_live(round.pages, round.index, list, entry, &slots)?,
                None => None,
            };
            let Some(live) = live else {
                return Ok(false);
            };
            let died = of_list.iter().zip(live).filter(|(_, is_live)| !is_live);
            dead.extend(died.map(|((_, _, at), _)| *at));
        }
        if dead.len() * DEAD_SHARE > found.len() {
            return Ok(false);
        }
        dead.sort_unstable();
        let (mut at, mut dead) = (0, dead.into_iter().peekable());
        found.retain(|_| {
            let is_dead = dead.next_if_eq(&at).is_some();
            at += 1;
            !is_dead
        });
        Ok(true)
    }
}
