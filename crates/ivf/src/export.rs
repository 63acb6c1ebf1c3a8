//! Hands out the frozen part of a list to a hot tier: as pages to copy, or entry by entry.

mod pages;

use std::ops::ControlFlow;

use half::f16;

use crate::index::{Index, read_entry, reread_entry};
use crate::layout::directory::ListEntry;
use crate::layout::group::{GROUP, GroupHeader};
use crate::list_reader::{ListReader, Visit};
use crate::store::PageStore;
use crate::{IvfError, Result, Tid};

pub use crate::frozen_writer::read_centroid;
pub use pages::{ListPages, Stream, for_each_centroid};

/// Most times a list may be rewritten while it is read.
const MAX_RESTARTS: usize = 1000;
/// Rows are read into memory in pieces of so many bytes: the sink may wait for a device, which no page lock should.
const BYTES_AT_ONCE: usize = 1 << 20;

/// Takes slot, tid, whether it is live, error radius, and row (of vectors `[dim]`) of an entry.
pub type ExportSink<'a> = dyn FnMut(u32, Tid, bool, f32, &[f16]) + 'a;

/// Calls `sink(slot, tid, live, err, row)` for every entry of the frozen part of `list`, dead ones included, slots 0, 1, 2 ...
/// and returns the directory entry **as read before any page was**: data loaded this way is valid as long as
/// the list's `layout_gen` and `delete_gen` are those of the returned entry.
///
/// If the list is rewritten meanwhile, reading starts again: a slot that is not the successor of the last one means that
/// all slots of this list seen before are void. The returned entry's `frozen_count` says how many count in the end.
/// `sink` runs with no page locked.
pub fn export_list<S: PageStore>(
    s: &S,
    index: &Index,
    list: u32,
    sink: &mut ExportSink<'_>,
) -> Result<ListEntry> {
    let mut reader = ListReader::new();
    let mut entry = read_entry(s, index, list)?;
    for _ in 0..MAX_RESTARTS {
        if export_once(s, index, list, &entry, &mut reader, sink)? == Visit::Done {
            return Ok(entry);
        }
        entry = reread_entry(s, index, list, &entry)?;
    }
    Err(IvfError::corrupt(
        index.entry_address(list).0,
        format!("list {list} never holds still"),
    ))
}

fn export_once<S: PageStore>(
    s: &S,
    index: &Index,
    list: u32,
    entry: &ListEntry,
    reader: &mut ListReader,
    sink: &mut ExportSink<'_>,
) -> Result<Visit> {
    let mut heads: Vec<Head> = Vec::new();
    let visit = reader.for_each_group(s, index, list, entry, |_, header| {
        heads.push(Head::of(header));
        ControlFlow::Continue(())
    })?;
    if visit == Visit::Changed {
        return Ok(visit);
    }
    let words = index.row_words(list) as usize;
    let at_once = (BYTES_AT_ONCE / (words * size_of::<f16>())).max(GROUP) as u32;
    let mut rows: Vec<f16> = Vec::new();
    let mut first = 0;
    while first < entry.frozen_count {
        let end = entry.frozen_count.min(first.saturating_add(at_once));
        rows.clear();
        let visit = reader.rows(s, index, list, entry, first..end, |_, row| {
            rows.extend_from_slice(row);
        })?;
        if visit == Visit::Changed {
            return Ok(visit);
        }
        for (slot, row) in (first..end).zip(rows.chunks_exact(words)) {
            let (head, i) = (&heads[slot as usize / GROUP], slot as usize % GROUP);
            let tid = Tid::new(head.tid_block[i], head.tid_offset[i]);
            sink(slot, tid, head.live & (1 << i) != 0, head.err[i], row);
        }
        first = end;
    }
    Ok(Visit::Done)
}

/// What a hot tier keeps of a group's header.
struct Head {
    err: [f32; GROUP],
    tid_block: [u32; GROUP],
    tid_offset: [u16; GROUP],
    live: u32,
}

impl Head {
    fn of(header: &GroupHeader) -> Self {
        Self {
            err: header.err,
            tid_block: header.tid_block,
            tid_offset: header.tid_offset,
            live: header.live,
        }
    }
}
