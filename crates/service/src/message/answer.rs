//! What the server answers.

use super::{MessageError, Reader, Status, write};
use bytemuck::{Pod, Zeroable};
use omen_gpu::NearSlot;
use omen_gpu::params::Found;
use omen_ivf::list_reader::AppendedTo;
use std::iter::once;

/// Head of an answer. If its status is Ok, [`OfQuery`] `[n_queries]` follow, their [`Found`] (of a tier of codes alone their [`NearSlot`]),
/// [`ChosenList`] `[n_lists]`, and the places of their lists, u32 each; else `n_text` bytes of text.
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
    /// Not 0: the tier has codes alone, and what it found are slots of its own, whose vectors the client is to look at.
    pub names_slots: u32,
    /// 0.
    pub reserved: u32,
    /// OutOfMemory: bytes needed. NotResident: the list.
    pub needed: u64,
    /// OutOfMemory: bytes there are.
    pub available: u64,
}

/// What is said of one query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct OfQuery {
    /// Candidates, at most as many as were asked for, ascending by (key, tid). Where slots are named, these, ascending by bound.
    pub n_found: u32,
    /// Live entries of the lists searched that are not among the candidates have keys of at least this.
    pub frontier: f32,
    /// Not 0: entries were lost, so that the query is not answered. Only where slots are named.
    pub overflow: u32,
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
    /// Live ones of its frozen part when the list was loaded.
    pub n_live: u32,
    /// The first of their slots in the tier.
    pub first_slot: u32,
    /// The entries appended to the list that were searched too.
    pub appended: AppendedTo,
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
    named: &'a [NearSlot],
    places: &'a [u32],
}

/// The answer to one query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answered<'a> {
    /// Candidates, ascending by (key, tid). None where slots are named.
    pub found: &'a [Found],
    /// The slots named, ascending by bound.
    pub named: &'a [NearSlot],
    /// Whether entries were lost, so that this is no answer.
    pub is_lost: bool,
    /// What is not among them has keys of at least this.
    pub frontier: f32,
    /// Places of its lists among those of the answer, nearest first; `None`: all, in their order.
    pub places: Option<&'a [u32]>,
}

impl<'a> AnswerView<'a> {
    /// Whether the tier has codes alone, so that its answers are slots.
    pub fn names_slots(&self) -> bool {
        self.head.names_slots != 0
    }

    /// The answers to the queries, in the order of the request.
    pub fn each(&self) -> impl Iterator<Item = Answered<'a>> {
        let (mut found, mut named, mut places) = (self.found, self.named, self.places);
        let names_slots = self.names_slots();
        self.queries.iter().map(move |query| {
            // Checked before; should the slot be written to since, fewer are there.
            let n = query.n_found as usize;
            let n_found = if names_slots { 0 } else { n.min(found.len()) };
            let (my_found, others) = found.split_at(n_found);
            found = others;
            let n_named = if names_slots { n.min(named.len()) } else { 0 };
            let (my_named, others) = named.split_at(n_named);
            named = others;
            let has_places = query.n_places != OfQuery::ALL;
            let my_places = has_places.then(|| {
                let n_places = (query.n_places as usize).min(places.len());
                let (mine, others) = places.split_at(n_places);
                places = others;
                mine
            });
            Answered {
                found: my_found,
                named: my_named,
                is_lost: query.overflow != 0,
                frontier: query.frontier,
                places: my_places,
            }
        })
    }
}

impl Answer {
    /// Bytes of an answer to `n_queries` queries, each of what takes `found_bytes` and of `n_chosen` lists, in an index of `n_lists` lists, if
    /// each list is some query's: most that it can take.
    pub fn bytes(n_queries: usize, found_bytes: usize, n_chosen: usize, n_lists: usize) -> usize {
        let n_chosen = n_chosen.min(n_lists);
        let n_told = n_queries.saturating_mul(n_chosen).min(n_lists);
        let n_places = if n_queries > 1 { n_chosen } else { 0 };
        let of_query = size_of::<OfQuery>()
            .saturating_add(found_bytes)
            .saturating_add(n_places.saturating_mul(4));
        size_of::<Self>()
            .saturating_add(n_queries.saturating_mul(of_query))
            .saturating_add(n_told.saturating_mul(size_of::<ChosenList>()))
    }

    /// Writes the answer as one with status Ok, its numbers set to the lengths of the arrays; the bytes it takes. `found` are of each query the
    /// candidates, or the slots named. Error: `Room`, with nothing written.
    pub fn encode<T: Pod>(
        mut self,
        queries: &[OfQuery],
        found: &[&[T]],
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
    let n_found: u64 = queries.iter().map(|q| u64::from(q.n_found)).sum();
    let names_slots = head.names_slots != 0;
    let with_places = queries.iter().filter(|q| q.n_places != OfQuery::ALL);
    let n_places = with_places.map(|q| u64::from(q.n_places)).sum();
    let view = AnswerView {
        head,
        status,
        queries,
        found: reader.take(if names_slots { 0 } else { n_found })?,
        named: reader.take(if names_slots { n_found } else { 0 })?,
        lists: reader.take(if_ok(head.n_lists))?,
        places: reader.take(n_places)?,
        text: reader.take(if is_ok { 0 } else { head.n_text.into() })?,
    };
    match view.places.iter().find(|&&place| place >= head.n_lists) {
        Some(&place) => Err(MessageError::NoList(place)),
        None => Ok(view),
    }
}

/// Which list a slot of a tier belongs to, by what an answer says of its lists.
pub struct SlotPlaces<'a> {
    /// Those that have slots, in the order of these.
    lists: Vec<&'a ChosenList>,
}

impl<'a> SlotPlaces<'a> {
    /// For lists of an answer.
    pub fn new(lists: impl IntoIterator<Item = &'a ChosenList>) -> Self {
        let mut lists: Vec<&ChosenList> = lists.into_iter().filter(|l| l.n_slots > 0).collect();
        lists.sort_unstable_by_key(|list| list.first_slot);
        Self { lists }
    }

    /// The list of `slot`, and its number in the list; `None` for a slot of none of them.
    pub fn place_of(&self, slot: u32) -> Option<(u32, u32)> {
        let after = self.lists.partition_point(|list| list.first_slot <= slot);
        let list = self.lists[..after].last()?;
        let in_list = slot - list.first_slot;
        (in_list < list.n_slots).then_some((list.list, in_list))
    }
}
