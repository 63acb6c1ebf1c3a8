//! Bringing lists up to date in place, where they have not been rewritten: live bits are written anew, and what was appended goes behind the
//! entries that are there, as far as the list's last word of live bits has room. A search that goes on meanwhile may miss what has just died, which
//! nobody sees any more; it does not look at what is new, since it goes list by list where there is such room (`Catalog::is_dense`). The tier's
//! generations are raised, and the list made longer, only afterwards.

use super::LoadError;
use super::groups::{Arriving, GroupMaker, Made, Making};
use crate::engine::TierWriter;
use crate::error::GpuError;
use crate::tier::TierList;
use crate::tier_builder::TierBuilder;
use crate::tier_builder::entries::Entries;
use half::f16;
use omen_ivf::Tid;
use omen_ivf::index::{Index, SeenList};
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::layout::group::GROUP;
use omen_ivf::layout::streams;
use omen_ivf::list_reader::{AppendedTo, ListReader, Visit};
use omen_ivf::store::PageStore;
use rayon::ThreadPool;
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

/// What has become of a list that was to be brought up to date.
enum Renewal {
    /// It must be loaded instead.
    Refused,
    /// It is up to date.
    Done,
    /// It is when these entries are in the slots from this one on.
    New(usize, Entries),
}

impl<W: TierWriter + ?Sized> TierBuilder<W> {
    /// Takes over which entries of `lists`, each as just seen, have died since they were loaded, and what was appended, as far as there is
    /// room in place; for a refresh. Codes of what is new are made by the threads of `pool` too, if there is one. Returns those lists that must be loaded
    /// instead: they were rewritten, or share words of live bits with others.
    pub fn renew_lists<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        lists: impl IntoIterator<Item = (u32, SeenList)>,
        pool: Option<&ThreadPool>,
    ) -> Result<Vec<u32>, LoadError> {
        let maker = GroupMaker::new(self, index);
        let mut reader = ListReader::new();
        let mut left = Vec::new();
        Making::with(maker, pool, |mut making| {
            for (list, seen) in lists {
                s.check_interrupts()?;
                let (slot, entries) = match self.renew(s, index, &mut reader, list, &seen)? {
                    Renewal::Refused => {
                        left.push(list);
                        continue;
                    }
                    Renewal::Done => continue,
                    Renewal::New(slot, entries) => (slot, entries),
                };
                let arriving = Arriving {
                    centroid: maker.centroid(s, list)?,
                    entries,
                    slot,
                };
                for made in making.give(arriving) {
                    self.stage_made(&made)?;
                }
            }
            for made in making.end() {
                self.stage_made(&made)?;
            }
            Ok(left)
        })
    }

    fn stage_made(&mut self, made: &Made) -> Result<(), GpuError> {
        let Made { arriving, groups } = made;
        self.stage_entries(&arriving.entries, groups, arriving.slot)
    }

    /// Brings a list up to date, but for entries that are to be sent to slots of it.
    fn renew<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        reader: &mut ListReader,
        list: u32,
        seen: &SeenList,
    ) -> Result<Renewal, LoadError> {
        let (at, entry) = (list as usize, &seen.entry);
        let Some(here) = self.lists[at] else {
            return Ok(Renewal::Refused);
        };
        let nothing_died = here.is_current(entry);
        let may_lack = here.appended.may_lack(s, index, list, entry);
        if nothing_died && !may_lack {
            let mut as_seen = here;
            as_seen.appended.version = seen.version;
            self.lists[at] = Some(as_seen);
            return Ok(Renewal::Done);
        }
        let Some(words) = self.own_words[at].clone() else {
            return Ok(match nothing_died {
                true => Renewal::Done,
                false => Renewal::Refused,
            });
        };
        let n_frozen = entry.frozen_count;
        // In one layout the number of frozen entries stays, unless the page is damaged.
        if here.layout_gen != entry.layout_gen || n_frozen > here.n_slots {
            return Ok(Renewal::Refused);
        }
        // Of a tier of codes alone nobody reads appended ones.
        let room = match self.parts().rows() {
            // The last word of the tier may be cut short.
            true => (words.len() * GROUP).min(self.n_slots() - here.first_slot as usize),
            false => here.n_slots as usize,
        };
        if nothing_died && room <= here.n_slots as usize {
            return Ok(Renewal::Done);
        }
        // Entries that have not died have the live bits that they had.
        let first_word = match nothing_died {
            true => here.n_slots as usize / GROUP,
            false => 0,
        };
        let known = Known {
            here: &here,
            first_word,
            room,
        };
        let renewed = match nothing_died && known.has_last_word(n_frozen) {
            true => read_new(s, index, reader, list, seen, &known)?,
            false => read_again(s, index, reader, list, seen, &known)?,
        };
        let Some(renewed) = renewed else {
            return Ok(Renewal::Refused);
        };
        self.lists[at] = Some(renewed.list);
        // Another list may have been counted in its place.
        if nothing_died && renewed.new.n() == 0 {
            return Ok(Renewal::Done);
        }
        let words = words.start + first_word..words.end;
        self.staging.set_live_words(words.start, &renewed.live);
        self.renewed.push(words);
        Ok(match renewed.new.n() {
            0 => Renewal::Done,
            _ => Renewal::New(here.slots().end, renewed.new),
        })
    }
}

