//! What a tier needs of a device: writing its arrays, running a batch that the device plans (`batch.rs`) or the host does. `CudaEngine`
//! does it with kernels, `SimulatedEngine` with their twins.

mod batch;
#[cfg(feature = "simulated")]
pub mod simulated;

pub use batch::BatchOut;
use batch::{BatchMemory, Views};

use crate::batch::Input;
use crate::batch::plan::BatchPlan;

use crate::buffers::{DeviceBuffer, PinnedBuffer};
use crate::context::{Context, Scans, Stream, Wait};
use crate::error::GpuError;
use crate::launch::unpack::{Items, unpack_groups, unpack_rows};
use crate::launch::{rerank::rerank, scan::scan, select::select};
use crate::memory::{MIN_SCRATCH_BYTES, ScratchPlan, TierPlan};
use crate::params::{
    ListSlots, QueryBound, RerankParams, ScanMode, ScanParams, SelectParams, TierView, UnpackParams,
};
use crate::plan::Rounds;
use omen_ivf::Metric;
use omen_ivf::rotation::Rotation;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of one staging area: so many that what a copy costs beside the bus is small against the copy, and not so many that
/// page-locking the areas (0.3 ms a MB) is felt.
pub const STAGE_BYTES: usize = 4 << 20;
/// Staging areas: one is filled, one waits for its last pages, one is on the bus, one is unpacked.
pub const N_STAGES: usize = 4;

// While a tier is loaded, the areas on the device take the place of its scratch.
const _: () = assert!((N_STAGES * STAGE_BYTES) as u64 <= MIN_SCRATCH_BYTES);

/// What a staging area holds when it is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpack {
    /// Bytes in use, items included.
    pub used: usize,
    /// Byte where the items start, a multiple of 16.
    pub items_at: usize,
    /// Items of groups.
    pub groups: Items,
    /// Items of rows.
    pub rows: Items,
    /// How the parts look.
    pub shape: StageShape,
}

/// How parts of streams look in a staging area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageShape {
    /// Halves per row; rows lie back to back.
    pub dim: usize,
    /// From one group to the next.
    pub group_bytes: usize,
    /// 32-bit words per code of a group; 0: headers alone.
    pub code_words: usize,
}

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

/// A device holding one tier. One caller at a time.
pub trait Engine: Send {
    /// Which scan kernels run here.
    fn scans(&self) -> Scans;

