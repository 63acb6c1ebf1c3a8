//! Staging areas in page-locked memory: parts of lists' streams are gathered in one, while others are on the bus or are unpacked
//! on the device. Areas take turns.

use crate::context::Wait;
use crate::copiers::{Copiers, Job, Piece};
use crate::engine::{LoadShape, PART_ALIGN, StageShape, TierWriter, Unpack};
use crate::error::GpuError;
use crate::launch::unpack::{ENTRIES_PER_ITEM, Items};
use crate::load::LoadTimes;
use crate::params::UnpackItem;
use omen_ivf::layout::group::{GROUP, LIVE_LINE, LIVE_OFFSET};
use omen_ivf::layout::page::LINE_BYTES;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for the device to take one area.
const COPY_DEADLINE: Duration = Duration::from_secs(10);
/// Rows of an item of `unpack_rows`: about so many bytes, so that the items of an area occupy a whole device.
const ITEM_ROW_BYTES: usize = 32 << 10;

/// Calls `f` with the bounds of a wait for the device.
pub(crate) fn bounded<R>(f: impl FnOnce(&mut Wait<'_>) -> R) -> R {
    f(&mut Wait {
        until: Instant::now() + COPY_DEADLINE,
        poll: &mut || Ok(()),
    })
}

/// The areas. The first thing to be dropped of whatever owns the writer too: its threads write to the writer's areas.
pub(crate) struct Staging {
    copiers: Copiers,
    load_shape: LoadShape,
    times: LoadTimes,
    shape: StageShape,
    filling: Option<Area>,
    /// Filled, but perhaps still copied to; oldest first.
    sealed: VecDeque<Area>,
    next: usize,
    /// `[ceil(n_slots / 32)]`, of what has been sent to the device.
    live: Vec<u32>,
}

struct Area {
    which: usize,
    start: *mut u8,
    /// Its size.
    bytes: usize,
    used: usize,
    groups: Vec<UnpackItem>,
    rows: Vec<UnpackItem>,
    /// Jobs into the area that are not done.
    pending: Arc<AtomicUsize>,
}

// SAFETY: `start` points into an area of the writer, which moves with it; only whoever has the staging uses it.
#[allow(unsafe_code)]
unsafe impl Send for Area {}

impl Area {
    fn is_complete(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Where the next part starts, and the bytes from there to the items.
    fn room(&self) -> (usize, usize) {
        let at = self.used.next_multiple_of(PART_ALIGN);
        let items = (self.groups.len() + self.rows.len()) * size_of::<UnpackItem>();
        (at, self.bytes.saturating_sub(at + items))
    }

    /// Takes `bytes` at `at`; where they are.
    fn take(&mut self, at: usize, bytes: usize) -> *mut u8 {
        self.used = at + bytes;
        self.start.wrapping_add(at)
    }
}

/// Part of an area.
pub(crate) struct Part {
    /// Entries it has room for.
    pub(crate) n: usize,
    /// Its first byte.
    pub(crate) start: *mut u8,
}

impl Staging {
    pub(crate) fn new(copiers: Copiers, shape: StageShape, n_slots: usize) -> Self {
        Self {
            copiers,
            load_shape: LoadShape::DEFAULT,
            times: LoadTimes::default(),
            shape,
            filling: None,
            sealed: VecDeque::new(),
            next: 0,
            live: vec![0; n_slots.div_ceil(32)],
        }
    }

    pub(crate) fn shape(&self) -> StageShape {
        self.shape
    }

    pub(crate) fn load_shape(&self) -> LoadShape {
        self.load_shape
    }

    /// Takes another shape, before there are parts.
    pub(crate) fn set_load_shape(&mut self, shape: LoadShape) {
        self.load_shape = shape;
    }

    pub(crate) fn times(&self) -> LoadTimes {
        LoadTimes {
            copying: self.copiers.copy_time(),
            n_threads: self.copiers.n_threads(),
            ..self.times
        }
    }

    /// Waits for a job.
    pub(crate) fn wait_for(&mut self, job: &Job) {
        self.wait_until(|| job.is_done());
    }

    /// Waits until all jobs are done.
    pub(crate) fn finish_copies(&self) {
        self.copiers.finish();
    }

    fn wait_until(&mut self, is_over: impl Fn() -> bool) {
        if !is_over() {
            let start = Instant::now();
            self.copiers.help_until(is_over);
            self.times.copies += start.elapsed();
        }
    }

    /// Room for rows of up to `n` entries, the first of which goes to `slot`. None: the area is full, see `turn`.
    pub(crate) fn rows(&mut self, slot: usize, n: usize) -> Option<Part> {
        let area = self.filling.as_mut()?;
        let row_bytes = 2 * self.shape.dim;
        let per_item = (ITEM_ROW_BYTES / row_bytes).max(8);
        // An item is of at least half of ITEM_ROW_BYTES, unless it is the last of its part.
        let (at, room) = area.room();
        let n = n.min(room.saturating_sub(room / 512 + 64) / row_bytes);
        if n == 0 {
            return None;
        }
        for first in (0..n).step_by(per_item) {
            area.rows.push(UnpackItem {
                at: (at + first * row_bytes) as u32,
                first_slot: (slot + first) as u32,
                n: per_item.min(n - first) as u32,
                reserved: 0,
            });
        }
        let start = area.take(at, n * row_bytes);
        Some(Part { n, start })
    }

    /// Room for groups of up to `n` entries: of all of them, or of a multiple of 32. None as for `rows`.
    pub(crate) fn groups(&mut self, slot: usize, n: usize) -> Option<Part> {
        let area = self.filling.as_mut()?;
        let group_bytes = self.shape.group_bytes;
        let (at, room) = area.room();
        let most = room.saturating_sub(room / 256 + 64) / group_bytes;
        let n = n.min(most * GROUP);
        if n == 0 {
            return None;
        }
        for first in (0..n).step_by(ENTRIES_PER_ITEM) {
            area.groups.push(UnpackItem {
                at: (at + first / GROUP * group_bytes) as u32,
                first_slot: (slot + first) as u32,
                n: ENTRIES_PER_ITEM.min(n - first) as u32,
                reserved: 0,
            });
        }
        let start = area.take(at, n.div_ceil(GROUP) * group_bytes);
        Some(Part { n, start })
    }

    /// Has `pieces` copied into parts of the area being filled. None: there is nothing to copy.
    ///
    /// # Safety
    /// As for [`Copiers::push`].
    #[allow(unsafe_code)]
    pub(crate) unsafe fn copy(&mut self, pieces: Vec<Piece>) -> Option<Arc<Job>> {
        // Parts come from the area being filled, so there are no pieces without one.
        let area = self.filling.as_ref().filter(|_| !pieces.is_empty())?;
        let job = Job::new(pieces, &area.pending);
        // SAFETY: by this function's contract.
        unsafe { self.copiers.push(job.clone()) };
        Some(job)
    }

    /// Goes on in the next area, once the device has taken what was in it.
    pub(crate) fn turn<W: TierWriter + ?Sized>(&mut self, writer: &mut W) -> Result<(), GpuError> {
        self.sealed.extend(self.filling.take());
        self.send_complete(writer)?;
        if self.sealed.len() == self.load_shape.n_areas {
            self.send_oldest(writer)?;
        }
        let which = self.next;
        self.next = (which + 1) % self.load_shape.n_areas;
        let began = Instant::now();
        writer.make_stage(which)?;
        let made = Instant::now();
        let memory = bounded(|wait| writer.stage(which, wait))?;
        let (start, bytes) = (memory.as_mut_ptr(), memory.len());
        self.times.areas += made - began;
        self.times.device += made.elapsed();
        self.filling = Some(Area {
            which,
            start,
            bytes,
            used: 0,
            groups: Vec::new(),
            rows: Vec::new(),
            pending: Arc::default(),
        });
        Ok(())
    }

    /// Sends areas to the device as far as all has been copied to them.
    pub(crate) fn send_complete<W: TierWriter + ?Sized>(
        &mut self,
        writer: &mut W,
    ) -> Result<(), GpuError> {
        while self.sealed.front().is_some_and(Area::is_complete) {
            self.send_oldest(writer)?;
        }
        Ok(())
    }

    fn send_oldest<W: TierWriter + ?Sized>(&mut self, writer: &mut W) -> Result<(), GpuError> {
        let Some(area) = self.sealed.pop_front() else {
            return Ok(());
        };
        self.wait_until(|| area.is_complete());
        if area.used == 0 {
            return Ok(());
        }
        let began = Instant::now();
        let bytes = writer.stage_open(area.which)?;
        for item in &area.groups {
            set_live(&mut self.live, bytes, item, self.shape.group_bytes);
        }
        let items_at = area.used.next_multiple_of(PART_ALIGN);
        let mut used = items_at;
        for items in [&area.groups, &area.rows] {
            let items: &[u8] = bytemuck::cast_slice(items);
            bytes[used..used + items.len()].copy_from_slice(items);
            used += items.len();
        }
        let groups = Items {
            first: 0,
            n: area.groups.len(),
        };
        let rows = Items {
            first: groups.n,
            n: area.rows.len(),
        };
        let shape = self.shape;
        writer.unpack(
            area.which,
            &Unpack {
                used,
                items_at,
                groups,
                rows,
                shape,
            },
        )?;
        self.times.sending += began.elapsed();
        Ok(())
    }

    /// Says which entries of these words of live bits are live.
    pub(crate) fn set_live_words(&mut self, first: usize, words: &[u32]) {
        self.live[first..first + words.len()].copy_from_slice(words);
    }

    /// Sends all that is left; returns the live bits.
    pub(crate) fn finish<W: TierWriter + ?Sized>(
        mut self,
        writer: &mut W,
    ) -> Result<Vec<u32>, GpuError> {
        self.sealed.extend(self.filling.take());
        while !self.sealed.is_empty() {
            self.send_oldest(writer)?;
        }
        Ok(std::mem::take(&mut self.live))
    }
}

/// Takes over the live bits of the groups of an item of the area `bytes`.
fn set_live(live: &mut [u32], bytes: &[u8], item: &UnpackItem, group_bytes: usize) {
    for first in (0..item.n).step_by(GROUP) {
        let group = item.at as usize + first as usize / GROUP * group_bytes;
        let at = group + LIVE_LINE * LINE_BYTES + LIVE_OFFSET;
        let mask: u32 = bytemuck::pod_read_unaligned(&bytes[at..at + 4]);
        let n = (item.n - first).min(GROUP as u32);
        let used = u32::MAX >> (GROUP as u32 - n);
        let slot = (item.first_slot + first) as usize;
        let (word, shift) = (slot / 32, slot % 32);
        let (mask, used) = (u64::from(mask & used) << shift, u64::from(used) << shift);
        live[word] = live[word] & !(used as u32) | mask as u32;
        if used >> 32 != 0 {
            live[word + 1] = live[word + 1] & !((used >> 32) as u32) | (mask >> 32) as u32;
        }
    }
}
