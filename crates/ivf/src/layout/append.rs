//! Records of an Append page: fixed size within an index, back to back from `CONTENT_START`.
//!
//! | bytes | content |
//! |---|---|
//! | 0..16 | [`AppendHeader`] |
//! | 16.. | inline: the row's words of 16 bits (vectors: `dim` binary16 numbers), padded to a multiple of 4 bytes |
//! | 16.. | else: `n_overflow` block numbers (u32) of Overflow pages, in order |
//!
//! Whether the row is inline follows from its number of words alone, so it never differs within an index.

use bytemuck::{Pod, Zeroable};

use super::page::{CONTENT_BYTES, CONTENT_START};
use super::streams::row_bytes;
use crate::params::Tid;
use crate::store::NO_BLOCK;

/// Head of an appended entry.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct AppendHeader {
    /// Heap block.
    pub tid_block: u32,
    /// Heap line pointer.
    pub tid_offset: u16,
    /// 1 while the entry is live, 0 once deleted.
    pub live: u16,
    /// Radius of the hard bound.
    pub err: f32,
    /// Overflow pages; 0 if the vector is inline.
    pub n_overflow: u32,
}

impl AppendHeader {
    /// The heap row.
    pub fn tid(&self) -> Tid {
        Tid::new(self.tid_block, self.tid_offset)
    }
}

/// Most overflow pages of a record ([`crate::params::MAX_DIM`] words).
pub const MAX_OVERFLOW: usize = row_pages(crate::params::MAX_DIM);

const HEADER_BYTES: usize = size_of::<AppendHeader>();

const fn row_pages(words: u32) -> usize {
    (2 * words as usize).div_ceil(CONTENT_BYTES)
}

/// Overflow pages of an appended entry; 0 if its vector is inline.
pub fn overflow_pages(words: u32) -> usize {
    if HEADER_BYTES + row_bytes(words) <= CONTENT_BYTES {
        0
    } else {
        row_pages(words)
    }
}

/// Bytes of a record.
pub fn record_bytes(words: u32) -> usize {
    match overflow_pages(words) {
        0 => (HEADER_BYTES + row_bytes(words)).next_multiple_of(4),
        n => HEADER_BYTES + 4 * n,
    }
}

/// Records that fit a page.
pub fn records_per_page(words: u32) -> u32 {
    (CONTENT_BYTES / record_bytes(words)) as u32
}

/// Byte offset in the page of record `i`.
pub fn record_offset(i: u32, words: u32) -> usize {
    CONTENT_START + i as usize * record_bytes(words)
}

/// Head of the record at byte `offset` of a page.
pub fn get_header(page: &[u8], offset: usize) -> AppendHeader {
    bytemuck::pod_read_unaligned(&page[offset..offset + HEADER_BYTES])
}

/// Overwrites the head of the record at byte `offset` of a page.
pub fn put_header(page: &mut [u8], offset: usize, header: &AppendHeader) {
    page[offset..offset + HEADER_BYTES].copy_from_slice(bytemuck::bytes_of(header));
}

/// What follows the head of the record at `offset`: the row, or the overflow blocks (native-endian u32 each).
pub fn payload(page: &[u8], offset: usize, words: u32) -> &[u8] {
    let start = offset + HEADER_BYTES;
    match overflow_pages(words) {
        0 => &page[start..start + row_bytes(words)],
        n => &page[start..start + 4 * n],
    }
}

/// The block numbers in the payload of a record that is not inline; unused places hold `NO_BLOCK`.
pub fn overflow_blocks(payload: &[u8]) -> [u32; MAX_OVERFLOW] {
    let mut blocks = [NO_BLOCK; MAX_OVERFLOW];
    for (block, bytes) in blocks.iter_mut().zip(payload.chunks_exact(4)) {
        *block = bytemuck::pod_read_unaligned(bytes);
    }
    blocks
}

/// Writes the record at byte `offset`; `payload` as [`payload`] returns it.
pub fn put_record(page: &mut [u8], offset: usize, header: &AppendHeader, payload: &[u8]) {
    put_header(page, offset, header);
    page[offset + HEADER_BYTES..offset + HEADER_BYTES + payload.len()].copy_from_slice(payload);
}

const _: () = assert!(HEADER_BYTES == 16 && MAX_OVERFLOW == 4);