    /// A staging area of [`STAGE_BYTES`], once earlier copies out of it are done.
    fn stage(&mut self, which: usize, wait: &mut Wait<'_>) -> Result<&mut [u8], GpuError>;

    /// A staging area taken by `stage` before and not yet copied from.
    fn stage_open(&mut self, which: usize) -> Result<&mut [u8], GpuError>;

    /// Queues a copy from a staging area to offset `at` of the tier's memory.
    fn write_tier(&mut self, which: usize, range: Range<usize>, at: usize) -> Result<(), GpuError>;

    /// Queues the copy of a staging area to the device and the unpacking of its items into the tier's arrays.
    fn unpack(&mut self, which: usize, work: &Unpack) -> Result<(), GpuError>;

    /// Copies the tier's memory from offset `at` on back. While nothing else is under way.
    fn read_tier(&mut self, at: usize, to: &mut [u8], wait: &mut Wait<'_>) -> Result<(), GpuError>;

    /// Waits for all writes and gives the staging areas back.
    fn end_writes(&mut self, wait: &mut Wait<'_>) -> Result<(), GpuError>;

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

    /// Takes the rotation of the codes.
    fn set_rotation(&mut self, rotation: &Rotation, wait: &mut Wait<'_>) -> Result<(), GpuError>;

    /// Dimensions of the codes that can be searched; 0 if there are none.
    fn code_dim(&self) -> usize;

    /// Tells the device where the lists are.
    fn set_slots(&mut self, slots: &[ListSlots], wait: &mut Wait<'_>) -> Result<(), GpuError>;

    /// Where the queries of a batch go, f32 `[n, dim]`, and their bounds `[n]`, once earlier work is done. Makes room for the batch.
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
}

/// The engine of a real device.
pub struct CudaEngine {
    // First, because dropping them waits for the work that uses the rest.
    stream: Stream,
    stage_streams: [Option<Stream>; N_STAGES],
    ctx: Arc<Context>,
    batch: BatchMemory,
    views: Views,
    tier: DeviceBuffer,
    view: TierView,
    stages: [Option<PinnedBuffer>; N_STAGES],
    /// What the staging areas are copied to before they are unpacked.
    areas: [Option<DeviceBuffer>; N_STAGES],
    scratch: Option<DeviceBuffer>,
    upload: Option<PinnedBuffer>,
    download: Option<PinnedBuffer>,
    busy: bool,
}

impl CudaEngine {
    /// An engine over the tier's memory.
    pub fn new(
        ctx: &Arc<Context>,
        tier: DeviceBuffer,
        plan: TierPlan,
        metric: Metric,
    ) -> Result<Self, GpuError> {
        let view = TierView::new(tier.address(), &plan, metric);
        let centroids = TierView {
            rows: tier.address() + plan.centroids as u64,
            norm_sq: tier.address() + plan.centroid_norms as u64,
            pitch: view.pitch,
            metric: view.metric,
            n_slots: plan.n_lists as u32,
            ..TierView::default()
        };
        Ok(Self {
            stream: Stream::new(ctx)?,
            ctx: ctx.clone(),
            batch: BatchMemory::default(),
            views: Views {
                tier: view,
                centroids,
            },
            tier,
            view,
            stages: Default::default(),
            stage_streams: Default::default(),
            areas: Default::default(),
            scratch: None,
            upload: None,
            download: None,
            busy: false,
        })
    }
}

impl CudaEngine {
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

impl Engine for CudaEngine {
    fn scans(&self) -> Scans {
        self.ctx.scans
    }

    fn set_rotation(&mut self, rotation: &Rotation, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        self.settle(wait)?;
        if self.views.tier.codes != 0 {
            self.batch
                .set_rotation(&self.ctx, &self.stream, rotation, wait)?;
        }
        Ok(())
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

    fn stage(&mut self, which: usize, wait: &mut Wait<'_>) -> Result<&mut [u8], GpuError> {
        if let Some(stream) = &self.stage_streams[which] {
            stream.wait(wait)?;
        } else {
            self.stage_streams[which] = Some(Stream::new(&self.ctx)?);
        }
        if self.stages[which].is_none() {
            self.stages[which] = Some(PinnedBuffer::new(&self.ctx, STAGE_BYTES)?);
        }
        self.stage_open(which)
    }

    fn stage_open(&mut self, which: usize) -> Result<&mut [u8], GpuError> {
        self.stages[which]
            .as_mut()
            .map(PinnedBuffer::bytes_mut)
            .ok_or_else(|| GpuError::Other("staging area not taken".into()))
    }

    fn write_tier(&mut self, which: usize, range: Range<usize>, at: usize) -> Result<(), GpuError> {
        match (&self.stages[which], &self.stage_streams[which]) {
            (Some(stage), Some(stream)) => stream.upload(&self.tier, at, stage, range),
            _ => Err(GpuError::Other("staging area not taken".into())),
        }
    }

    fn unpack(&mut self, which: usize, work: &Unpack) -> Result<(), GpuError> {
        let (Some(stage), Some(stream)) = (&self.stages[which], &self.stage_streams[which]) else {
            return Err(GpuError::Other("staging area not taken".into()));
        };
        let area = match &mut self.areas[which] {
            Some(area) => area,
            none => none.insert(DeviceBuffer::new(&self.ctx, STAGE_BYTES)?),
        };
        stream.upload(area, 0, stage, 0..work.used)?;
        let params = UnpackParams {
            tier: self.view,
            area: area.address(),
            items: area.address() + work.items_at as u64,
            dim: work.shape.dim as u32,
            group_bytes: work.shape.group_bytes as u32,
            code_words: work.shape.code_words as u32,
            reserved: 0,
        };
        unpack_groups(&self.ctx, stream, params, work.groups)?;
        unpack_rows(&self.ctx, stream, params, work.rows)
    }

    fn read_tier(&mut self, at: usize, to: &mut [u8], wait: &mut Wait<'_>) -> Result<(), GpuError> {
        let mut pinned = PinnedBuffer::new(&self.ctx, STAGE_BYTES)?;
        for (i, part) in to.chunks_mut(STAGE_BYTES).enumerate() {
            let start = at + i * STAGE_BYTES;
            self.stream
                .download(&mut pinned, &self.tier, start..start + part.len())?;
            self.stream.wait(wait)?;
            part.copy_from_slice(&pinned.bytes()[..part.len()]);
        }
        Ok(())
    }

    fn end_writes(&mut self, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        for which in 0..N_STAGES {
            if let Some(stream) = &self.stage_streams[which] {
                stream.wait(wait)?;
            }
            self.stages[which] = None;
            self.areas[which] = None;
            self.stage_streams[which] = None;
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
            tier: self.view,
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
            tier: self.view,
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
}
