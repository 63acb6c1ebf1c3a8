//! Answers that are there but not told yet.
//!
//! Telling one takes about as long as the device takes for a search of a batch: its bytes go to another processor's cache, and a process is
//! woken. So while more requests are ready, the next batch is given to the device first, and the answers of the last are told while it works.

use super::{Admitted, Hosted};
use crate::message::{Answer, ChosenList, TierKey, encode_error};
use crate::queue::{Queue, Taken};
use omen_gpu::{BatchFound, GpuError};
use std::rc::Rc;

/// The answer to one request.
pub(super) struct Owed {
    key: TierKey,
    taken: Taken,
    found: Rc<BatchFound>,
    /// Which query of the batch it was, and how many candidates it wants.
    q: usize,
    k: usize,
    lists: Vec<ChosenList>,
    head: Answer,
}

impl Owed {
    /// The answer to query `q` of a batch; `batch` is what all its answers say.
    pub(super) fn new(
        request: Admitted,
        hosted: &Hosted,
        found: Rc<BatchFound>,
        q: usize,
        batch: Answer,
    ) -> Self {
        Self {
            key: request.head.key,
            taken: request.taken,
            q,
            k: request.head.k as usize,
            // Now: what is found out about the tier later does not count for what was searched before.
            lists: hosted.chosen(&found, q),
            head: batch,
            found,
        }
    }

    /// The tier that was searched.
    pub(super) fn key(&self) -> TierKey {
        self.key
    }

    /// Tells it.
    pub(super) fn tell(self, queue: &Queue, wake: &mut dyn FnMut(u32)) {
        let all = self.found.of(self.q);
        // What is cut off was known to be next.
        let (items, frontier) = match all.get(self.k) {
            Some(next) => (&all[..self.k], next.key),
            None => (all, self.found.heads[self.q].frontier),
        };
        let answer = Answer {
            frontier,
            ..self.head
        };
        let write = |payload: &mut [u8]| {
            answer
                .encode(items, &self.lists, payload)
                .unwrap_or_else(|e| {
                    encode_error(&GpuError::Unsupported(format!("answer: {e}")), payload)
                })
        };
        queue.answer(self.taken, write, wake);
    }
}
