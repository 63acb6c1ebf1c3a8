//! Staging areas of a real device: page-locked memory, memory of the device it is copied to, and a stream, for each.

use super::Unpack;
use crate::buffers::{DeviceBuffer, PinnedBuffer};
use crate::context::{Context, Stream, Wait};
use crate::error::GpuError;
use crate::launch::unpack::{unpack_groups, unpack_rows};
use crate::params::{TierView, UnpackParams};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How loading is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadShape {
    /// Staging areas: one is filled, one waits for its last pages, one is on the bus, one is unpacked.
    pub n_areas: usize,
    /// Bytes of one area: so many that what a copy costs beside the bus is small against the copy, and not so many that
    /// page-locking the areas (0.5 to 1 ms a MB) is felt.
    pub area_bytes: usize,
    /// Bytes that a thread copies at a time: so many that handing them over is cheap, and so few that some are left for every
    /// thread while `PinStore::max_pins` pages are pinned.
    pub job_bytes: usize,
}

impl LoadShape {
    /// The usual one.
    pub const DEFAULT: Self = Self {
        n_areas: 4,
        area_bytes: 4 << 20,
        job_bytes: 128 << 10,
    };

    /// The nearest one with which loading works: an area holds rows of any dimension, and a page or more is copied at a time.
    pub fn within_bounds(self) -> Self {
        Self {
            n_areas: self.n_areas.clamp(1, 64),
            area_bytes: self.area_bytes.clamp(4 << 20, 1 << 28).next_multiple_of(64),
            job_bytes: self.job_bytes.max(8 << 10),
        }
    }
}

impl Default for LoadShape {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The memory of the host that an area consists of.
struct HostArea {
    // First: dropping it waits for the copies out of the memory.
    stream: Stream,
    pinned: PinnedBuffer,
}

/// What loads have left, kept for the next load of the context: page-locking memory takes far longer than sending it, and to free memory of the
/// device waits for all that runs there.
#[derive(Default)]
pub(crate) struct AreaPool {
    areas: Mutex<Vec<HostArea>>,
    device: Mutex<Option<DeviceBuffer>>,
}

impl AreaPool {
    fn lock(&self) -> MutexGuard<'_, Vec<HostArea>> {
        self.areas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_device(&self) -> MutexGuard<'_, Option<DeviceBuffer>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory of the device of this size.
    fn take_device(&self, ctx: &Arc<Context>, bytes: usize) -> Result<DeviceBuffer, GpuError> {
        let kept = self.lock_device().take();
        match kept.filter(|kept| kept.len() == bytes) {
            Some(kept) => Ok(kept),
            None => DeviceBuffer::new(ctx, bytes),
        }
    }

    fn take(&self, ctx: &Arc<Context>, bytes: usize) -> Result<HostArea, GpuError> {
        let kept = {
            let mut areas = self.lock();
            areas.retain(|area| area.pinned.bytes().len() == bytes);
            areas.pop()
        };
        match kept {
            Some(area) => Ok(area),
            None => Ok(HostArea {
                stream: Stream::new(ctx)?,
                pinned: PinnedBuffer::new(ctx, bytes)?,
            }),
        }
    }

    fn give_back(&self, area: HostArea, most: usize) {
        let mut areas = self.lock();
        if areas.len() < most {
            areas.push(area);
        }
    }
}

/// The areas of an engine, made as they are asked for.
pub(super) struct StagingAreas {
    // First: given back, which waits for the work that uses the device's memory.
    host: Vec<Option<HostArea>>,
    /// One area after the other.
    device: Option<DeviceBuffer>,
    shape: LoadShape,
    pool: Arc<AreaPool>,
    ctx: Arc<Context>,
}

fn not_taken() -> GpuError {
    GpuError::Other("staging area not taken".into())
}

impl StagingAreas {
    pub(super) fn new(ctx: &Arc<Context>, pool: Arc<AreaPool>) -> Self {
        Self {
            host: Vec::new(),
            device: None,
            shape: LoadShape::DEFAULT,
            pool,
            ctx: ctx.clone(),
        }
    }

