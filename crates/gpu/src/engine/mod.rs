//! What a tier needs of a device: writing its arrays, running a batch that the device plans (`batch.rs`) or the host does. `CudaEngine`
//! does it with kernels, `SimulatedEngine` with their twins.

mod areas;
mod batch;
#[cfg(feature = "simulated")]
pub mod simulated;
mod unpack;

pub(crate) use areas::AreaPool;
pub use areas::LoadShape;
use areas::StagingAreas;
use batch::{BatchMemory, Views};
pub use batch::{BatchOut, SlotsOut};
pub(crate) use unpack::PART_ALIGN;
pub use unpack::{StageShape, Unpack};

use crate::batch::Input;
use crate::batch::plan::BatchPlan;
use crate::buffers::{DeviceBuffer, PinnedBuffer};
use crate::context::{Context, Scans, Stream, Wait};
use crate::error::GpuError;
use crate::export::MemoryHandle;
use crate::launch::{rerank::rerank, scan::scan, select::select};
use crate::memory::{MIN_SCRATCH_BYTES, ScratchPlan, TierPlan};
use crate::params::{
    ListSlots, QueryBound, RerankParams, ScanMode, ScanParams, SelectParams, TierView,
};
use crate::plan::Rounds;
use bytemuck::{Pod, Zeroable};
use omen_ivf::Metric;
use omen_ivf::rotation::Rotation;
use std::ops::Range;
use std::sync::Arc;

// While a tier is loaded, the areas on the device take the place of its scratch. (Those of a refresh come on top.)
const _: () = assert!(
    (LoadShape::DEFAULT.n_areas * LoadShape::DEFAULT.area_bytes) as u64 <= MIN_SCRATCH_BYTES
);
/// Bytes copied back at a time.
const READ_BYTES: usize = 4 << 20;

/// Factors of the keys: functions of the index's `rounding` g.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// 1 - 4g.
    pub loose: f32,
    /// 1 - 2g.
    pub tight: f32,
    /// 1 + 2g, of ceilings.
    pub wide: f32,
}

/// Bytes of a staging area, and where in the tier's memory they are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct WritePart {
    /// First byte in the area.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
    /// Byte of the tier.
    pub at: u64,
}

/// Most parts written at a time.
pub const MAX_PARTS: usize = 4096;

/// Writes a tier's arrays: the half of an engine that loading needs. Another process's engine may be behind it. One caller at a time.
pub trait TierWriter: Send {
    /// Wants staging areas of this number and size, while none has been taken; the shape they have from now on.
    fn set_load_shape(&mut self, shape: LoadShape) -> LoadShape;

    /// Sees to it that there is a staging area of this number, which takes time when it is the first of its context.
    fn make_stage(&mut self, which: usize) -> Result<(), GpuError>;

