//! The memory through which tiers are loaded: a header of atomics (one page), then the areas, one after the other.
//!
//! Everything read from it is checked, and areas are copied to private memory first. No pointers: each process may map it elsewhere.

#![allow(unsafe_code)]

use super::link::{self, State, Word};
use super::outcome::REPLY_WORDS;
use omen_gpu::GpuError;
use omen_gpu::engine::LoadShape;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

const MAGIC: u64 = u64::from_ne_bytes(*b"omenload");
const VERSION: u64 = 1;
/// Where the areas start.
const AREAS_AT: usize = 4096;
/// What the region's address is a multiple of.
const ALIGN: usize = 64;
pub(super) const COMMAND_WORDS: usize = 16;
/// A text of 256 bytes, and numbers.
pub(super) const ANSWER_WORDS: usize = 32 + REPLY_WORDS;

/// The start of the region. Any bits are valid.
#[repr(C)]
pub(super) struct Header {
    magic: AtomicU64,
    version: AtomicU64,
    n_areas: AtomicU64,
    area_bytes: AtomicU64,
    /// Twice the number of servers that there were until now; odd while one is there.
    pub(super) server: AtomicU64,
    limit: AtomicU64,
    used: AtomicU64,
    /// Bytes between fields that different processes write.
    apart: [AtomicU64; 1],
    /// A `Word`.
    pub(super) state: AtomicU64,
    /// Number of the newest command; written by the loader after `command`.
    pub(super) asked: AtomicU64,
    pub(super) command: [AtomicU64; COMMAND_WORDS],
    /// Number of the newest answer; written by the host after `answer`.
    pub(super) answered: AtomicU64,
    pub(super) answer: [AtomicU64; ANSWER_WORDS],
}

const _: () = assert!(size_of::<Header>() <= AREAS_AT);

/// Why memory is not a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RegionError {
    /// The address is not a multiple of 64.
    #[error("the region is not aligned")]
    Alignment,
    /// Nothing that this version has made.
    #[error("no region of this version")]
    Unknown,
    /// It is shorter than it says.
    #[error("the region is cut off")]
    Length,
}

/// What the server's tiers may take of the device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// All together.
    pub limit: u64,
    /// What those that are there take.
    pub used: u64,
}

/// The memory through which tiers are loaded: a handle, for one process.
#[derive(Debug, Clone, Copy)]
pub struct LoadRegion {
    start: *mut u8,
    // As they were when the handle was made: what others write into the header later does not matter.
    n_areas: usize,
    area_bytes: usize,
}

// SAFETY: the memory is there for all threads as long as for one (`create`, `attach`); the header is atomics, and whose the areas are is
// settled by `link`.
unsafe impl Send for LoadRegion {}
// SAFETY: as above.
unsafe impl Sync for LoadRegion {}

fn shape_of(n_areas: usize, area_bytes: usize) -> LoadShape {
    LoadShape {
        n_areas,
        area_bytes,
        ..LoadShape::DEFAULT
    }
    .within_bounds()
}

impl LoadRegion {
    /// Areas there are usually: [`LoadShape::DEFAULT`]'s.
    pub const N_AREAS: usize = LoadShape::DEFAULT.n_areas;
    /// Bytes of an area usually.
    pub const AREA_BYTES: usize = LoadShape::DEFAULT.area_bytes;

    /// Bytes of a region. Number and size of areas are brought within [`LoadShape::within_bounds`].
    pub fn bytes(n_areas: usize, area_bytes: usize) -> usize {
        let shape = shape_of(n_areas, area_bytes);
        AREAS_AT + shape.n_areas * shape.area_bytes
    }

