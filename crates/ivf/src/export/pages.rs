//! Where the frozen part of a list lies, for those who copy its pages as they are ([`PinStore`](crate::store::PinStore)).
//!
//! Frozen pages never change but for live bits, until the list is rewritten and they are given up; and no page ever comes
//! to the same place in the same layout again. So bytes copied from a pinned page without a lock are those of the list if the
//! page, locked *after* the copy, still is what the directory entry says ([`ListPages::is_page`]). A live bit may
//! be copied before or after it is cleared: `delete_gen` tells, as for everything kept.

use half::f16;

use crate::centroids::unchanged;
use crate::index::{Index, SeenList, reread_entry, see_list};
use crate::layout::directory::ListEntry;
use crate::layout::page::{self, PageKind, ROOT_LIST};
use crate::list_reader::{ListReader, Visit};
use crate::store::PageStore;
use crate::{IvfError, Result};

use super::MAX_RESTARTS;

/// One of the two streams of a frozen part (`layout/README.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Groups.
    Code,
    /// Rows.
    Vector,
}

/// The pages of the frozen part of a list in one of its layouts.
#[derive(Debug, Clone, PartialEq)]
pub struct ListPages {
    /// The list.
    pub list: u32,
    /// Its directory entry, as read before any of the pages.
    pub entry: ListEntry,
    /// Its version before the entry was read.
    pub version: u32,
    /// Blocks of the code stream.
    pub code: Vec<u32>,
    /// Blocks of the vector stream.
    pub vector: Vec<u32>,
}

impl ListPages {
    /// Finds out where the list is now.
    pub fn read<S: PageStore>(s: &S, index: &Index, list: u32) -> Result<Self> {
        Self::from_entry(s, index, list, see_list(s, index, list)?)
    }

    /// As [`ListPages::read`], after a page was not one of these. Errors: `Corrupt` if the list was not rewritten meanwhile.
    pub fn read_again<S: PageStore>(&self, s: &S, index: &Index) -> Result<Self> {
        let version = s.list_version(self.list);
        let entry = reread_entry(s, index, self.list, &self.entry)?;
        Self::from_entry(s, index, self.list, SeenList { entry, version })
    }

    /// The list as it was then.
    pub fn seen(&self) -> SeenList {
        let (entry, version) = (self.entry, self.version);
        SeenList { entry, version }
    }

    fn from_entry<S: PageStore>(s: &S, index: &Index, list: u32, seen: SeenList) -> Result<Self> {
        let SeenList {
            mut entry,
            mut version,
        } = seen;
        let mut reader = ListReader::new();
        for _ in 0..MAX_RESTARTS {
            if reader.map.resolve(s, index, list, &entry)? == Visit::Done {
                return Ok(Self {
                    list,
                    entry,
                    version,
                    code: reader.map.code.blocks().collect(),
                    vector: reader.map.vector.blocks().collect(),
                });
            }
            version = s.list_version(list);
            entry = reread_entry(s, index, list, &entry)?;
        }
        Err(IvfError::corrupt(
            index.entry_address(list).0,
            format!("list {list} never holds still"),
        ))
    }

    /// Whether `page` is page `seq` of `stream` in this layout.
    pub fn is_page(&self, stream: Stream, seq: u32, page: &[u8]) -> bool {
        let kind = match stream {
            Stream::Code => PageKind::Code,
            Stream::Vector => PageKind::Vector,
        };
        page::tail(page).is(kind, self.list, self.entry.layout_gen, seq)
    }
}

/// Calls `f(list, centroid)` for the centroids as stored (`[dim]`), in the order of the lists.
pub fn for_each_centroid<S: PageStore>(
    s: &S,
    index: &Index,
    f: impl FnMut(u32, &[f16]),
) -> Result<()> {
    let root = &index.meta.root;
    let rows = 0..index.n_lists();
    unchanged(ListReader::new().rows(s, index, ROOT_LIST, root, rows, f)?)
}
