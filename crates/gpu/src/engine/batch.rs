//! Batches on a real device: one call queues everything, small batches as one recorded graph.

mod code_steps;
mod steps;

use super::{Scales, grown};
use crate::batch::Input;
use crate::batch::plan::BatchPlan;
use crate::buffers::{DeviceBuffer, PinnedBuffer};
use crate::context::{Context, Graph, Stream, Wait};
use crate::directory::DirectoryPlan;
use crate::error::GpuError;
use crate::params::{Found, FoundHead, ListSlots, QueryBound, TierView};
use omen_ivf::rotation::Rotation;
use std::sync::Arc;

/// Batches of at most so many queries are recorded as graphs: for them, queueing takes longer than the work.
const MAX_GRAPH_QUERIES: usize = 256;
/// Graphs remembered.
const MAX_GRAPHS: usize = 128;

/// What came back from the device.
pub struct BatchOut<'a> {
    /// `[n]`; of a tier of codes alone empty.
    pub heads: &'a [FoundHead],
    /// `[n, k]`; likewise.
    pub found: &'a [Found],
    /// Of a tier of codes alone.
    pub slots: Option<SlotsOut<'a>>,
    /// If they were wanted: the lists chosen for each query, `[n, probes]`, and how many of them count, `[n]`.
    pub chosen: Option<(&'a [u32], &'a [u32])>,
    /// Items found no room: nothing counts.
    pub overflow: bool,
}

/// What came back of codes alone.
pub struct SlotsOut<'a> {
    /// `[n, keep]`: of each query `counts` survivors, in any order.
    pub survivors: &'a [u64],
    /// `[n]`: live entries that are not among them have bounds of at least this.
    pub thresholds: &'a [f32],
    /// `[n]`
    pub counts: &'a [u32],
    /// `[n]`: not 0 where survivors were lost.
    pub overflows: &'a [u32],
}

/// Where the queries and their bounds are.
type Addresses = (u64, u64);

/// What a batch reads of the tier.
#[derive(Clone, Copy)]
pub(super) struct Views {
    /// Entries.
    pub tier: TierView,
    /// Centroids, as rows.
    pub centroids: TierView,
}

/// The parts of a batch's page-locked memory.
pub(super) struct HostParts;

impl HostParts {
    /// The queries and bounds to fill; the overflow flag is cleared.
    pub(super) fn input<'a>(
        plan: &BatchPlan,
        host: &'a mut [u8],
    ) -> (&'a mut [f32], &'a mut [QueryBound]) {
        let n = plan.wanted.n_queries;
        let (low, high) = host.split_at_mut(plan.host_overflow);
        high[..4].fill(0);
        let (raw, bounds) = low.split_at_mut(plan.host_bounds);
        let raw = &mut raw[plan.host_raw..][..n * plan.tier.query_words() * 4];
        let bounds = &mut bounds[..n * size_of::<QueryBound>()];
        (
            bytemuck::cast_slice_mut(raw),
            bytemuck::cast_slice_mut(bounds),
        )
    }

    /// What the device has written.
    pub(super) fn output<'a>(plan: &BatchPlan, host: &'a [u8]) -> BatchOut<'a> {
        let n = plan.wanted.n_queries;
        let n_answered = if plan.slots.is_some() { 0 } else { n };
        let part = |at: usize, bytes: usize| &host[at..at + bytes];
        BatchOut {
            heads: bytemuck::cast_slice(part(plan.host_heads, n_answered * size_of::<FoundHead>())),
            found: bytemuck::cast_slice(part(
                plan.host_found,
                n_answered * plan.wanted.k * size_of::<Found>(),
            )),
            slots: plan.slots.map(|slots| SlotsOut {
                survivors: bytemuck::cast_slice(part(slots.survivors, n * plan.keep * 8)),
                thresholds: bytemuck::cast_slice(part(slots.thresholds, n * 4)),
                counts: bytemuck::cast_slice(part(slots.counts, n * 4)),
                overflows: bytemuck::cast_slice(part(slots.overflows, n * 4)),
            }),
            chosen: plan.chosen.map(|chosen| {
                let lists = bytemuck::cast_slice(part(chosen.lists, n * plan.probes * 4));
                (lists, bytemuck::cast_slice(part(chosen.n_probes, n * 4)))
            }),
            overflow: part(plan.host_overflow, 4) != [0; 4],
        }
    }
}

/// The memory of batches, and their graphs.
#[derive(Default)]
pub(super) struct BatchMemory {
    // First, because graphs refer to the rest.
    graphs: Vec<(BatchPlan, Graph)>,
    directory: Option<(DeviceBuffer, DirectoryPlan)>,
    slots: Vec<ListSlots>,
    /// The flips of the rotation, u32 `[4, code_dim / 32]`, and `code_dim`.
    flips: Option<(DeviceBuffer, usize)>,
    scratch: Option<DeviceBuffer>,
    host: Option<PinnedBuffer>,
    staging: Option<PinnedBuffer>,
}

impl BatchMemory {
    /// Tells the device where the lists are. The stream must be idle.
    pub(super) fn set_slots(
        &mut self,
        ctx: &Arc<Context>,
        stream: &Stream,
        slots: &[ListSlots],
        wait: &mut Wait<'_>,
    ) -> Result<(), GpuError> {
        if self.directory.is_some() && self.slots == slots {
            return Ok(());
        }
        let plan = DirectoryPlan::new(slots.len());
        let bytes = plan.lay_out(slots);
        if self.directory.is_none() {
            self.directory = Some((DeviceBuffer::new(ctx, plan.bytes)?, plan));
        }
        self.slots.clear(); // until it is known that the copy is there
        let staging = grown(ctx, &mut self.staging, bytes.len())?;
        staging.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
        if let Some((buffer, _)) = &self.directory {
            stream.upload(buffer, 0, staging, 0..bytes.len())?;
        }
        stream.wait(wait)?;
        self.slots = slots.to_vec();
        Ok(())
    }

