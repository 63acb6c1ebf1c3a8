//! A group: 32 entries of a frozen part, column-wise, in lines of 128 bytes of the code stream.
//!
//! | line | content |
//! |---|---|
//! | 0 | `f_add`      `[f32; 32]` |
//! | 1 | `f_rescale`  `[f32; 32]` |
//! | 2 | `f_error`    `[f32; 32]` |
//! | 3 | `err`        `[f32; 32]`, radius of the hard bound |
//! | 4 | `tid_block`  `[u32; 32]` |
//! | 5 | `tid_offset` `[u16; 32]`, live mask `u32`, 60 unused bytes |
//! | 6.. | sign bits, 32 dimensions a line, FastScan order |

use bytemuck::{Pod, Zeroable};

use super::page::LINE_BYTES;

/// Entries in a group.
pub const GROUP: usize = 32;
/// Lines before the codes.
pub const HEADER_LINES: usize = 6;

/// The first six lines of a group.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct GroupHeader {
    /// Additive term of the estimate.
    pub f_add: [f32; GROUP],
    /// Factor of the code's inner product.
    pub f_rescale: [f32; GROUP],
    /// Standard error of the estimate per unit of the query's distance to the centroid.
    pub f_error: [f32; GROUP],
    /// Radius of the hard bound.
    pub err: [f32; GROUP],
    /// Heap blocks.
    pub tid_block: [u32; GROUP],
    /// Heap line pointers.
    pub tid_offset: [u16; GROUP],
    /// Bit i is set while entry i is live.
    pub live: u32,
    /// Zero.
    pub reserved: [u32; 15],
}

/// Line of a group that holds the live mask, and the mask's byte offset in it.
pub const LIVE_LINE: usize = std::mem::offset_of!(GroupHeader, live) / LINE_BYTES;
/// Byte offset of the live mask in line [`LIVE_LINE`].
pub const LIVE_OFFSET: usize = std::mem::offset_of!(GroupHeader, live) % LINE_BYTES;

const _: () = assert!(LIVE_LINE == 5 && LIVE_OFFSET == 64);
const _: () = assert!(size_of::<GroupHeader>() == HEADER_LINES * LINE_BYTES);

/// Lines of one group for codes of `code_dim` dimensions (a multiple of 32).
pub const fn group_lines(code_dim: usize) -> usize {
    HEADER_LINES + code_dim / 32
}