    /// Where areas come from.
    pub(super) fn pool(&self) -> Arc<AreaPool> {
        self.pool.clone()
    }

    /// Takes the shape; while no area is in use.
    pub(super) fn set_shape(&mut self, shape: LoadShape) {
        self.shape = shape;
    }

    /// Sees to it that the area is there.
    pub(super) fn make(&mut self, which: usize) -> Result<(), GpuError> {
        if which >= self.host.len() {
            self.host.resize_with(which + 1, || None);
        }
        if self.host[which].is_none() {
            self.host[which] = Some(self.pool.take(&self.ctx, self.shape.area_bytes)?);
        }
        Ok(())
    }

    /// The area's memory, once earlier copies out of it are done.
    pub(super) fn wait(
        &mut self,
        which: usize,
        wait: &mut Wait<'_>,
    ) -> Result<&mut [u8], GpuError> {
        self.make(which)?;
        self.area(which)?.stream.wait(wait)?;
        self.open(which)
    }

    /// The area's memory, while nothing is copied out of it.
    pub(super) fn open(&mut self, which: usize) -> Result<&mut [u8], GpuError> {
        let area = self.host.get_mut(which).and_then(Option::as_mut);
        Ok(area.ok_or_else(not_taken)?.pinned.bytes_mut())
    }

    fn area(&self, which: usize) -> Result<&HostArea, GpuError> {
        let area = self.host.get(which).and_then(Option::as_ref);
        area.ok_or_else(not_taken)
    }

    /// Queues the copy of `range` of the area to byte `at` of `to`, which outlives the areas.
    pub(super) fn write(
        &self,
        which: usize,
        range: Range<usize>,
        to: &DeviceBuffer,
        at: usize,
    ) -> Result<(), GpuError> {
        let area = self.area(which)?;
        area.stream.upload(to, at, &area.pinned, range)
    }

    /// Queues the copy of the area to the device and the unpacking of its items into `tier`, which outlives the areas.
    pub(super) fn unpack(
        &mut self,
        which: usize,
        tier: TierView,
        work: &Unpack,
    ) -> Result<(), GpuError> {
        if self.device.is_none() {
            let bytes = self.shape.n_areas * self.shape.area_bytes;
            self.device = Some(self.pool.take_device(&self.ctx, bytes)?);
        }
        let (HostArea { stream, pinned }, Some(device)) = (self.area(which)?, &self.device) else {
            return Err(not_taken());
        };
        let at = which * self.shape.area_bytes;
        stream.upload(device, at, pinned, 0..work.used)?;
        let area = device.address() + at as u64;
        let params = UnpackParams {
            tier,
            area,
            items: area + work.items_at as u64,
            dim: work.shape.dim as u32,
            group_bytes: work.shape.group_bytes as u32,
            code_words: work.shape.code_words as u32,
            reserved: 0,
        };
        unpack_groups(&self.ctx, stream, params, work.groups)?;
        unpack_rows(&self.ctx, stream, params, work.rows)
    }

    /// Waits for all work and gives the areas back.
    pub(super) fn end(&mut self, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        while let Some(area) = self.host.pop() {
            if let Some(area) = area {
                area.stream.wait(wait)?;
                self.pool.give_back(area, self.shape.n_areas);
            }
        }
        if let Some(device) = self.device.take() {
            *self.pool.lock_device() = Some(device);
        }
        Ok(())
    }
}

impl Drop for StagingAreas {
    /// After a load that did not end: its areas serve the next one. One that is not done in time is lost with the context.
    fn drop(&mut self) {
        let mut wait = Wait {
            until: Instant::now() + Duration::from_secs(5),
            poll: &mut || Ok(()),
        };
        let _ = self.end(&mut wait);
    }
}
