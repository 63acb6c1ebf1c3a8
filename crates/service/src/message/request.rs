//! What a client asks.

use super::{MessageError, Reader, TierKey};
use bytemuck::{Pod, Zeroable};
use omen_gpu::params::QueryBound;
use omen_ivf::layout::directory::ListEntry;

/// Most queries of a request: two that are as large as they may be go together in one batch.
pub const MAX_QUERIES: usize = 128;

/// Head of a request. Then come [`StaleList`] `[n_stale]`, the lists to search, u32 `[n_lists]`, [`QueryBound`] `[n_queries]`, and the queries,
/// f32 `[n_queries, words]` (`omen_ivf`'s `Query::words`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Request {
    /// The tier to search.
    pub key: TierKey,
    /// Lists to search, the nearest; all of them if there are not more.
    pub probes: u32,
    /// Results wanted of each query, at least 1.
    pub k: u32,
    /// Lists farther than this from the nearest one are left out; +inf for no limit.
    pub spread: f32,
    /// The index's g.
    pub rounding: f32,
    /// Queries, 1 to [`MAX_QUERIES`].
    pub n_queries: u32,
    /// Words of 32 bits of a query.
    pub words: u32,
    /// Lists that are said to be out of date.
    pub n_stale: u32,
    /// Lists that are given, for each query to search; 0: the nearest ones are searched, by `probes` and `spread`.
    pub n_lists: u32,
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
    /// `ListEntry::append_delete_gen`.
    pub append_delete_gen: u32,
}

impl StaleList {
    /// List number `list`, by its directory entry.
    pub fn new(list: u32, entry: &ListEntry) -> Self {
        Self {
            list,
            layout_gen: entry.layout_gen,
            delete_gen: entry.delete_gen,
            append_delete_gen: entry.append_delete_gen,
        }
    }
}

/// A request as it lies in a slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestView<'a> {
    /// A copy of the head.
    pub head: Request,
    /// `[n_stale]`
    pub stale: &'a [StaleList],
    /// `[n_lists]`
    pub lists: &'a [u32],
    /// `[n_queries]`
    pub bounds: &'a [QueryBound],
    /// `[n_queries, words]`
    pub vectors: &'a [f32],
}

impl Request {
    /// Bytes of a request of `n_queries` queries of so many words that gives `n_lists` lists and names `n_stale`.
    pub fn bytes(n_queries: usize, words: usize, n_lists: usize, n_stale: usize) -> usize {
        let of_query = words
            .saturating_mul(4)
            .saturating_add(size_of::<QueryBound>());
        let of_queries = n_queries.saturating_mul(of_query);
        let of_stale = n_stale.saturating_mul(size_of::<StaleList>());
        size_of::<Self>()
            .saturating_add(of_queries)
            .saturating_add(of_stale)
            .saturating_add(n_lists.saturating_mul(4))
    }

    /// Writes the request, whose `n_stale` and `n_lists` are set to the lengths of `stale` and `lists`; `fill` writes the queries, `[n_queries, words]`, and their bounds,
    /// `[n_queries]`. The bytes it takes. Errors: `Room`, `Misaligned`, with nothing written.
    pub fn encode(
        mut self,
        stale: &[StaleList],
        lists: &[u32],
        payload: &mut [u8],
        fill: impl FnOnce(&mut [f32], &mut [QueryBound]),
    ) -> Result<usize, MessageError> {
        (self.n_stale, self.n_lists) = (stale.len() as u32, lists.len() as u32);
        let (n_queries, words) = (self.n_queries as usize, self.words as usize);
        let needed = Self::bytes(n_queries, words, lists.len(), stale.len());
        if needed > payload.len() {
            let (needed, there) = (needed as u64, payload.len() as u64);
            return Err(MessageError::Room { needed, there });
        }
        let (to_head, rest) = payload[..needed].split_at_mut(size_of::<Self>());
        let (to_stale, rest) = rest.split_at_mut(size_of_val(stale));
        let (to_lists, rest) = rest.split_at_mut(size_of_val(lists));
        let (bounds, vectors) = rest.split_at_mut(n_queries * size_of::<QueryBound>());
        let misaligned = |_| MessageError::Misaligned;
        let bounds = bytemuck::try_cast_slice_mut(bounds).map_err(misaligned)?;
        let vectors = bytemuck::try_cast_slice_mut(vectors).map_err(misaligned)?;
        to_head.copy_from_slice(bytemuck::bytes_of(&self));
        to_stale.copy_from_slice(bytemuck::cast_slice(stale));
        to_lists.copy_from_slice(bytemuck::cast_slice(lists));
        fill(vectors, bounds);
        Ok(needed)
    }

    /// The arrays that follow this head, or a copy of it that was checked before: what the payload's own head says does not count.
    pub fn arrays<'a>(self, payload: &'a [u8]) -> Result<RequestView<'a>, MessageError> {
        let mut reader = Reader::new(payload);
        reader.head::<Self>()?;
        let n_queries = u64::from(self.n_queries);
        Ok(RequestView {
            head: self,
            stale: reader.take(self.n_stale.into())?,
            lists: reader.take(self.n_lists.into())?,
            bounds: reader.take(n_queries)?,
            vectors: reader.take(n_queries.saturating_mul(self.words.into()))?,
        })
    }
}

/// The request in a payload.
pub fn decode_request(payload: &[u8]) -> Result<RequestView<'_>, MessageError> {
    Reader::new(payload).head::<Request>()?.arrays(payload)
}
