//! What was appended to a list lies in a tier as if it had been frozen: behind the frozen entries, with codes made here. The pages are read up to
//! somewhere, which the tier keeps; what is appended later is for those who search to scan.

use super::groups::GroupMaker;
use super::{LoadError, Loader};
use crate::engine::TierWriter;
use crate::tier_builder::entries::Entries;
use omen_ivf::export::ListPages;
use omen_ivf::list_reader::{AppendedTo, ListReader};
use omen_ivf::store::PinStore;

/// So many bytes of rows of a list are taken, or a page more; the rest is left to its pages.
const MOST_BYTES: usize = 16 << 20;

/// Appended entries of a list.
#[derive(Default)]
pub(super) struct Appended {
    pub(super) entries: Entries,
    /// Up to where that is.
    pub(super) to: AppendedTo,
}

impl<S: PinStore, W: TierWriter + ?Sized> Loader<'_, S, W> {
    /// Reads what was appended to a list, unless the tier has codes alone: whoever reads rows by slot finds those of frozen entries. `None`: the
    /// list was rewritten meanwhile.
    pub(super) fn appended(&self, pages: &ListPages) -> Result<Option<Appended>, LoadError> {
        let mut appended = Appended::default();
        let most = match self.builder.parts().rows() {
            true => MOST_BYTES / (2 * self.index.entry_words()),
            false => 0,
        };
        let to = ListReader::new().appended_up_to(
            self.s,
            self.index,
            pages.list,
            &pages.seen(),
            most,
            0,
            |tid, live, err, row| appended.entries.push(tid, live, err, row),
        )?;
        Ok(to.map(|to| Appended { to, ..appended }))
    }

    /// Sends it to the last slots of the list read last.
    pub(super) fn stage(&mut self, appended: &Appended) -> Result<(), LoadError> {
        let n = appended.entries.n();
        let Some(reading) = self.lists.last().filter(|_| n > 0) else {
            return Ok(());
        };
        let (list, slot) = (reading.pages.list, reading.first_slot + reading.n_slots - n);
        // What has been gathered belongs to the area being filled, which may be left now.
        self.dispatch()?;
        let (s, index) = (self.s, self.index);
        let maker = GroupMaker::new(self.builder, index);
        let centroid = maker.centroid(s, list)?;
        let groups = maker.groups(&appended.entries, centroid.as_deref());
        Ok(self
            .builder
            .stage_entries(&appended.entries, &groups, slot)?)
    }
}
