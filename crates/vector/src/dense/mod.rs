//! The types that store all coordinates, `vector` and `halfvec`.

mod binary;
mod text;

pub use binary::{Binary, HEAD_BYTES, binary_bytes, put_binary, read_binary};
pub use text::{parse_text, room_for};
