//! Bringing lists up to date in place, where they have not been rewritten: live bits are written anew, and what was appended goes behind the
//! entries that are there, as far as the list's last word of live bits has room. A search that goes on meanwhile may miss what has just died, which
//! nobody sees any more; it does not look at what is new, since it goes list by list where there is such room (`Catalog::is_dense`). The tier's
//! generations are raised, and the list made longer, only afterwards.

use super::LoadError;
use crate::engine::TierWriter;
use crate::tier::TierList;
use crate::tier_builder::TierBuilder;
use crate::tier_builder::entries::Entries;
use half::f16;
use omen_ivf::index::Index;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::layout::group::GROUP;
use omen_ivf::layout::streams;
use omen_ivf::list_reader::{ListReader, Visit};
use omen_ivf::store::PageStore;
use std::ops::ControlFlow;

// A group of frozen entries has a word of live bits.
const _: () = assert!(GROUP == u32::BITS as usize);

/// A list as it is by now.
struct Renewed {
    /// Words of live bits, from the first that was asked for on.
    live: Vec<u32>,
    /// What is new.
    new: Entries,
    list: TierList,
}

impl<W: TierWriter + ?Sized> TierBuilder<W> {
    /// Takes over which entries of `lists`, each with its directory entry, have died since they were loaded, and what was appended, as far as there is
    /// room in place; for a refresh. Returns those lists that must be loaded instead: they were rewritten, or share words of live bits with others.
    pub fn renew_lists<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        lists: impl IntoIterator<Item = (u32, ListEntry)>,
    ) -> Result<Vec<u32>, LoadError> {
        let mut reader = ListReader::new();
        let mut left = Vec::new();
        for (list, entry) in lists {
            s.check_interrupts()?;
            if !self.renew(s, index, &mut reader, list, &entry)? {
                left.push(list);
            }
        }
        Ok(left)
    }

    fn renew<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        reader: &mut ListReader,
        list: u32,
        entry: &ListEntry,
    ) -> Result<bool, LoadError> {
        let at = list as usize;
        let Some(here) = self.lists[at] else {
            return Ok(false);
        };
        let Some(words) = self.own_words[at].clone() else {
            return Ok(here.is_current(entry));
        };
        let n_frozen = entry.frozen_count;
        // In one layout the number of frozen entries stays, unless the page is damaged.
        if here.layout_gen != entry.layout_gen || n_frozen > here.n_slots {
            return Ok(false);
        }
        // Of a tier of codes alone nobody reads appended ones.
        let room = match self.parts().rows() {
            // The last word of the tier may be cut short.
            true => (words.len() * GROUP).min(self.n_slots() - here.first_slot as usize),
            false => here.n_slots as usize,
        };
        let nothing_died = here.is_current(entry);
        let may_take =
            || room > here.n_slots as usize && here.appended.may_lack(s, index, list, entry);
        if nothing_died && !may_take() {
            return Ok(true);
        }
        // Entries that have not died have the live bits that they had.
        let first_word = match nothing_died {
            true => here.n_slots as usize / GROUP,
            false => 0,
        };
        let renewed = read_again(s, index, reader, list, entry, &here, first_word, room)?;
        let Some(renewed) = renewed else {
            return Ok(false);
        };
        self.lists[at] = Some(renewed.list);
        // Another list may have been counted in its place.
        if nothing_died && renewed.new.n() == 0 {
            return Ok(true);
        }
        if renewed.new.n() > 0 {
            self.stage_appended(s, index, list, &renewed.new, here.slots().end)?;
        }
        let words = words.start + first_word..words.end;
        self.staging.set_live_words(words.start, &renewed.live);
        self.renewed.push(words);
        Ok(true)
    }
}

/// Reads which of the first `room` entries are live, from those of word `first_word` on, and what of them is new. `None`: the list was rewritten
/// meanwhile.
#[allow(clippy::too_many_arguments)]
fn read_again<S: PageStore>(
    s: &S,
    index: &Index,
    reader: &mut ListReader,
    list: u32,
    entry: &ListEntry,
    here: &TierList,
    first_word: usize,
    room: usize,
) -> Result<Option<Renewed>, LoadError> {
    let (n_frozen, n_here) = (entry.frozen_count as usize, here.n_slots as usize);
    let mut live = vec![0u32; room.max(n_here).div_ceil(GROUP) - first_word];
    let mut set = |slot: usize| {
        if let Some(at) = (slot / GROUP).checked_sub(first_word) {
            live[at] |= 1 << (slot % GROUP);
        }
    };
    let groups = first_word as u32..streams::n_groups(entry.frozen_count);
    let visit = reader.headers(s, index, list, entry, groups, |group, header| {
        let first = group as usize * GROUP;
        for (i, slot) in (first..n_frozen.min(first + GROUP)).enumerate() {
            if header.live & 1 << i != 0 {
                set(slot);
            }
        }
        ControlFlow::Continue(())
    })?;
    if visit == Visit::Changed {
        return Ok(None);
    }
    let (mut slot, mut new) = (n_frozen, Entries::default());
    let most = room - n_frozen;
    let n_known = n_here - n_frozen;
    let take = |tid, is_live, err, row: &[f16]| {
        if slot < room {
            if is_live {
                set(slot);
            }
            if slot >= n_here {
                new.push(tid, is_live, err, row);
            }
        }
        slot += 1;
    };
    let known = reader.appended_up_to(s, index, list, entry, most, n_known, take)?;
    let Some(mut to) = known.filter(|_| slot >= n_here) else {
        return Ok(None);
    };
    // Of the last page not all may have found room.
    if slot > room {
        to.n_records -= (slot - room) as u32;
        to.version = 0;
    }
    Ok(Some(Renewed {
        list: TierList {
            n_slots: slot.min(room) as u32,
            n_room: here.n_room.max(slot.min(room) as u32),
            delete_gen: entry.delete_gen,
            appended: to,
            ..*here
        },
        live,
        new,
    }))
}
