//! What the types `vector`, `halfvec` and `sparsevec` accept: their text form, their binary form, and the checks that all values pass. Pure: what
//! is made of the numbers, and how an error is raised, is the caller's business.
//!
//! | file | content |
//! |---|---|
//! | `vector_type.rs` | the three types: names, limits, checks of dimensions and numbers |
//! | `element.rs` | what `vector` and `halfvec` are made of |
//! | `dense/` | text and binary form of these two |
//! | `sparse/` | text and binary form of `sparsevec` |
//! | `cursor.rs` | reading a literal from left to right |
//! | `error.rs` | why something is no value |

mod cursor;
pub mod dense;
mod element;
mod error;
pub mod sparse;
mod vector_type;

pub use element::Element;
pub use error::InputError;
pub use half::f16;
pub use vector_type::VectorType;

/// Result of reading a value.
pub type Result<T> = core::result::Result<T, InputError>;
