//! What can go wrong in the index, typed by what the caller must say to the user.

use thiserror::Error;

/// Result of index operations.
pub type Result<T> = std::result::Result<T, IvfError>;

/// An error of the index. The Postgres side maps each variant to one SQLSTATE.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IvfError {
    /// A page does not have the structure it must have: ERRCODE_INDEX_CORRUPTED, hint REINDEX.
    #[error("page {block} of the index is not valid: {what}")]
    Corrupt {
        /// Block number of the page.
        block: u32,
        /// What was expected and what was found.
        what: String,
    },
    /// The metapage carries a format version this library does not read: hint REINDEX.
    #[error("index has format version {found}, this version of pg_omen reads {supported}")]
    Version {
        /// Version on the page.
        found: u32,
        /// The only (newest) version this code reads.
        supported: u32,
    },
    /// A sparse vector of more elements than an index takes.
    #[error("sparsevec cannot have more than {most} non-zero elements for omen index, not {found}")]
    Elements {
        /// Most.
        most: u32,
        /// What it has.
        found: u32,
    },
    /// The vector's dimension differs from the index's.
    #[error("expected {expected} dimensions, not {found}")]
    Dimension {
        /// Dimension of the index.
        expected: u32,
        /// Dimension of the given vector.
        found: u32,
    },
    /// An error raised by the page store (never in `MemStore` unless injected).
    #[error("{0}")]
    Store(String),
}

impl IvfError {
    /// Shorthand for [`IvfError::Corrupt`].
    pub fn corrupt(block: u32, what: impl Into<String>) -> Self {
        Self::Corrupt {
            block,
            what: what.into(),
        }
    }
}