    /// A staging area (`LoadShape::area_bytes`), once earlier copies out of it are done. Makes it if need be.
    fn stage(&mut self, which: usize, wait: &mut Wait<'_>) -> Result<&mut [u8], GpuError>;

    /// A staging area taken by `stage` before and not yet copied from.
    fn stage_open(&mut self, which: usize) -> Result<&mut [u8], GpuError>;

    /// Queues a copy from a staging area to offset `at` of the tier's memory.
    fn write_tier(&mut self, which: usize, range: Range<usize>, at: usize) -> Result<(), GpuError>;

    /// Queues several such copies. Beyond the first `used` bytes the area has room for so many parts.
    fn write_parts(
        &mut self,
        which: usize,
        _used: usize,
        parts: &[WritePart],
    ) -> Result<(), GpuError> {
        for part in parts {
            let start = part.start as usize;
            self.write_tier(which, start..start + part.len as usize, part.at as usize)?;
        }
        Ok(())
    }

    /// Queues the copy of a staging area to the device and the unpacking of its items into the tier's arrays.
    fn unpack(&mut self, which: usize, work: &Unpack) -> Result<(), GpuError>;

    /// Waits for all writes and gives the staging areas back.
    fn end_writes(&mut self, wait: &mut Wait<'_>) -> Result<(), GpuError>;

    /// Takes the rotation of the codes.
    fn set_rotation(&mut self, rotation: &Rotation, wait: &mut Wait<'_>) -> Result<(), GpuError>;
}

/// A device holding one tier. One caller at a time.
pub trait Engine: TierWriter {
    /// Which scan kernels run here.
    fn scans(&self) -> Scans;

    /// Copies the tier's memory from offset `at` on back. While nothing else is under way.
    fn read_tier(&mut self, at: usize, to: &mut [u8], wait: &mut Wait<'_>) -> Result<(), GpuError>;

    /// The upload area of a batch (`plan.upload_end` bytes), once earlier work is done. Makes room for the batch.
    fn begin(&mut self, plan: &ScratchPlan, wait: &mut Wait<'_>) -> Result<&mut [u8], GpuError>;

    /// Runs the batch whose upload area has been filled, and returns its download area (`plan.state..plan.download_end`).
    fn run(
        &mut self,
        plan: &ScratchPlan,
        rounds: &Rounds,
        scales: Scales,
        wait: &mut Wait<'_>,
    ) -> Result<&[u8], GpuError>;

    /// Dimensions of the codes that can be searched; 0 if there are none.
    fn code_dim(&self) -> usize;

    /// Tells the device where the lists are.
    fn set_slots(&mut self, slots: &[ListSlots], wait: &mut Wait<'_>) -> Result<(), GpuError>;

    /// Where the queries of a batch go, f32 `[n, query_words]`, and their bounds `[n]`, once earlier work is done. Makes room for the batch.
    fn begin_batch(
        &mut self,
        plan: &BatchPlan,
        wait: &mut Wait<'_>,
    ) -> Result<(&mut [f32], &mut [QueryBound]), GpuError>;

    /// Runs the batch whose queries have been filled in, or are in page-locked memory at `input`.
    fn run_batch(
        &mut self,
        plan: &BatchPlan,
        input: Option<Input<'_>>,
        scales: Scales,
        wait: &mut Wait<'_>,
    ) -> Result<BatchOut<'_>, GpuError>;

    /// Bytes at `at` of the last batch's scratch.
    fn fetch(&mut self, at: usize, bytes: usize, wait: &mut Wait<'_>) -> Result<Vec<u8>, GpuError>;

    /// Bytes of scratch memory held now.
    fn scratch_bytes(&self) -> u64;

    /// Another engine over the same memory, in which it may write to what this one does not read.
    fn second(&self) -> Result<Box<dyn Engine>, GpuError>;

    /// What another process maps the tier's memory by.
    fn export(&self) -> Result<MemoryHandle, GpuError>;
}

/// The engine of a real device.
pub struct CudaEngine {
    // First, because dropping them waits for the work that uses the rest.
    stream: Stream,
    staging: StagingAreas,
    ctx: Arc<Context>,
    batch: BatchMemory,
    views: Views,
    tier: Arc<DeviceBuffer>,
    scratch: Option<DeviceBuffer>,
    upload: Option<PinnedBuffer>,
    download: Option<PinnedBuffer>,
    busy: bool,
}

impl CudaEngine {
    /// An engine over the tier's memory, whose staging areas come from `pool`.
    pub(crate) fn new(
        ctx: &Arc<Context>,
        pool: Arc<AreaPool>,
        tier: DeviceBuffer,
        plan: TierPlan,
        metric: Metric,
    ) -> Result<Self, GpuError> {
        let view = TierView::new(tier.address(), &plan, metric);
        let centroids = TierView {
            rows: tier.address() + plan.centroids as u64,
            norm_sq: tier.address() + plan.centroid_norms as u64,
            pitch: plan.centroid_pitch as u32,
            metric: view.metric,
            n_slots: plan.n_lists as u32,
            ..TierView::default()
        };
        let views = Views {
            tier: view,
            centroids,
        };
        Self::over(ctx, pool, Arc::new(tier), views)
    }

    fn over(
        ctx: &Arc<Context>,
        pool: Arc<AreaPool>,
        tier: Arc<DeviceBuffer>,
        views: Views,
    ) -> Result<Self, GpuError> {
        Ok(Self {
            stream: Stream::new(ctx)?,
            staging: StagingAreas::new(ctx, pool),
            ctx: ctx.clone(),
            batch: BatchMemory::default(),
            views,
            tier,
            scratch: None,
            upload: None,
            download: None,
            busy: false,
        })
    }

    /// Waits for what an interrupted search left behind, which still uses the buffers.
    fn settle(&mut self, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        if self.busy {
            self.stream.wait(wait)?;
            self.busy = false;
        }
        Ok(())
    }
}

/// A pinned buffer of at least `bytes`, grown by half so that growing batches do not reallocate each time.
fn grown<'a>(
    ctx: &Arc<Context>,
    slot: &'a mut Option<PinnedBuffer>,
    bytes: usize,
) -> Result<&'a mut PinnedBuffer, GpuError> {
    if slot.as_ref().is_none_or(|b| b.bytes().len() < bytes) {
        *slot = None;
        *slot = Some(PinnedBuffer::new(ctx, bytes + bytes / 2)?);
    }
    slot.as_mut()
        .ok_or_else(|| GpuError::Other("no buffer".into()))
}

impl TierWriter for CudaEngine {
    fn set_load_shape(&mut self, shape: LoadShape) -> LoadShape {
        self.staging.set_shape(shape);
        shape
    }

    fn make_stage(&mut self, which: usize) -> Result<(), GpuError> {
        self.staging.make(which)
    }

    fn stage(&mut self, which: usize, wait: &mut Wait<'_>) -> Result<&mut [u8], GpuError> {
        self.staging.wait(which, wait)
    }

    fn stage_open(&mut self, which: usize) -> Result<&mut [u8], GpuError> {
        self.staging.open(which)
    }

    fn write_tier(&mut self, which: usize, range: Range<usize>, at: usize) -> Result<(), GpuError> {
        self.staging.write(which, range, &self.tier, at)
    }

    fn unpack(&mut self, which: usize, work: &Unpack) -> Result<(), GpuError> {
        self.staging.unpack(which, self.views.tier, work)
    }

    fn end_writes(&mut self, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        self.staging.end(wait)
    }

    fn set_rotation(&mut self, rotation: &Rotation, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        self.settle(wait)?;
        if self.views.tier.codes != 0 {
            self.batch
                .set_rotation(&self.ctx, &self.stream, rotation, wait)?;
        }
        Ok(())
    }
}

impl Engine for CudaEngine {
    fn scans(&self) -> Scans {
        self.ctx.scans
    }

    fn code_dim(&self) -> usize {
        self.batch.code_dim()
    }

    fn set_slots(&mut self, slots: &[ListSlots], wait: &mut Wait<'_>) -> Result<(), GpuError> {
        self.settle(wait)?;
        self.batch.set_slots(&self.ctx, &self.stream, slots, wait)
    }

    fn begin_batch(
        &mut self,
        plan: &BatchPlan,
        wait: &mut Wait<'_>,
    ) -> Result<(&mut [f32], &mut [QueryBound]), GpuError> {
        self.settle(wait)?;
        self.batch.begin(&self.ctx, plan)
    }

    fn run_batch(
        &mut self,
        plan: &BatchPlan,
        input: Option<Input<'_>>,
        scales: Scales,
        wait: &mut Wait<'_>,
    ) -> Result<BatchOut<'_>, GpuError> {
        self.busy = true;
        let (ctx, stream) = (&self.ctx, &self.stream);
        let out = self
            .batch
            .run(ctx, stream, self.views, plan, input, scales, wait)?;
        self.busy = false;
        Ok(out)
    }

    fn fetch(&mut self, at: usize, bytes: usize, wait: &mut Wait<'_>) -> Result<Vec<u8>, GpuError> {
        self.batch.fetch(&self.ctx, &self.stream, at, bytes, wait)
    }

    fn read_tier(&mut self, at: usize, to: &mut [u8], wait: &mut Wait<'_>) -> Result<(), GpuError> {
        let mut pinned = PinnedBuffer::new(&self.ctx, READ_BYTES)?;
        for (i, part) in to.chunks_mut(READ_BYTES).enumerate() {
            let start = at + i * READ_BYTES;
            self.stream
                .download(&mut pinned, &self.tier, start..start + part.len())?;
            self.stream.wait(wait)?;
            part.copy_from_slice(&pinned.bytes()[..part.len()]);
        }
        Ok(())
    }

    fn begin(&mut self, plan: &ScratchPlan, wait: &mut Wait<'_>) -> Result<&mut [u8], GpuError> {
        self.settle(wait)?;
        if self.scratch.as_ref().is_none_or(|b| b.len() < plan.bytes) {
            self.scratch = None;
            self.scratch = Some(DeviceBuffer::new(&self.ctx, plan.bytes)?);
        }
        grown(
            &self.ctx,
            &mut self.download,
            plan.download_end - plan.state,
        )?;
        Ok(
            &mut grown(&self.ctx, &mut self.upload, plan.upload_end)?.bytes_mut()
                [..plan.upload_end],
        )
    }

    fn run(
        &mut self,
        plan: &ScratchPlan,
        rounds: &Rounds,
        scales: Scales,
        wait: &mut Wait<'_>,
    ) -> Result<&[u8], GpuError> {
        let (Some(scratch), Some(upload), Some(download)) =
            (&self.scratch, &self.upload, &mut self.download)
        else {
            return Err(GpuError::Other("run without begin".into()));
        };
        let at = |offset: usize| scratch.address() + offset as u64;
        let shape = plan.shape;
        self.busy = true;
        self.stream.upload(scratch, 0, upload, 0..plan.upload_end)?;
        let scan_params = ScanParams {
            tier: self.views.tier,
            halves: at(plan.halves),
            queries: at(plan.queries),
            consts: at(plan.consts),
            items: at(plan.items),
            group: at(plan.group),
            thresholds: at(plan.thresholds),
            counts: at(plan.counts),
            survivors: at(plan.survivors),
            cap: shape.cap as u32,
            loose_scale: scales.loose,
            mode: ScanMode::Append as u32,
            n_halves: 2,
            ..ScanParams::default()
        };
        let select_params = SelectParams {
            survivors: at(plan.survivors),
            counts: at(plan.counts),
            thresholds: at(plan.thresholds),
            overflows: at(plan.overflows),
            cap: shape.cap as u32,
            keep: shape.keep as u32,
        };
        for round in &rounds.rounds {
            for l in round {
                scan(
                    &self.ctx,
                    &self.stream,
                    l.width,
                    scan_params,
                    l.first_item,
                    l.n_items,
                )?;
            }
            select(&self.ctx, &self.stream, select_params, shape.n_queries)?;
        }
        let rerank_params = RerankParams {
            tier: self.views.tier,
            queries: at(plan.queries),
            consts: at(plan.consts),
            survivors: at(plan.survivors),
            counts: at(plan.counts),
            out: at(plan.out),
            cap: shape.cap as u32,
            keep: shape.keep as u32,
            tight_scale: scales.tight,
            wide_scale: scales.wide,
            ..RerankParams::default()
        };
        rerank(&self.ctx, &self.stream, rerank_params, shape.n_queries)?;
        self.stream
            .download(download, scratch, plan.state..plan.download_end)?;
        self.stream.wait(wait)?;
        self.busy = false;
        Ok(&download.bytes()[..plan.download_end - plan.state])
    }

    fn scratch_bytes(&self) -> u64 {
        self.scratch.as_ref().map_or(0, |b| b.len() as u64) + self.batch.device_bytes()
    }

    fn second(&self) -> Result<Box<dyn Engine>, GpuError> {
        let (pool, tier) = (self.staging.pool(), self.tier.clone());
        Ok(Box::new(Self::over(&self.ctx, pool, tier, self.views)?))
    }

    fn export(&self) -> Result<MemoryHandle, GpuError> {
        self.tier.export()
    }
}
