//! Batches of pinned pages: from the pin to the look at the page that ends it.

use super::{LoadError, Loader};
use crate::copiers::Job;
use crate::engine::TierWriter;
use omen_ivf::export::Stream;
use omen_ivf::layout::page::TAIL_START;
use omen_ivf::store::PinStore;
use std::sync::Arc;

/// A batch is handed to the copiers when it has so many pages.
const BATCH_PAGES: usize = 64;

/// A pinned page, and what it is expected to be.
pub(super) struct Pinned<P> {
    pin: P,
    /// Index in `Loader::lists`.
    reading: usize,
    stream: Stream,
    seq: u32,
}

/// Pages given back together, once their bytes are copied.
pub(super) struct Batch<P> {
    pub(super) pages: Vec<Pinned<P>>,
    /// None: nothing to be copied.
    job: Option<Arc<Job>>,
}

impl<P> Batch<P> {
    fn is_done(&self) -> bool {
        self.job.as_ref().is_none_or(|job| job.is_done())
    }
}

impl<P> Default for Batch<P> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            job: None,
        }
    }
}

impl<S: PinStore, W: TierWriter + ?Sized> Drop for Loader<'_, S, W> {
    /// However this ends: nothing is read from pages any more.
    fn drop(&mut self) {
        self.builder.staging.finish_copies();
    }
}

impl<S: PinStore, W: TierWriter + ?Sized> Loader<'_, S, W> {
    /// Where page `seq` of the stream is; pins it, unless it was pinned last.
    pub(super) fn page(&mut self, stream: Stream, seq: u32) -> Result<*const u8, LoadError> {
        if let Some(pinned) = &self.page
            && pinned.seq == seq
        {
            return Ok(self.s.address(&pinned.pin));
        }
        // The last bytes of the page before are in this batch or in an earlier one.
        self.filling.pages.extend(self.page.take());
        if self.filling.pages.len() >= BATCH_PAGES || self.n_pinned >= self.max_pins {
            self.dispatch()?;
        }
        while self.n_pinned >= self.max_pins && !self.copied.is_empty() {
            self.release_oldest();
        }
        let reading = self.lists.len() - 1;
        let pages = &self.lists[reading].pages;
        let block = match stream {
            Stream::Code => pages.code[seq as usize],
            Stream::Vector => pages.vector[seq as usize],
        };
        let pin = self.s.pin(block)?;
        self.n_pinned += 1;
        let pinned = self.page.insert(Pinned {
            pin,
            reading,
            stream,
            seq,
        });
        Ok(self.s.address(&pinned.pin))
    }

    /// Hands the batch to the copiers, sends areas that are complete, and gives back pages that are copied.
    #[allow(unsafe_code)]
    pub(super) fn dispatch(&mut self) -> Result<(), LoadError> {
        let mut batch = std::mem::take(&mut self.filling);
        let room = Vec::with_capacity(self.pieces.capacity());
        let pieces = std::mem::replace(&mut self.pieces, room);
        self.piece_bytes = 0;
        if !pieces.is_empty() {
            // SAFETY: the sources lie on pages pinned by this batch, by later ones or by the stream's current page. They stay
            // pinned until `release_oldest` or `release_all` has waited for this batch; should an error unwind, `drop` waits.
            // The targets are parts that the area being filled gave out, each once; the area lives as long as the writer, which
            // the builder drops after its staging.
            batch.job = unsafe { self.builder.staging.copy(pieces) };
        }
        self.copied.push_back(batch);
        self.builder
            .staging
            .send_complete(self.builder.writer.as_mut())?;
        while self.copied.front().is_some_and(Batch::is_done) {
            self.release_oldest();
        }
        self.s.check_interrupts()?;
        Ok(())
    }

    /// Waits for the oldest batch, gives its pages back and looks whether they are what they should be.
    pub(super) fn release_oldest(&mut self) {
        let Some(batch) = self.copied.pop_front() else {
            return;
        };
        if let Some(job) = &batch.job {
            self.builder.staging.wait_for(job);
        }
        self.n_pinned -= batch.pages.len();
        self.touch(&batch.pages);
        for Pinned {
            pin,
            reading,
            stream,
            seq,
        } in batch.pages
        {
            let reading = &mut self.lists[reading];
            let ours = |page: &[u8]| reading.pages.is_page(stream, seq, page);
            if !self.s.release(pin, ours) {
                reading.changed = true;
            }
        }
    }

    /// Brings what will be looked at of the pages into the cache: the reads here wait for memory together, those between locks
    /// one after the other.
    #[allow(unsafe_code)]
    fn touch(&self, pages: &[Pinned<S::Pin>]) {
        for page in pages {
            let tail = self.s.address(&page.pin).wrapping_add(TAIL_START);
            // SAFETY: within the page, which is pinned.
            unsafe { tail.read_volatile() };
        }
    }

    /// Gives all pages back.
    pub(super) fn release_all(&mut self) {
        self.builder.staging.finish_copies();
        self.filling.pages.extend(self.page.take());
        self.copied.push_back(std::mem::take(&mut self.filling));
        for batch in self.copied.drain(..) {
            for page in batch.pages {
                self.s.release(page.pin, |_| ());
            }
        }
    }
}
