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
//! | 6.. | codes: nothing, sign bits (32 dimensions a line, FastScan order), or levels of four bits (8 dimensions a line) |

use bytemuck::{Pod, Zeroable};

use super::page::LINE_BYTES;
use crate::params::Metric;

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

/// What codes the groups of an index hold. The discriminants are on disk: never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Filter {
    /// No codes: the rows themselves are hardly larger.
    None = 0,
    /// Signs: one-bit RaBitQ.
    OneBit = 1,
    /// Sixteen levels: four-bit RaBitQ.
    FourBit = 2,
}

/// Vectors with fewer dimensions get no codes.
const MIN_DIM: u32 = 40;
/// Vectors with fewer dimensions get four-bit codes.
const ONE_BIT_DIM: u32 = 512;

impl Filter {
    /// The filter of an on-disk discriminant.
    pub fn from_u32(value: u32) -> Option<Self> {
        match value {
            0 => Some(Self::None),
            1 => Some(Self::OneBit),
            2 => Some(Self::FourBit),
            _ => None,
        }
    }

    /// The filter that new indexes of this dimension get. The fewer the dimensions, the larger is a code's error against the
    /// distances it is to tell apart, and the smaller is what it saves (measured: docs/benchmarks.md).
    pub fn for_dim(dim: u32) -> Self {
        match dim {
            0..MIN_DIM => Self::None,
            MIN_DIM..ONE_BIT_DIM => Self::FourBit,
            _ => Self::OneBit,
        }
    }

    /// The filter that new indexes of this metric and dimension get: codes estimate Euclidean distances and inner products.
    pub fn for_index(metric: Metric, dim: u32) -> Self {
        match metric {
            Metric::L2 | Metric::NegIp | Metric::Cosine => Self::for_dim(dim),
            Metric::L1 | Metric::Hamming | Metric::Jaccard => Self::None,
        }
    }

    /// Bits of a code per dimension.
    pub const fn bits(self) -> usize {
        match self {
            Self::None => 0,
            Self::OneBit => 1,
            Self::FourBit => 4,
        }
    }
}

/// Shape of the groups of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupShape {
    /// What codes they hold.
    pub filter: Filter,
    /// Dimension of the codes.
    pub code_dim: u32,
}

impl GroupShape {
    /// The groups of an index of vectors of `dim` dimensions. The codes have as many, rounded up: four-bit ones to a multiple of
    /// 8, which fills a line, others to one of 64.
    pub const fn new(filter: Filter, dim: u32) -> Self {
        let multiple = match filter {
            Filter::FourBit => 8,
            Filter::None | Filter::OneBit => 64,
        };
        Self {
            filter,
            code_dim: dim.next_multiple_of(multiple),
        }
    }

    /// Lines of one group.
    pub const fn lines(self) -> usize {
        HEADER_LINES + self.filter.bits() * self.code_dim as usize / 32
    }

    /// Bytes of one group.
    pub const fn bytes(self) -> usize {
        self.lines() * LINE_BYTES
    }
}
