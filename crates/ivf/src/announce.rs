//! Which pages a search is about to read, for stores that want to know before.
//!
//! Only what directory entries say is known without reading: of a list with map pages, the first run of each stream.

use std::ops::Range;

use crate::index::Index;
use crate::layout::directory::{ListEntry, Run};
use crate::layout::page::CONTENT_BYTES;
use crate::layout::streams;
use crate::store::NO_BLOCK;
use crate::survivors::Survivor;

/// Adds the pages that a visit of the whole list reads, in its order; `rows`: the vectors of the frozen part too.
pub(crate) fn list_blocks(entry: &ListEntry, rows: bool, blocks: &mut Vec<u32>) {
    if entry.frozen_count > entry.frozen_dead {
        blocks.extend(of_run(entry.code_run));
        if rows {
            blocks.extend(of_run(entry.vector_run));
        }
    }
    blocks.extend(first_appended(entry));
}

/// The first page of the appendable part, the only one that is known.
pub(crate) fn first_appended(entry: &ListEntry) -> Option<u32> {
    (entry.append_head != NO_BLOCK).then_some(entry.append_head)
}

/// Adds the pages with the vectors of `survivors` of one list, which are in slot order, each page once.
pub(crate) fn row_blocks(
    index: &Index,
    entry: &ListEntry,
    survivors: &[Survivor],
    blocks: &mut Vec<u32>,
) {
    let row_bytes = streams::row_bytes(index.form.row_words()) as u64;
    let run = entry.vector_run;
    let mut next_page = 0;
    for survivor in survivors {
        let first = u64::from(survivor.slot) * row_bytes;
        let end = (first + row_bytes).div_ceil(CONTENT_BYTES as u64);
        let pages = streams::byte_position(first).0.max(next_page)..end.min(u64::from(run.len));
        next_page = next_page.max(end);
        blocks.extend(pages.map(|page| run.start + page as u32));
    }
}

fn of_run(run: Run) -> Range<u32> {
    if run.len == 0 {
        return 0..0;
    }
    run.start..run.start + run.len
}
