//! All rows of an index, list by list: for a query that gives every row the same order value.

use std::ops::ControlFlow;

use omen_ivf::Tid;
use omen_ivf::index::{Index, read_entry, reread_entry};
use omen_ivf::layout::group::GROUP;
use omen_ivf::list_reader::{AppendedTo, ListReader, Visit};
use omen_ivf::store::PageStore;

use crate::error::Result;
use crate::storage::IndexPages;

/// Position of such a scan; as default before the first row.
#[derive(Default)]
pub(super) struct UnorderedScan {
    next_list: u32,
    tids: Vec<Tid>,
    reader: ListReader,
}

impl UnorderedScan {
    /// The next row.
    pub(super) fn next(&mut self, pages: &IndexPages, index: &Index) -> Result<Option<Tid>> {
        loop {
            if let Some(tid) = self.tids.pop() {
                return Ok(Some(tid));
            }
            if self.next_list == index.n_lists() {
                return Ok(None);
            }
            pages.check_interrupts()?;
            self.read_list(pages, index)?;
            self.next_list += 1;
        }
    }

    /// Fills `tids` with the live entries of the next list.
    fn read_list(&mut self, pages: &IndexPages, index: &Index) -> Result<()> {
        let (list, tids) = (self.next_list, &mut self.tids);
        let mut entry = read_entry(pages, index, list)?;
        loop {
            tids.clear();
            let frozen = self
                .reader
                .for_each_group(pages, index, list, &entry, |_, header| {
                    let live = (0..GROUP).filter(|i| header.live & (1 << i) != 0);
                    tids.extend(live.map(|i| Tid::new(header.tid_block[i], header.tid_offset[i])));
                    ControlFlow::Continue(())
                })?;
            if frozen == Visit::Done {
                let known = AppendedTo::NOTHING;
                let appended = self.reader.for_each_appended(
                    pages,
                    index,
                    list,
                    &entry,
                    &known,
                    |tid, _, _| {
                        tids.push(tid);
                    },
                )?;
                if appended == Visit::Done {
                    return Ok(());
                }
            }
            // Rewritten meanwhile: once more, from the new entry.
            entry = reread_entry(pages, index, list, &entry)?;
        }
    }
}
