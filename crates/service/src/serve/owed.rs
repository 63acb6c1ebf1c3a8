//! Answers that are there but not told yet.
//!
//! Telling one takes about as long as the device takes for a search of a batch: its bytes go to another processor's cache, and a process is
//! woken. So while more requests are ready, the next batch is given to the device first, and the answers of the last are told while it works.

use super::hosted::Chosen;
use super::{Admitted, Hosted};
use crate::message::{Answer, MessageError, OfQuery, TierKey, encode_error};
use crate::queue::{Queue, Taken};
use bytemuck::Pod;
use omen_gpu::batch::codes::named_for;
use omen_gpu::params::Found;
use omen_gpu::{BatchFound, GpuError, NearSlot};
use std::ops::Range;
use std::rc::Rc;

/// The answer to one request.
pub(super) struct Owed {
    key: TierKey,
    taken: Taken,
    answer: ToTell,
}

/// What is to be told.
struct ToTell {
    found: Rc<BatchFound>,
    /// Which queries of the batch these were, and how many candidates each wants.
    queries: Range<usize>,
    k: usize,
    chosen: Chosen,
    head: Answer,
}

impl Owed {
    /// The answer to some queries of a batch; `batch` is what all its answers say.
    pub(super) fn new(
        request: Admitted,
        hosted: &Hosted,
        found: Rc<BatchFound>,
        queries: Range<usize>,
        batch: Answer,
    ) -> Self {
        Self {
            key: request.head.key,
            taken: request.taken,
            answer: ToTell {
                k: request.head.k as usize,
                // Now: what is found out about the tier later does not count for what was searched before.
                chosen: match request.lists.as_slice() {
                    [] => hosted.chosen(&found, queries.clone()),
                    given => hosted.given(given),
                },
                queries,
                head: batch,
                found,
            },
        }
    }

    /// The tier that was searched.
    pub(super) fn key(&self) -> TierKey {
        self.key
    }

    /// Tells it.
    pub(super) fn tell(self, queue: &Queue, wake: &mut dyn FnMut(u32)) {
        let Self { taken, answer, .. } = self;
        queue.answer(taken, |payload| answer.write(payload), wake);
    }
}

impl ToTell {
    /// The candidates of query `q`, and their frontier.
    fn found(&self, q: usize) -> (&[Found], f32) {
        let all = self.found.of(q);
        match all.get(self.k) {
            // What is cut off was known to be next.
            Some(next) => (&all[..self.k], next.key),
            None => (all, self.found.heads[q].frontier),
        }
    }

    /// Likewise the slots named, as many as the query's own k gives it.
    fn named(&self, q: usize) -> (Vec<NearSlot>, f32) {
        let most = named_for(self.k).unwrap_or(usize::MAX);
        let mut all = self.found.slots_of(q);
        let named = all.by_ref().take(most).collect();
        let next = all.next().map(|next| next.bound);
        (named, next.unwrap_or(self.found.heads[q].frontier))
    }

    fn write(&self, payload: &mut [u8]) -> usize {
        let written = if self.head.names_slots == 0 {
            let found: Vec<_> = self.queries.clone().map(|q| self.found(q)).collect();
            self.encode(&found, payload)
        } else {
            let named: Vec<_> = self.queries.clone().map(|q| self.named(q)).collect();
            let named: Vec<_> = named.iter().map(|(n, f)| (n.as_slice(), *f)).collect();
            self.encode(&named, payload)
        };
        written.unwrap_or_else(|e| {
            encode_error(&GpuError::Unsupported(format!("answer: {e}")), payload)
        })
    }

    /// Writes the answer, which is `found`, of each query with its frontier.
    fn encode<T: Pod>(
        &self,
        found: &[(&[T], f32)],
        payload: &mut [u8],
    ) -> Result<usize, MessageError> {
        let places = self.chosen.places.as_deref();
        let of_query = |(i, q): (usize, usize)| OfQuery {
            n_found: found[i].0.len() as u32,
            frontier: found[i].1,
            overflow: self.found.heads[q].overflow,
            n_places: places.map_or(OfQuery::ALL, |places| places[i].len() as u32),
        };
        let queries: Vec<OfQuery> = self.queries.clone().enumerate().map(of_query).collect();
        let found: Vec<&[T]> = found.iter().map(|(found, _)| *found).collect();
        let places = places.unwrap_or_default().concat();
        self.head
            .encode(&queries, &found, &self.chosen.lists, &places, payload)
    }
}
