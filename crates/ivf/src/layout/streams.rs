//! Sizes and positions in the two streams of a frozen part: pure arithmetic.
//!
//! Code stream: groups one after the other in lines of 128 bytes; a line never breaks, a group may span pages.
//! Vector stream: row s, of `words` words of 16 bits (vectors: `dim`), starts at byte s*2*words; a row may span pages. A page holds an even number of
//! bytes, so one number never does.

use super::group::{GROUP, GroupShape};
use super::page::{CONTENT_BYTES, LINES_PER_PAGE};

/// Groups that hold `n` entries.
pub fn n_groups(n: u32) -> u32 {
    n.div_ceil(GROUP as u32)
}

/// Pages of the code stream of `n` entries in groups of this shape.
pub fn code_pages(n: u32, shape: GroupShape) -> u64 {
    let lines = u64::from(n_groups(n)) * shape.lines() as u64;
    lines.div_ceil(LINES_PER_PAGE as u64)
}

/// Bytes of one row of so many words of 16 bits.
pub fn row_bytes(words: u32) -> usize {
    2 * words as usize
}

/// Pages of the vector stream of `n_rows` rows of so many words.
pub fn vector_pages(n_rows: u64, words: u32) -> u64 {
    (n_rows * row_bytes(words) as u64).div_ceil(CONTENT_BYTES as u64)
}

/// Page of the stream and line within the page of line `line` of the code stream.
pub fn line_position(line: u64) -> (u64, usize) {
    (
        line / LINES_PER_PAGE as u64,
        (line % LINES_PER_PAGE as u64) as usize,
    )
}

/// Page of the stream and byte within its content of byte `byte` of the vector stream.
pub fn byte_position(byte: u64) -> (u64, usize) {
    (
        byte / CONTENT_BYTES as u64,
        (byte % CONTENT_BYTES as u64) as usize,
    )
}

const _: () = assert!(CONTENT_BYTES.is_multiple_of(2));
