//! Loading lists from an index's pages, at the speed of the bus: the calling thread pins pages and says what goes where, the
//! copiers copy, the device unpacks.
//!
//! Pages are pinned in batches and given back in the same order, each as soon as its batch is copied; only then is it looked at
//! whether it was the list's (`omen_ivf::export`). A list with a page that was not is read again, to other slots, when all others
//! are through. So the calling thread never waits for one page, and memory of the device is written once.

mod appended;
mod batches;
mod groups;
mod renew;
mod times;
mod written;

use crate::copiers::Piece;
use crate::engine::TierWriter;
use crate::error::GpuError;
use crate::staging::Part;
use crate::tier::{TierList, TierSpec};
use crate::tier_builder::TierBuilder;
use omen_ivf::IvfError;
use omen_ivf::export::{ListPages, Stream, for_each_centroid};
use omen_ivf::index::{Index, read_entries};
use omen_ivf::layout::group::{Filter, GROUP};
use omen_ivf::layout::page::{CONTENT_BYTES, CONTENT_START};
use omen_ivf::layout::streams;
use omen_ivf::list_reader::AppendedTo;
use omen_ivf::store::{PageStore, PinStore};
use std::collections::VecDeque;
use std::ops::Range;

use appended::Appended;
use batches::{Batch, Pinned};
pub use times::LoadTimes;
pub use written::WrittenLists;

/// Lists that were rewritten while they were read are tried again so often.
const MAX_ROUNDS: usize = 4;

/// Why loading ended.
#[derive(Debug)]
pub enum LoadError {
    /// Because of the index or its host.
    Index(IvfError),
    /// Because of the device.
    Gpu(GpuError),
}

impl From<IvfError> for LoadError {
    fn from(error: IvfError) -> Self {
        Self::Index(error)
    }
}

impl From<GpuError> for LoadError {
    fn from(error: GpuError) -> Self {
        Self::Gpu(error)
    }
}

impl<W: TierWriter + ?Sized> TierBuilder<W> {
    /// Loads `lists` (none loaded before), and what was appended to them, as far as there is room for that, of an index with the builder's metric, dimension and lists. A list
    /// for which there is no room left, because lists have grown since the builder was made, or that is rewritten again and
    /// again, is left out. The host may cancel at any time (`check_interrupts`), also by unwinding.
    pub fn load_lists<S: PinStore>(
        &mut self,
        s: &S,
        index: &Index,
        lists: &[u32],
    ) -> Result<(), LoadError> {
        self.check_index(index)?;
        let batch_bytes = self.staging.load_shape().job_bytes;
        let mut loader = Loader {
            s,
            index,
            builder: self,
            lists: Vec::with_capacity(lists.len()),
            page: None,
            filling: Batch::default(),
            pieces: Vec::new(),
            piece_bytes: 0,
            copied: VecDeque::new(),
            n_pinned: 0,
            max_pins: s.max_pins().max(1),
            batch_bytes,
            n_to_come: 0,
            n_roomy_to_come: 0,
        };
        let outcome = loader.load(lists);
        loader.release_all();
        outcome
    }

    fn check_index(&self, index: &Index) -> Result<(), GpuError> {
        let has_codes = index.meta.shape().filter == Filter::OneBit;
        if self.spec() != TierSpec::of(index) || self.parts().codes() && !has_codes {
            return Err(GpuError::Other("the tier is for another index".into()));
        }
        Ok(())
    }

    /// Loads the centroids, so that the device can choose lists.
    pub fn load_centroids<S: PageStore>(&mut self, s: &S, index: &Index) -> Result<(), LoadError> {
        let mut rows = Vec::with_capacity(index.n_lists() as usize * index.coarse_dim());
        for_each_centroid(s, index, |_, row| rows.extend_from_slice(row))?;
        self.set_rotation(&index.rotation);
        Ok(self.set_centroids(&rows)?)
    }
}

/// A list that was read or is being read.
struct Reading {
    pages: ListPages,
    first_slot: usize,
    n_slots: usize,
    n_room: usize,
    /// What was appended to it and has slots behind the others.
    appended: AppendedTo,
    changed: bool,
}

struct Loader<'a, S: PinStore, W: TierWriter + ?Sized> {
    s: &'a S,
    index: &'a Index,
    builder: &'a mut TierBuilder<W>,
    lists: Vec<Reading>,
    /// The page pinned last, of the stream being read.
    page: Option<Pinned<S::Pin>>,
    /// Pages to be given back with the next batch.
    filling: Batch<S::Pin>,
    /// To be copied by the next batch.
    pieces: Vec<Piece>,
    piece_bytes: usize,
    /// Batches handed out, oldest first.
    copied: VecDeque<Batch<S::Pin>>,
    n_pinned: usize,
    max_pins: usize,
    /// A batch is handed to the copiers when it has so many bytes.
    batch_bytes: usize,
    /// Frozen entries of the lists to come: these go before what was appended to others. And slots for these lists with room to grow.
    n_to_come: usize,
    n_roomy_to_come: usize,
}