    /// Takes the rotation of the codes. The stream must be idle.
    pub(super) fn set_rotation(
        &mut self,
        ctx: &Arc<Context>,
        stream: &Stream,
        rotation: &Rotation,
        wait: &mut Wait<'_>,
    ) -> Result<(), GpuError> {
        let bits = rotation.flip_bits();
        let bytes: &[u8] = bytemuck::cast_slice(&bits);
        let buffer = DeviceBuffer::new(ctx, bytes.len())?;
        let staging = grown(ctx, &mut self.staging, bytes.len())?;
        staging.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        stream.upload(&buffer, 0, staging, 0..bytes.len())?;
        stream.wait(wait)?;
        self.graphs.clear();
        self.flips = Some((buffer, rotation.code_dim()));
        Ok(())
    }

    /// Dimensions of the codes; 0 without a rotation.
    pub(super) fn code_dim(&self) -> usize {
        self.flips.as_ref().map_or(0, |(_, dim)| *dim)
    }

    /// Makes room for a batch. The stream must be idle.
    pub(super) fn begin(
        &mut self,
        ctx: &Arc<Context>,
        plan: &BatchPlan,
    ) -> Result<(&mut [f32], &mut [QueryBound]), GpuError> {
        let room = |bytes: Option<usize>| bytes.unwrap_or(0);
        if room(self.scratch.as_ref().map(DeviceBuffer::len)) < plan.bytes {
            self.graphs.clear();
            self.scratch = None;
            self.scratch = Some(DeviceBuffer::new(ctx, plan.bytes)?);
        }
        if room(self.host.as_ref().map(|host| host.bytes().len())) < plan.host_bytes {
            self.graphs.clear();
        }
        let host = grown(ctx, &mut self.host, plan.host_bytes)?;
        Ok(HostParts::input(plan, host.bytes_mut()))
    }

    /// Runs the batch whose queries have been filled in.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn run(
        &mut self,
        ctx: &Context,
        stream: &Stream,
        views: Views,
        plan: &BatchPlan,
        input: Option<Input<'_>>,
        scales: Scales,
        wait: &mut Wait<'_>,
    ) -> Result<BatchOut<'_>, GpuError> {
        let host = self.host.as_ref().ok_or_else(not_begun)?.address();
        let input = input.map_or(
            (host + plan.host_raw as u64, host + plan.host_bounds as u64),
            |input| (input.raw.as_ptr() as u64, input.bounds.as_ptr() as u64),
        );
        if plan.wanted.n_queries > MAX_GRAPH_QUERIES {
            self.queue(ctx, stream, views, plan, input, scales)?()?;
        } else {
            // The device finds the queries by what is written here: the graph of a shape stays the same.
            let addresses = [input.0, input.1];
            let host = self.host.as_mut().ok_or_else(not_begun)?;
            host.bytes_mut()[plan.host_input..][..16]
                .copy_from_slice(bytemuck::cast_slice(&addresses));
            self.replay(ctx, stream, views, plan, scales, wait)?;
        }
        stream.wait(wait)?;
        let host = self.host.as_ref().ok_or_else(not_begun)?;
        Ok(HostParts::output(plan, host.bytes()))
    }

    /// Queues the batch as one recorded graph.
    fn replay(
        &mut self,
        ctx: &Context,
        stream: &Stream,
        views: Views,
        plan: &BatchPlan,
        scales: Scales,
        wait: &mut Wait<'_>,
    ) -> Result<(), GpuError> {
        if let Some(at) = self.graphs.iter().position(|(of, _)| of == plan) {
            // The one used last comes last.
            self.graphs[at..].rotate_left(1);
            let (_, graph) = &self.graphs[self.graphs.len() - 1];
            return stream.replay(graph);
        }
        let graph = stream.record(self.queue(ctx, stream, views, plan, (0, 0), scales)?)?;
        stream.replay(&graph)?;
        if self.graphs.len() == MAX_GRAPHS {
            // Still running: it goes once the batch is done.
            stream.wait(wait)?;
            self.graphs.remove(0);
        }
        self.graphs.push((plan.clone(), graph));
        Ok(())
    }

    /// Bytes at `at` of the last batch's scratch. The stream must be idle.
    pub(super) fn fetch(
        &mut self,
        ctx: &Arc<Context>,
        stream: &Stream,
        at: usize,
        bytes: usize,
        wait: &mut Wait<'_>,
    ) -> Result<Vec<u8>, GpuError> {
        let scratch = self.scratch.as_ref().ok_or_else(not_begun)?;
        let staging = grown(ctx, &mut self.staging, bytes)?;
        stream.download(staging, scratch, at..at + bytes)?;
        stream.wait(wait)?;
        Ok(staging.bytes()[..bytes].to_vec())
    }

    /// Bytes of device memory held.
    pub(super) fn device_bytes(&self) -> u64 {
        let directory = self
            .directory
            .as_ref()
            .map_or(0, |(buffer, _)| buffer.len());
        let scratch = self.scratch.as_ref().map_or(0, DeviceBuffer::len);
        let flips = self.flips.as_ref().map_or(0, |(buffer, _)| buffer.len());
        (directory + scratch + flips) as u64
    }
}

fn not_begun() -> GpuError {
    GpuError::Other("a batch that was not begun".into())
}