    /// Makes a region, without a server and without room. Errors: `Alignment`.
    ///
    /// # Safety
    /// [`LoadRegion::bytes`] bytes at `mem` can be read and written as long as any copy of the handle is used, by this library alone,
    /// and by nobody else during this call.
    pub unsafe fn create(
        mem: *mut u8,
        n_areas: usize,
        area_bytes: usize,
    ) -> Result<Self, RegionError> {
        if !mem.addr().is_multiple_of(ALIGN) || mem.is_null() {
            return Err(RegionError::Alignment);
        }
        let shape = shape_of(n_areas, area_bytes);
        // SAFETY: by this function's contract the bytes are there and ours; zero bits are a valid header.
        unsafe { mem.write_bytes(0, size_of::<Header>()) };
        let region = Self {
            start: mem,
            n_areas: shape.n_areas,
            area_bytes: shape.area_bytes,
        };
        let header = region.header();
        header.version.store(VERSION, Ordering::Relaxed);
        let (n_areas, area_bytes) = (shape.n_areas as u64, shape.area_bytes as u64);
        header.n_areas.store(n_areas, Ordering::Relaxed);
        header.area_bytes.store(area_bytes, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok(region)
    }

    /// The region that another process made. Errors: all.
    ///
    /// # Safety
    /// `len` bytes at `mem` can be read and written as long as any copy of the handle is used, by this library alone.
    pub unsafe fn attach(mem: *mut u8, len: usize) -> Result<Self, RegionError> {
        if !mem.addr().is_multiple_of(ALIGN) || mem.is_null() {
            return Err(RegionError::Alignment);
        }
        if len < AREAS_AT {
            return Err(RegionError::Length);
        }
        // SAFETY: the bytes are there, aligned, and atomics of any bits.
        let header = unsafe { &*mem.cast::<Header>() };
        let known = header.magic.load(Ordering::Acquire) == MAGIC
            && header.version.load(Ordering::Relaxed) == VERSION;
        let n_areas = header.n_areas.load(Ordering::Relaxed) as usize;
        let area_bytes = header.area_bytes.load(Ordering::Relaxed) as usize;
        let shape = shape_of(n_areas, area_bytes);
        if !known || (shape.n_areas, shape.area_bytes) != (n_areas, area_bytes) {
            return Err(RegionError::Unknown);
        }
        if len < Self::bytes(n_areas, area_bytes) {
            return Err(RegionError::Length);
        }
        Ok(Self {
            start: mem,
            n_areas,
            area_bytes,
        })
    }

    /// Staging areas.
    pub fn n_areas(&self) -> usize {
        self.n_areas
    }

    /// Bytes of each.
    pub fn area_bytes(&self) -> usize {
        self.area_bytes
    }

    /// Says what tiers may take. For the server, whenever that changes.
    pub fn set_room(&self, room: Room) {
        self.header().limit.store(room.limit, Ordering::Relaxed);
        self.header().used.store(room.used, Ordering::Release);
    }

    /// What tiers may take, by which the loader chooses what to load. The two numbers need not be of one moment: at [`super::begin`] the
    /// server looks again. Errors: `Lost` without a server.
    pub fn room(&self) -> Result<Room, GpuError> {
        self.server()?;
        Ok(self.last_room())
    }

    pub(super) fn last_room(&self) -> Room {
        let used = self.header().used.load(Ordering::Acquire);
        let limit = self.header().limit.load(Ordering::Relaxed);
        Room { limit, used }
    }

    /// The number by which [`super::begin`] was told who loads, if somebody does.
    pub fn owner(&self) -> Option<u32> {
        let word = Word(self.header().state.load(Ordering::Acquire));
        (word.state() != State::Idle).then(|| word.owner())
    }

    /// Whether a load is under way, of which a tier may come. One that was given up is not: [`super::begin`] waits until it is cleared up after.
    pub fn is_loading(&self) -> bool {
        let word = Word(self.header().state.load(Ordering::Acquire));
        matches!(word.state(), State::Open | State::Finished)
    }

    /// Gives up what process `owner` was loading; for when it is gone without having dropped its builder, that is by an exit callback,
    /// or by whoever finds it dead. The areas serve the next load after half a second, in which copies of its threads end.
    pub fn release_of(&self, owner: u32) {
        link::release_of(&self.header().state, owner);
    }

    /// Says that there is no server any more: for its exit callback, if its [`super::Host`] is not dropped.
    pub fn set_server_down(&self) {
        let down = |server: u64| (server % 2 == 1).then(|| server.wrapping_add(1));
        let _ = self
            .header()
            .server
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, down);
    }

    /// Number of the server that is there. Errors: `Lost`.
    pub(super) fn server(&self) -> Result<u64, GpuError> {
        let server = self.header().server.load(Ordering::SeqCst);
        if server.is_multiple_of(2) {
            return Err(GpuError::Lost("the GPU server is not running".into()));
        }
        Ok(server)
    }

    pub(super) fn header(&self) -> &Header {
        // SAFETY: checked for alignment and there, by the contract of `create` and `attach`; atomics of any bits.
        unsafe { &*self.start.cast::<Header>() }
    }

    /// Where an area is. Errors: `Other` if there is none of this number.
    pub(super) fn area(&self, which: usize) -> Result<*mut u8, GpuError> {
        if which >= self.n_areas {
            return Err(GpuError::Other(format!("no staging area {which}")));
        }
        Ok(self.start.wrapping_add(AREAS_AT + which * self.area_bytes))
    }
}
