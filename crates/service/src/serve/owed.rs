//! Answers that are there but not told yet.
//!
//! Telling one takes about as long as the device takes for a search of a batch: its bytes go to another processor's cache, and a process is
//! woken. So while more requests are ready, the next batch is given to the device first, and the answers of the last are told while it works.

use super::hosted::Chosen;
use super::{Admitted, Hosted};
use crate::message::{Answer, OfQuery, TierKey, encode_error};
use crate::queue::{Queue, Taken};
use omen_gpu::params::Found;
use omen_gpu::{BatchFound, GpuError};
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
    fn of(&self, q: usize) -> (&[Found], f32) {
        let all = self.found.of(q);
        match all.get(self.k) {
            // What is cut off was known to be next.
            Some(next) => (&all[..self.k], next.key),
            None => (all, self.found.heads[q].frontier),
        }
    }

    fn write(&self, payload: &mut [u8]) -> usize {
        let places = self.chosen.places.as_deref();
        let (mut queries, mut found) = (Vec::new(), Vec::new());
        for (i, q) in self.queries.clone().enumerate() {
            let (items, frontier) = self.of(q);
            queries.push(OfQuery {
                n_found: items.len() as u32,
                frontier,
                n_places: places.map_or(OfQuery::ALL, |places| places[i].len() as u32),
            });
            found.push(items);
        }
        let places = places.unwrap_or_default().concat();
        self.head
            .encode(&queries, &found, &self.chosen.lists, &places, payload)
            .unwrap_or_else(|e| {
                encode_error(&GpuError::Unsupported(format!("answer: {e}")), payload)
            })
    }
}
