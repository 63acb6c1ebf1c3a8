//! The forms of requests and answers in a slot's payload: a head, then arrays, all in the machine's byte order and without gaps.
//! Nothing is believed: decoding any bytes gives a message or an error.

mod answer;
mod request;
mod status;

pub use answer::{
    Answer, AnswerView, Answered, ChosenList, OfQuery, STALE, SlotPlaces, decode_answer,
};
pub use request::{MAX_QUERIES, Request, RequestView, StaleList, decode_request};
pub use status::{Refusal, Status, encode_error, encode_status};

use bytemuck::{Pod, Zeroable};
use thiserror::Error;

/// Bytes that are not a message, or a message without room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The message takes more bytes than there are.
    #[error("a message of {needed} bytes in {there}")]
    Room {
        /// Bytes of the message.
        needed: u64,
        /// Bytes there are.
        there: u64,
    },
    /// The memory is not aligned to 8 bytes.
    #[error("a message that is not aligned")]
    Misaligned,
    /// A status that there is not.
    #[error("a message with status {0}")]
    Status(u32),
    /// An answer that refers to a list which it does not tell of.
    #[error("an answer that lacks list {0}")]
    NoList(u32),
}

/// Which tier: an index, as one build of it left it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct TierKey {
    /// Tablespace of the index.
    pub tablespace: u32,
    /// Database of the index.
    pub database: u32,
    /// File number of the index.
    pub number: u32,
    /// The index itself, whatever its file: what the host knows it by.
    pub index: u32,
    /// The index's seed.
    pub seed: u64,
    /// When the index was built.
    pub built_at: i64,
}

/// Takes arrays from bytes, one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take<T: Pod>(&mut self, n: u64) -> Result<&'a [T], MessageError> {
        let end = self.at.saturating_add(bytes_of(n, size_of::<T>()));
        let there = self.bytes.len() as u64;
        if end > there {
            return Err(MessageError::Room { needed: end, there });
        }
        let part = &self.bytes[self.at as usize..end as usize];
        self.at = end;
        bytemuck::try_cast_slice(part).map_err(|_| MessageError::Misaligned)
    }

    fn head<T: Pod>(&mut self) -> Result<&'a T, MessageError> {
        Ok(&self.take::<T>(1)?[0])
    }
}

/// Bytes of `n` items, or more than there can be.
fn bytes_of(n: u64, size: usize) -> u64 {
    n.saturating_mul(size as u64)
}

/// Writes the parts of a message one after the other; the bytes they take.
fn write<'a>(
    payload: &mut [u8],
    parts: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<usize, MessageError> {
    let needed: usize = parts.clone().map(<[u8]>::len).sum();
    let there = payload.len();
    if needed > there {
        let (needed, there) = (needed as u64, there as u64);
        return Err(MessageError::Room { needed, there });
    }
    let mut rest = payload;
    for part in parts {
        let (to, left) = rest.split_at_mut(part.len());
        to.copy_from_slice(part);
        rest = left;
    }
    Ok(needed)
}
