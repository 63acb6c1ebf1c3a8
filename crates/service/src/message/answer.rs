//! What the server answers.

use super::{MessageError, Reader, Status, write};
use bytemuck::{Pod, Zeroable};
use omen_gpu::params::Found;
use std::iter::once;

/// Head of an answer. If its status is Ok, [`OfQuery`] `[n_queries]` follow, their [`Found`], [`ChosenList`] `[n_lists]`, and the places of
/// their lists, u32 each; else `n_text` bytes of text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Answer {
    /// A [`Status`].
    pub status: u32,
    /// Queries of the request.
    pub n_queries: u32,
    /// Lists of all its queries together, each once.
    pub n_lists: u32,
    /// Queries of the batch.
    pub batch_size: u32,
    /// Microseconds the batch took.
    pub device_us: u32,
    /// Bytes of text.
    pub n_text: u32,
    /// OutOfMemory: bytes needed. NotResident: the list.
    pub needed: u64,
    /// OutOfMemory: bytes there are.
    pub available: u64,
}

/// What is said of one query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct OfQuery {
    /// Candidates, at most as many as were asked for, ascending by (key, tid).
    pub n_found: u32,
    /// Live entries of the lists searched that are not among the candidates have keys of at least this.
    pub frontier: f32,
    /// Lists that the device chose, nearest first, as places among those of the answer; or [`Self::ALL`] of these, in their order.
    pub n_places: u32,
}

impl OfQuery {
    /// In place of a number of lists: those of the answer. So it is if there is only one query, or if each has all lists of the index, which
    /// are told by number, or those that were given.
    pub const ALL: u32 = u32::MAX;
}

/// In place of a `delete_gen`: the tier has the list, but out of date.
pub const STALE: u32 = 1;

/// A list of a query, and what the tier holds of it.
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
    /// `[n_lists]`
    pub lists: &'a [ChosenList],
    /// What the server says about an error: UTF-8, perhaps cut.
    pub text: &'a [u8],
    queries: &'a [OfQuery],
    found: &'a [Found],
    places: &'a [u32],
}

/// The answer to one query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answered<'a> {
    /// Candidates, ascending by (key, tid).
    pub found: &'a [Found],
    /// What is not among them has keys of at least this.
    pub frontier: f32,
    /// Places of its lists among those of the answer, nearest first; `None`: all, in their order.
    pub places: Option<&'a [u32]>,
}

impl<'a> AnswerView<'a> {
    /// The answers to the queries, in the order of the request.
    pub fn each(&self) -> impl Iterator<Item = Answered<'a>> {
        let (mut found, mut places) = (self.found, self.places);
        self.queries.iter().map(move |query| {
            let (mine, others) = found.split_at(query.n_found as usize);
            found = others;
            let has_places = query.n_places != OfQuery::ALL;
            let my_places = has_places.then(|| {
                let (mine, others) = places.split_at(query.n_places as usize);
                places = others;
                mine
            });
            Answered {
                found: mine,
                frontier: query.frontier,
                places: my_places,
            }
        })
    }
}

impl Answer {
    /// Bytes of an answer to `n_queries` queries, of `n_found` candidates and `n_chosen` lists each, in an index of `n_lists` lists, if each
    /// list is some query's: most that it can take.
    pub fn bytes(n_queries: usize, n_found: usize, n_chosen: usize, n_lists: usize) -> usize {
        let n_chosen = n_chosen.min(n_lists);
        let n_told = n_queries.saturating_mul(n_chosen).min(n_lists);
        let n_places = if n_queries > 1 { n_chosen } else { 0 };
        let of_query = size_of::<OfQuery>()
            .saturating_add(n_found.saturating_mul(size_of::<Found>()))
            .saturating_add(n_places.saturating_mul(4));
        size_of::<Self>()
            .saturating_add(n_queries.saturating_mul(of_query))
            .saturating_add(n_told.saturating_mul(size_of::<ChosenList>()))
    }

    /// Writes the answer as one with status Ok, its numbers set to the lengths of the arrays; the bytes it takes. `found` are the candidates of
    /// each query. Error: `Room`, with nothing written.
    pub fn encode(
        mut self,
        queries: &[OfQuery],
        found: &[&[Found]],
        lists: &[ChosenList],
        places: &[u32],
        payload: &mut [u8],
    ) -> Result<usize, MessageError> {
        self.status = Status::Ok as u32;
        (self.n_queries, self.n_lists) = (queries.len() as u32, lists.len() as u32);
        self.n_text = 0;
        let before = [bytemuck::bytes_of(&self), bytemuck::cast_slice(queries)];
        let found = found.iter().map(|found| bytemuck::cast_slice(found));
        let after = once(bytemuck::cast_slice(lists)).chain(once(bytemuck::cast_slice(places)));
        write(payload, before.into_iter().chain(found).chain(after))
    }
}

/// The answer in what the server wrote.
pub fn decode_answer(bytes: &[u8]) -> Result<AnswerView<'_>, MessageError> {
    let mut reader = Reader::new(bytes);
    let head: Answer = *reader.head()?;
    let status = Status::from_number(head.status).ok_or(MessageError::Status(head.status))?;
    let is_ok = status == Status::Ok;
    let if_ok = |n: u32| if is_ok { u64::from(n) } else { 0 };
    let queries: &[OfQuery] = reader.take(if_ok(head.n_queries))?;
    let n_found = queries.iter().map(|q| u64::from(q.n_found)).sum();
    let with_places = queries.iter().filter(|q| q.n_places != OfQuery::ALL);
    let n_places = with_places.map(|q| u64::from(q.n_places)).sum();
    let view = AnswerView {
        head,
        status,
        queries,
        found: reader.take(n_found)?,
        lists: reader.take(if_ok(head.n_lists))?,
        places: reader.take(n_places)?,
        text: reader.take(if is_ok { 0 } else { head.n_text.into() })?,
    };
    match view.places.iter().find(|&&place| place >= head.n_lists) {
        Some(&place) => Err(MessageError::NoList(place)),
        None => Ok(view),
    }
}
