//! Parameters and small types shared by all verbs.

use bytemuck::{Pod, Zeroable};

/// Distance an index is built for. The discriminants are on disk: never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Metric {
    /// Euclidean distance, operator `<->`.
    L2 = 1,
    /// Negative inner product, operator `<#>`.
    NegIp = 2,
    /// Cosine distance, operator `<=>`; vectors are stored at unit length and searched by Euclidean distance.
    Cosine = 3,
    /// Taxicab distance, operator `<+>`.
    L1 = 4,
    /// Number of bits that differ, operator `<~>`.
    Hamming = 5,
    /// Share of bits set in either that are not set in both, operator `<%>`.
    Jaccard = 6,
}

impl Metric {
    /// The metric of an on-disk discriminant.
    pub fn from_u32(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::L2),
            2 => Some(Self::NegIp),
            3 => Some(Self::Cosine),
            4 => Some(Self::L1),
            5 => Some(Self::Hamming),
            6 => Some(Self::Jaccard),
            _ => None,
        }
    }

    /// Whether it is one of strings of bits; else of vectors.
    pub const fn is_of_bits(self) -> bool {
        matches!(self, Self::Hamming | Self::Jaccard)
    }

    /// Name as shown to users.
    pub fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::NegIp => "ip",
            Self::Cosine => "cosine",
            Self::L1 => "l1",
            Self::Hamming => "hamming",
            Self::Jaccard => "jaccard",
        }
    }
}

/// What the rows of an index are. The discriminants are on disk: never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum VectorKind {
    /// Scaled vectors in binary16, of columns of type vector and halfvec.
    Half = 1,
    /// Strings of bits.
    Bits = 2,
    /// Sparse vectors: their largest elements.
    Sparse = 3,
}

impl VectorKind {
    /// The kind of an on-disk discriminant.
    pub fn from_u32(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::Half),
            2 => Some(Self::Bits),
            3 => Some(Self::Sparse),
            _ => None,
        }
    }

    /// Name as shown to users.
    pub fn name(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::Bits => "bits",
            Self::Sparse => "sparse",
        }
    }

    /// Whether rows of this kind have distances of this metric.
    pub fn has(self, metric: Metric) -> bool {
        metric.is_of_bits() == (self == Self::Bits)
    }
}

/// Address of a heap row (Postgres ctid): block and line pointer number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Tid {
    /// Heap block.
    pub block: u32,
    /// Line pointer, 1-based; below 2^16.
    pub offset: u32,
}

impl Tid {
    /// A tid from its parts.
    pub fn new(block: u32, offset: u16) -> Self {
        Self {
            block,
            offset: u32::from(offset),
        }
    }

    /// One number that orders like the tid.
    pub fn as_u64(self) -> u64 {
        (u64::from(self.block) << 16) | u64::from(self.offset & 0xFFFF)
    }

    /// The address that [`Self::as_u64`] gave this number.
    pub fn from_u64(number: u64) -> Self {
        Self::new((number >> 16) as u32, number as u16)
    }
}

/// Largest dimension a vector, and so an index of vectors, can have; no row of any kind has more words of 16 bits.
pub const MAX_DIM: u32 = 16_000;
/// Largest value of the `lists` option.
pub const MAX_LISTS: u32 = 65_536;
