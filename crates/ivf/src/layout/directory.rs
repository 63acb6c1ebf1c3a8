//! The list directory: one fixed-size entry a list, so that anyone finds out in few page reads what changed.

use bytemuck::{Pod, Zeroable};

use super::page::{CONTENT_BYTES, CONTENT_START};
use crate::store::NO_BLOCK;

/// Consecutive blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable, Default)]
#[repr(C)]
pub struct Run {
    /// First block.
    pub start: u32,
    /// Number of blocks; 0 if there is none.
    pub len: u32,
}

/// State of one list. Changed only under an exclusive lock of its directory page.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct ListEntry {
    /// Counts rewrites of the list (build = 1). All pages of the list carry it as their stamp.
    pub layout_gen: u32,
    /// Counts deletions from the frozen part since the index was built; never reset. Raised in the same WAL record that clears live bits.
    pub delete_gen: u32,
    /// Entries in the frozen part, dead ones included.
    pub frozen_count: u32,
    /// Dead entries in the frozen part.
    pub frozen_dead: u32,
    /// First run of the code stream.
    pub code_run: Run,
    /// First run of the vector stream.
    pub vector_run: Run,
    /// First map page with further runs, or `NO_BLOCK`.
    pub map_head: u32,
    /// First page of the appendable part, or `NO_BLOCK`.
    pub append_head: u32,
    /// Last page of the appendable part, or `NO_BLOCK`.
    pub append_tail: u32,
    /// Pages in the appendable part.
    pub append_pages: u32,
    /// Root mean square distance of the frozen entries to the centroid (scaled space).
    pub radius: f32,
    /// Counts deletions from the appendable part since the index was built; never reset, raised in the same WAL record
    /// that marks the entry dead. A hot tier that holds appended entries too is told by it that one of them died.
    pub append_delete_gen: u32,
    /// Zero; for later versions.
    pub reserved: [u32; 2],
}

impl ListEntry {
    /// Live entries in the frozen part.
    pub fn n_live(&self) -> u32 {
        self.frozen_count.saturating_sub(self.frozen_dead)
    }

    /// The entry of a list without entries.
    pub fn empty(layout_gen: u32) -> Self {
        Self {
            layout_gen,
            delete_gen: 0,
            frozen_count: 0,
            frozen_dead: 0,
            code_run: Run::default(),
            vector_run: Run::default(),
            map_head: NO_BLOCK,
            append_head: NO_BLOCK,
            append_tail: NO_BLOCK,
            append_pages: 0,
            radius: 0.0,
            append_delete_gen: 0,
            reserved: [0; 2],
        }
    }
}

/// Directory entries in a page.
pub const ENTRIES_PER_PAGE: usize = CONTENT_BYTES / size_of::<ListEntry>();

/// Pages of a directory of `lists` entries.
pub fn directory_pages(lists: u32) -> u32 {
    lists.div_ceil(ENTRIES_PER_PAGE as u32)
}

/// Page (index within the directory) and byte offset in that page of the entry of `list`.
pub fn entry_position(list: u32) -> (u32, usize) {
    let per_page = ENTRIES_PER_PAGE as u32;
    (
        list / per_page,
        CONTENT_START + (list % per_page) as usize * size_of::<ListEntry>(),
    )
}

/// Reads the entry at byte `offset` of a directory page.
pub fn get_entry(page: &[u8], offset: usize) -> ListEntry {
    bytemuck::pod_read_unaligned(&page[offset..offset + size_of::<ListEntry>()])
}

/// Writes the entry at byte `offset` of a directory page.
pub fn put_entry(page: &mut [u8], offset: usize, entry: &ListEntry) {
    page[offset..offset + size_of::<ListEntry>()].copy_from_slice(bytemuck::bytes_of(entry));
}

const _: () = assert!(size_of::<ListEntry>() == 64);