/// What is known of a list before it is read.
struct Known<'a> {
    here: &'a TierList,
    /// Its first word of live bits that is wanted.
    first_word: usize,
    /// Slots that it may use.
    room: usize,
}

impl Known<'_> {
    /// Whether the live bits before its end are known, of a list with so many frozen entries.
    fn has_last_word(&self, n_frozen: u32) -> bool {
        let here = self.here;
        let is_frozen_alone = here.appended.n_records == 0;
        let ends_in_word = !(here.n_slots as usize).is_multiple_of(GROUP);
        (!ends_in_word || here.last_live != 0) && (!is_frozen_alone || here.n_slots == n_frozen)
    }
}

/// What is read of a list, from a slot on.
struct Reading<'a> {
    known: &'a Known<'a>,
    /// Words of live bits, from `known.first_word` on.
    live: Vec<u32>,
    /// The slot of the next appended entry.
    slot: usize,
    new: Entries,
}

impl<'a> Reading<'a> {
    /// Nothing yet, and no live bits; appended entries come from `slot` on.
    fn new(known: &'a Known<'a>, slot: usize) -> Self {
        let n_slots = known.room.max(known.here.n_slots as usize);
        Self {
            known,
            live: vec![0; n_slots.div_ceil(GROUP) - known.first_word],
            slot,
            new: Entries::default(),
        }
    }

    /// An entry lives. Slots in words that are not wanted are passed over.
    fn set_live(&mut self, slot: usize) {
        if let Some(at) = (slot / GROUP).checked_sub(self.known.first_word) {
            self.live[at] |= 1 << (slot % GROUP);
        }
    }

    /// The next appended entry.
    fn take(&mut self, tid: Tid, is_live: bool, err: f32, row: &[f16]) {
        if self.slot < self.known.room {
            if is_live {
                self.set_live(self.slot);
            }
            if self.slot >= self.known.here.n_slots as usize {
                self.new.push(tid, is_live, err, row);
            }
        }
        self.slot += 1;
    }

    /// The list by now, of which the appended entries that were taken go to `to`.
    fn end(self, entry: &ListEntry, mut to: AppendedTo) -> Renewed {
        let room = self.known.room;
        // Of the last page not all may have found room.
        if self.slot > room {
            to.n_records -= (self.slot - room) as u32;
            to.version = 0;
        }
        let n_slots = self.slot.min(room);
        let last_live = match n_slots.is_multiple_of(GROUP) {
            true => 0,
            false => self.live[n_slots / GROUP - self.known.first_word],
        };
        Renewed {
            list: TierList {
                n_slots: n_slots as u32,
                n_live: entry.n_live(),
                n_room: self.known.here.n_room.max(n_slots as u32),
                delete_gen: entry.delete_gen,
                last_live,
                appended: to,
                ..*self.known.here
            },
            live: self.live,
            new: self.new,
        }
    }
}

/// Reads what was appended to a list of which nothing died. `None`: the list was rewritten meanwhile.
fn read_new<S: PageStore>(
    s: &S,
    index: &Index,
    reader: &mut ListReader,
    list: u32,
    seen: &SeenList,
    known: &Known<'_>,
) -> Result<Option<Renewed>, LoadError> {
    let entry = &seen.entry;
    let n_here = known.here.n_slots as usize;
    let mut reading = Reading::new(known, n_here);
    if !n_here.is_multiple_of(GROUP) {
        reading.live[0] = known.here.last_live;
    }
    let (here, most) = (known.here.appended, known.room - n_here);
    let take = |tid, is_live, err, row: &[f16]| reading.take(tid, is_live, err, row);
    let to = reader.appended_beyond(s, index, list, seen, here, most, 0, take)?;
    Ok(to.map(|to| reading.end(entry, to)))
}

/// Reads which of a list's entries are live, and what of them is new. `None`: the list was rewritten meanwhile.
fn read_again<S: PageStore>(
    s: &S,
    index: &Index,
    reader: &mut ListReader,
    list: u32,
    seen: &SeenList,
    known: &Known<'_>,
) -> Result<Option<Renewed>, LoadError> {
    let entry = &seen.entry;
    let (n_frozen, n_here) = (entry.frozen_count as usize, known.here.n_slots as usize);
    let mut reading = Reading::new(known, n_frozen);
    let groups = known.first_word as u32..streams::n_groups(entry.frozen_count);
    let visit = reader.headers(s, index, list, entry, groups, |group, header| {
        let first = group as usize * GROUP;
        for (i, slot) in (first..n_frozen.min(first + GROUP)).enumerate() {
            if header.live & 1 << i != 0 {
                reading.set_live(slot);
            }
        }
        ControlFlow::Continue(())
    })?;
    if visit == Visit::Changed {
        return Ok(None);
    }
    let (most, n_known) = (known.room - n_frozen, n_here - n_frozen);
    let take = |tid, is_live, err, row: &[f16]| reading.take(tid, is_live, err, row);
    let to = reader.appended_up_to(s, index, list, seen, most, n_known, take)?;
    let to = to.filter(|_| reading.slot >= n_here);
    Ok(to.map(|to| reading.end(entry, to)))
}