impl<S: PinStore, W: TierWriter + ?Sized> Loader<'_, S, W> {
    fn load(&mut self, lists: &[u32]) -> Result<(), LoadError> {
        let sizes = read_entries(self.s, self.index, lists)?;
        let with_growth = |n| self.builder.with_growth(n);
        let sizes: Vec<(usize, usize)> = sizes
            .iter()
            .map(|entry| entry.frozen_count as usize)
            .map(|n| (n, with_growth(n)))
            .collect();
        self.n_to_come = sizes.iter().map(|(n, _)| n).sum();
        self.n_roomy_to_come = sizes.iter().map(|(_, roomy)| roomy).sum();
        for (&list, (n, roomy)) in lists.iter().zip(sizes) {
            self.n_to_come -= n;
            self.n_roomy_to_come -= roomy;
            let pages = ListPages::read(self.s, self.index, list)?;
            self.list(pages)?;
        }
        for round in 1..=MAX_ROUNDS {
            self.dispatch()?;
            while !self.copied.is_empty() {
                self.release_oldest();
            }
            let mut changed = Vec::new();
            for reading in self.lists.drain(..) {
                if reading.changed {
                    changed.push(reading.pages);
                } else {
                    self.builder.lists[reading.pages.list as usize] = Some(reading.tier_list());
                }
            }
            if changed.is_empty() || round == MAX_ROUNDS {
                break;
            }
            for pages in changed {
                let pages = pages.read_again(self.s, self.index)?;
                self.list(pages)?;
            }
        }
        self.s.announce(Vec::new());
        Ok(())
    }

    /// Reads a list to the next slots.
    fn list(&mut self, pages: ListPages) -> Result<(), LoadError> {
        let n = pages.entry.frozen_count as usize;
        let mut appended = self.appended(&pages)?;
        let n_appended = appended.as_ref().map_or(0, |appended| appended.entries.n());
        let mut n_slots = n + n_appended;
        let mut taken = self.take(self.builder.with_growth(n_slots), self.n_roomy_to_come);
        if taken.is_none() {
            taken = self.take(n_slots, self.n_to_come);
        }
        if taken.is_none() && n_appended > 0 {
            (appended, n_slots) = (Some(Appended::default()), n);
        }
        if taken.is_none() {
            taken = self.builder.take_slots(n);
        }
        let Some(taken) = taken else {
            return Ok(());
        };
        let changed = appended.is_none();
        let appended = appended.unwrap_or_default();
        if self.s.wants_announcements() {
            let rows = self.builder.parts().rows().then_some(&pages.vector);
            let blocks = rows.into_iter().flatten().chain(&pages.code);
            self.s.announce(blocks.copied().collect());
        }
        self.lists.push(Reading {
            pages,
            first_slot: taken.start,
            n_slots,
            n_room: taken.len(),
            appended: appended.to,
            changed,
        });
        if changed {
            return Ok(());
        }
        // In the order of the file, as lists are written.
        if self.builder.parts().rows() {
            self.stream(Stream::Vector, n)?;
        }
        self.stream(Stream::Code, n)?;
        self.stage(&appended)?;
        // Of what may be thousands of lists only what a look at their pages needs is kept.
        if let Some(Reading { pages, .. }) = self.lists.last_mut() {
            (pages.code, pages.vector) = (Vec::new(), Vec::new());
        }
        Ok(())
    }

    /// Takes so many slots, or a few more, if as many as are kept for others are left.
    fn take(&mut self, n: usize, n_kept: usize) -> Option<Range<usize>> {
        let fits = n + n_kept <= self.builder.n_free();
        fits.then(|| self.builder.take_slots(n)).flatten()
    }

    /// Copies a stream of the list read last, which has `n` entries.
    fn stream(&mut self, stream: Stream, n: usize) -> Result<(), LoadError> {
        let slot = self.lists.last().map_or(0, |reading| reading.first_slot);
        let row_bytes = 2 * self.index.entry_words();
        // Units of the stream, how many bytes apart, and how many of these are wanted.
        let (entries, stride, wanted) = match stream {
            Stream::Code => {
                let shape = self.index.meta.shape();
                (
                    GROUP,
                    shape.bytes(),
                    self.builder.staging.shape().group_bytes,
                )
            }
            Stream::Vector => (1, row_bytes, row_bytes),
        };
        let mut first = 0;
        while first < n {
            let staging = &mut self.builder.staging;
            let part = match stream {
                Stream::Code => staging.groups(slot + first, n - first),
                Stream::Vector => staging.rows(slot + first, n - first),
            };
            let Some(Part { n: taken, start }) = part else {
                // What has been gathered belongs to the area that is full.
                self.dispatch()?;
                self.builder.staging.turn(self.builder.writer.as_mut())?;
                continue;
            };
            let n_units = taken.div_ceil(entries);
            let from = (first / entries * stride) as u64;
            if wanted == stride {
                self.copy(stream, from, n_units * stride, start)?;
            } else {
                for unit in 0..n_units {
                    let to = start.wrapping_add(unit * wanted);
                    let from = from + (unit * stride) as u64;
                    self.copy(stream, from, wanted, to)?;
                }
            }
            first += taken;
        }
        self.filling.pages.extend(self.page.take());
        Ok(())
    }

    /// Has `bytes` from byte `from` of the stream on copied to `to`.
    fn copy(
        &mut self,
        stream: Stream,
        mut from: u64,
        mut bytes: usize,
        mut to: *mut u8,
    ) -> Result<(), LoadError> {
        while bytes > 0 {
            let (seq, offset) = streams::byte_position(from);
            let address = self.page(stream, seq as u32)?;
            let n = bytes.min(CONTENT_BYTES - offset);
            self.pieces.push(Piece {
                from: address.wrapping_add(CONTENT_START + offset),
                to,
                bytes: n,
            });
            self.piece_bytes += n;
            if self.piece_bytes >= self.batch_bytes {
                self.dispatch()?;
            }
            (from, bytes, to) = (from + n as u64, bytes - n, to.wrapping_add(n));
        }
        Ok(())
    }
}

impl Reading {
    fn tier_list(&self) -> TierList {
        let taken = self.first_slot..self.first_slot + self.n_room;
        TierList::of(&self.pages.entry, taken, self.n_slots, self.appended)
    }
}
