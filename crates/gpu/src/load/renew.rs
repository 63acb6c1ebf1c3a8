//! Bringing lists up to date of which entries have died, and nothing else: their live bits are written anew, in place. A search that goes on
//! meanwhile may miss what has just died, which nobody sees any more, and the tier's generations are raised only afterwards.

use super::LoadError;
use crate::engine::TierWriter;
use crate::tier::TierList;
use crate::tier_builder::TierBuilder;
use omen_ivf::index::{Index, read_entry};
use omen_ivf::layout::group::GROUP;
use omen_ivf::list_reader::{ListReader, Visit};
use omen_ivf::store::PageStore;
use std::ops::ControlFlow;

// A group of frozen entries has a word of live bits.
const _: () = assert!(GROUP == u32::BITS as usize);

impl<W: TierWriter + ?Sized> TierBuilder<W> {
    /// Takes over which entries of `lists` have died since they were loaded, for a refresh. Returns those lists that must be loaded instead:
    /// they were rewritten, or share words of live bits with others.
    pub fn renew_lists<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        lists: &[u32],
    ) -> Result<Vec<u32>, LoadError> {
        let mut reader = ListReader::new();
        let mut left = Vec::new();
        for &list in lists {
            s.check_interrupts()?;
            if !self.renew(s, index, &mut reader, list)? {
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
    ) -> Result<bool, LoadError> {
        let at = list as usize;
        let (Some(here), Some(words)) = (self.lists[at], self.own_words[at].clone()) else {
            return Ok(false);
        };
        // Before any of its pages, as in a load.
        let entry = read_entry(s, index, list)?;
        let n_frozen = entry.frozen_count as usize;
        if here.layout_gen != entry.layout_gen {
            return Ok(false);
        }
        let mut live = vec![0u32; words.len()];
        let mut set = |slot: usize| live[slot / GROUP] |= 1 << (slot % GROUP);
        let visit = reader.for_each_group(s, index, list, &entry, |group, header| {
            let slots = group as usize * GROUP..n_frozen.min((group as usize + 1) * GROUP);
            for (i, slot) in slots.enumerate() {
                if header.live & 1 << i != 0 {
                    set(slot);
                }
            }
            ControlFlow::Continue(())
        })?;
        if visit == Visit::Changed {
            return Ok(false);
        }
        let n_appended = here.n_slots as usize - n_frozen;
        let mut slot = n_frozen;
        let known =
            reader.appended_up_to(s, index, list, &entry, n_appended, |_, is_live, _, _| {
                // Of the last page more may be there by now.
                if is_live && slot < here.n_slots as usize {
                    set(slot);
                }
                slot += 1;
            })?;
        let Some(known) = known.filter(|_| slot >= here.n_slots as usize) else {
            return Ok(false);
        };
        self.staging.set_live_words(words.start, &live);
        self.renewed.push(words);
        let mut appended = here.appended;
        if appended.n_records > 0 {
            appended.delete_gen = known.delete_gen;
        }
        self.lists[at] = Some(TierList {
            delete_gen: entry.delete_gen,
            appended,
            ..here
        });
        Ok(true)
    }
}
