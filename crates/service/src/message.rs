//! The forms of requests and answers in a slot's payload: a head, then arrays, all in the machine's byte order and without gaps.
//! Nothing is believed: decoding any bytes gives a message or an error.

mod status;

pub use status::{Refusal, Status, encode_error, encode_status};

use bytemuck::{Pod, Zeroable};
use omen_gpu::params::{Found, QueryBound};
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

/// Head of a request. Then come the query, f32 `[dim]` in scaled space (`omen_ivf`'s `Query::vector`), and [`StaleList`] `[n_stale]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Request {
    /// The tier to search.
    pub key: TierKey,
    /// Lists to search; all of them if there are not more.
    pub probes: u32,
    /// Results wanted, at least 1.
    pub k: u32,
    /// Lists farther than this from the nearest one are left out; +inf for no limit.
    pub spread: f32,
    /// The index's g.
    pub rounding: f32,
    /// What the keys need besides the coordinates.
    pub bound: QueryBound,
    /// Dimension of the query.
    pub dim: u32,
    /// Lists that follow the query.
    pub n_stale: u32,
}

/// A list as the client found it in the index's directory. A tier that has other generations of it does not search it any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct StaleList {
    /// Number of the list.
    pub list: u32,
    /// `ListEntry::layout_gen`.
    pub layout_gen: u32,
    /// `ListEntry::delete_gen`.
    pub delete_gen: u32,
}

/// A request as it lies in a slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestView<'a> {
    /// A copy of the head.
    pub head: Request,
    /// `[dim]`
    pub vector: &'a [f32],
    /// `[n_stale]`
    pub stale: &'a [StaleList],
}

/// Head of an answer. If its status is Ok, [`Found`] `[n_found]` and [`ChosenList`] `[n_lists]` follow, else `n_text` bytes of text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Answer {
    /// A [`Status`].
    pub status: u32,
    /// Candidates, at most as many as were asked for, ascending by (key, tid).
    pub n_found: u32,
    /// Live entries of the lists searched that are not among the candidates have keys of at least this.
    pub frontier: f32,
    /// Lists that the device chose, nearest first; all of the index, by number, if all were asked for.
    pub n_lists: u32,
    /// Queries of the batch.
    pub batch_size: u32,
    /// Microseconds the batch took.
    pub device_us: u32,
    /// OutOfMemory: bytes needed. NotResident: the list.
    pub needed: u64,
    /// OutOfMemory: bytes there are.
    pub available: u64,
    /// Bytes of text.
    pub n_text: u32,
    /// Zero.
    pub reserved: u32,
}

/// In place of a `delete_gen`: the tier has the list, but out of date.
pub const STALE: u32 = 1;

/// A list of the query, and what the tier holds of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ChosenList {
    /// Number of the list.
    pub list: u32,
    /// `ListEntry::layout_gen` when the list was loaded; 0 (no list has it): the list was not searched, being absent or stale.
    pub layout_gen: u32,
    /// `ListEntry::delete_gen` when the list was loaded; where it was not searched, [`STALE`] or 0 for a list that is absent.
    pub delete_gen: u32,
    /// Entries of the list that were searched, dead ones included.
    pub n_slots: u32,
}

/// An answer as it lies in a slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerView<'a> {
    /// A copy of the head.
    pub head: Answer,
    /// Its status.
    pub status: Status,
    /// `[n_found]`
    pub found: &'a [Found],
    /// `[n_lists]`
    pub lists: &'a [ChosenList],
    /// What the server says about an error: UTF-8, perhaps cut.
    pub text: &'a [u8],
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

    fn take<T: Pod>(&mut self, n: u32) -> Result<&'a [T], MessageError> {
        // At most 2^38 or so: cannot overflow.
        let end = self.at + u64::from(n) * size_of::<T>() as u64;
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

/// Writes the parts of a message one after the other; the bytes they take.
fn write(payload: &mut [u8], parts: &[&[u8]]) -> Result<usize, MessageError> {
    let needed: usize = parts.iter().map(|part| part.len()).sum();
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

impl Request {
    /// Bytes of a request for a query of `dim` dimensions that names `n_stale` lists.
    pub fn bytes(dim: usize, n_stale: usize) -> usize {
        size_of::<Self>() + dim * 4 + n_stale * size_of::<StaleList>()
    }

    /// Writes the request, whose `dim` and `n_stale` are set to the lengths of `vector` and `stale`; the bytes it takes. Error: `Room`,
    /// with nothing written.
    pub fn encode(
        mut self,
        vector: &[f32],
        stale: &[StaleList],
        payload: &mut [u8],
    ) -> Result<usize, MessageError> {
        (self.dim, self.n_stale) = (vector.len() as u32, stale.len() as u32);
        let (vector, stale) = (bytemuck::cast_slice(vector), bytemuck::cast_slice(stale));
        write(payload, &[bytemuck::bytes_of(&self), vector, stale])
    }

    /// The arrays that follow this head, or a copy of it that was checked before: what the payload's own head says does not count.
    pub fn arrays<'a>(
        &self,
        payload: &'a [u8],
    ) -> Result<(&'a [f32], &'a [StaleList]), MessageError> {
        let mut reader = Reader::new(payload);
        reader.head::<Self>()?;
        Ok((reader.take(self.dim)?, reader.take(self.n_stale)?))
    }
}

/// The request in a payload.
pub fn decode_request(payload: &[u8]) -> Result<RequestView<'_>, MessageError> {
    let head = *Reader::new(payload).head::<Request>()?;
    let (vector, stale) = head.arrays(payload)?;
    Ok(RequestView {
        head,
        vector,
        stale,
    })
}

impl Answer {
    /// Bytes of an answer with `n_found` candidates and `n_lists` lists.
    pub fn bytes(n_found: usize, n_lists: usize) -> usize {
        size_of::<Self>() + n_found * size_of::<Found>() + n_lists * size_of::<ChosenList>()
    }

    /// Writes the answer as one with status Ok, its numbers set to the lengths of `found` and `lists`; the bytes it takes. Error: `Room`,
    /// with nothing written.
    pub fn encode(
        mut self,
        found: &[Found],
        lists: &[ChosenList],
        payload: &mut [u8],
    ) -> Result<usize, MessageError> {
        self.status = Status::Ok as u32;
        (self.n_found, self.n_lists) = (found.len() as u32, lists.len() as u32);
        self.n_text = 0;
        let (found, lists) = (bytemuck::cast_slice(found), bytemuck::cast_slice(lists));
        write(payload, &[bytemuck::bytes_of(&self), found, lists])
    }
}

/// The answer in what the server wrote.
pub fn decode_answer(bytes: &[u8]) -> Result<AnswerView<'_>, MessageError> {
    let mut reader = Reader::new(bytes);
    let head: Answer = *reader.head()?;
    let status = Status::from_number(head.status).ok_or(MessageError::Status(head.status))?;
    let is_ok = status == Status::Ok;
    let (n_found, n_lists) = if is_ok {
        (head.n_found, head.n_lists)
    } else {
        (0, 0)
    };
    Ok(AnswerView {
        head,
        status,
        found: reader.take(n_found)?,
        lists: reader.take(n_lists)?,
        text: reader.take(if is_ok { 0 } else { head.n_text })?,
    })
}
