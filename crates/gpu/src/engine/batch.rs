//! Batches on a real device: one call queues everything, small batches as one recorded graph.

use super::{Scales, grown};
use crate::batch::Input;
use crate::batch::plan::{BatchPlan, CODE_SURVIVORS};
use crate::buffers::{DeviceBuffer, PinnedBuffer};
use crate::context::{Context, Graph, Stream, Wait};
use crate::directory::DirectoryPlan;
use crate::error::GpuError;
use crate::launch::finish::finish;
use crate::launch::plan::plan as plan_rounds;
use crate::launch::prepare::prepare_queries;
use crate::launch::prepare_codes::prepare_codes;
use crate::launch::probes::select_probes;
use crate::launch::rerank_survivors::rerank_survivors;
use crate::launch::scan::scan_planned;
use crate::launch::scan_codes::scan_codes;
use crate::launch::select::select;
use crate::params::{
    CodeView, Found, FoundHead, ListSlots, PlanParams, PrepareCodesParams, PrepareParams,
    ProbeParams, QueryBound, RerankParams, RerankSurvivorsParams, ScanCodesParams, ScanItem,
    ScanMode, ScanParams, SelectParams, TierView,
};
use omen_ivf::layout::group::Filter;
use omen_ivf::rotation::Rotation;
use std::sync::Arc;

/// Batches of at most so many queries are recorded as graphs: for them, queueing takes longer than the work.
const MAX_GRAPH_QUERIES: usize = 64;
/// Graphs remembered.
const MAX_GRAPHS: usize = 32;

/// What came back from the device.
pub struct BatchOut<'a> {
    /// `[n]`
    pub heads: &'a [FoundHead],
    /// `[n, k]`
    pub found: &'a [Found],
    /// Items found no room: nothing counts.
    pub overflow: bool,
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
        let raw = &mut raw[plan.host_raw..][..n * plan.tier.dim * 4];
        let bounds = &mut bounds[..n * size_of::<QueryBound>()];
        (
            bytemuck::cast_slice_mut(raw),
            bytemuck::cast_slice_mut(bounds),
        )
    }

    /// What the device has written.
    pub(super) fn output<'a>(plan: &BatchPlan, host: &'a [u8]) -> BatchOut<'a> {
        let n = plan.wanted.n_queries;
        let part = |at: usize, bytes: usize| &host[at..at + bytes];
        BatchOut {
            heads: bytemuck::cast_slice(part(plan.host_heads, n * size_of::<FoundHead>())),
            found: bytemuck::cast_slice(part(
                plan.host_found,
                n * plan.wanted.k * size_of::<Found>(),
            )),
            overflow: part(plan.host_overflow, 4) != [0; 4],
        }
    }
}

/// The memory of batches, and their graphs.
#[derive(Default)]
pub(super) struct BatchMemory {
    // First, because graphs refer to the rest.
    graphs: Vec<(BatchPlan, Addresses, Graph)>,
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
        let queue = self.queue(ctx, stream, views, plan, input, scales)?;
        if plan.wanted.n_queries <= MAX_GRAPH_QUERIES {
            if let Some((_, _, graph)) = self
                .graphs
                .iter()
                .find(|(of, at, _)| of == plan && *at == input)
            {
                stream.replay(graph)?;
            } else {
                let graph = stream.record(queue)?;
                stream.replay(&graph)?;
                if self.graphs.len() == MAX_GRAPHS {
                    // Still running: it goes once the batch is done.
                    stream.wait(wait)?;
                    self.graphs.remove(0);
                }
                self.graphs.push((plan.clone(), input, graph));
            }
        } else {
            queue()?;
        }
        stream.wait(wait)?;
        let host = self.host.as_ref().ok_or_else(not_begun)?;
        Ok(HostParts::output(plan, host.bytes()))
    }

    /// A closure that queues every step of the batch.
    fn queue<'a>(
        &self,
        ctx: &'a Context,
        stream: &'a Stream,
        views: Views,
        plan: &'a BatchPlan,
        input: Addresses,
        scales: Scales,
    ) -> Result<impl FnOnce() -> Result<(), GpuError> + use<'a>, GpuError> {
        let (Some((directory, lists)), Some(scratch), Some(host)) =
            (&self.directory, &self.scratch, &self.host)
        else {
            return Err(not_begun());
        };
        let Views {
            tier: view,
            centroids,
        } = views;
        let at = |offset: usize| scratch.address() + offset as u64;
        let on_host = |offset: usize| host.address() + offset as u64;
        let listed = |offset: usize| directory.address() + offset as u64;
        let (n, n_lists) = (plan.wanted.n_queries, plan.tier.n_lists);
        let prepare = PrepareParams {
            raw: input.0,
            bounds: input.1,
            queries: at(plan.queries),
            halves: at(plan.halves),
            consts: at(plan.consts),
            thresholds: at(plan.thresholds),
            counts: at(plan.counts),
            overflows: at(plan.overflows),
            n_queries: n as u32,
            dim: plan.tier.dim as u32,
            pitch: plan.pitch as u32,
            metric: view.metric,
            rounding: plan.wanted.rounding,
            first_count: if plan.is_exact() {
                plan.first_rows as u32
            } else {
                0
            },
        };
        let scan = ScanParams {
            tier: view,
            halves: at(plan.halves),
            queries: at(plan.queries),
            consts: at(plan.consts),
            thresholds: at(plan.thresholds),
            counts: at(plan.counts),
            survivors: at(plan.survivors),
            cap: plan.cap as u32,
            loose_scale: scales.loose,
            n_queries: n as u32,
            n_halves: plan.n_halves,
            ..ScanParams::default()
        };
        let rank = ScanParams {
            tier: centroids,
            ranks: at(plan.ranks),
            mode: ScanMode::Rank as u32,
            n_rows: n_lists as u32,
            n_halves: 2,
            ..scan
        };
        let probes = ProbeParams {
            ranks: at(plan.ranks),
            consts: at(plan.consts),
            list_norms: centroids.norm_sq,
            list_rows: listed(lists.rows),
            lists: at(plan.lists),
            places: at(plan.places),
            adds: at(plan.adds),
            distances: at(plan.distances),
            n_probes: at(plan.n_probes),
            n_first: at(plan.n_first),
            counts: at(plan.counts),
            overflows: at(plan.overflows),
            n_lists: n_lists as u32,
            probes: plan.probes as u32,
            first_rows: plan.first_rows as u32,
            cap: plan.cap as u32,
            spread: plan.wanted.spread,
            metric: view.metric,
            ..ProbeParams::default()
        };
        let rounds = PlanParams {
            lists: at(plan.lists),
            n_probes: at(plan.n_probes),
            n_first: at(plan.n_first),
            slots: listed(lists.slots),
            list_pairs: at(plan.list_pairs),
            pair_at: at(plan.pair_at),
            starts: at(plan.starts),
            group: at(plan.group),
            pairs: at(plan.pairs),
            item_starts: at(plan.item_starts),
            items: at(plan.items),
            n_items: at(plan.n_items),
            overflow: on_host(plan.host_overflow),
            n_queries: n as u32,
            probes: plan.probes as u32,
            n_lists: n_lists as u32,
            max_items: plan.max_items as u32,
            tile_rows: [plan.width.rows() as u32, plan.second_tile().0 as u32],
            width: [plan.width.queries() as u32, plan.second_tile().1 as u32],
        };
        let by_list = ScanParams {
            group: at(plan.group),
            pairs: at(plan.pairs),
            places: at(plan.places),
            ..scan
        };
        let first = if plan.is_exact() {
            ScanParams {
                n_rows: plan.first_rows as u32,
                row_step: plan.row_step as u32,
                mode: ScanMode::Place as u32,
                ..scan
            }
        } else {
            ScanParams {
                items: at(plan.items),
                n_items: at(plan.n_items),
                mode: ScanMode::Place as u32,
                ..by_list
            }
        };
        let others = if plan.is_exact() {
            ScanParams {
                n_rows: plan.tier.n_slots as u32,
                mode: ScanMode::Append as u32,
                ..scan
            }
        } else {
            ScanParams {
                items: at(plan.items + plan.max_items * size_of::<ScanItem>()),
                n_items: at(plan.n_items + 4),
                mode: ScanMode::Append as u32,
                ..by_list
            }
        };
        let best = SelectParams {
            survivors: at(plan.survivors),
            counts: at(plan.counts),
            thresholds: at(plan.thresholds),
            overflows: at(plan.overflows),
            cap: plan.cap as u32,
            keep: plan.keep as u32,
        };
        let answer = RerankParams {
            tier: view,
            queries: at(plan.queries),
            consts: at(plan.consts),
            survivors: at(plan.survivors),
            counts: at(plan.counts),
            out: on_host(plan.host_found),
            thresholds: at(plan.thresholds),
            heads: on_host(plan.host_heads),
            overflows: at(plan.overflows),
            cap: plan.cap as u32,
            keep: plan.keep as u32,
            tight_scale: scales.tight,
            wide_scale: scales.wide,
            k: plan.wanted.k as u32,
            reserved: 0,
        };
        let flips = self
            .flips
            .as_ref()
            .map_or(0, |(buffer, _)| buffer.address());
        let codes = plan.codes.map(|codes| {
            let epsilon = omen_ivf::rabitq::epsilon(Filter::OneBit);
            let prepare = PrepareCodesParams {
                queries: at(plan.queries),
                flips,
                rotated: codes.rotated.map_or(0, at),
                planes: at(codes.planes),
                codes: at(codes.consts),
                pitch: plan.pitch as u32,
                code_dim: plan.tier.code_dim as u32,
                code_pitch: codes.code_pitch as u32,
                epsilon,
            };
            let scan = ScanCodesParams {
                tier: CodeView {
                    codes: view.codes,
                    factors: view.factors,
                    err: view.err,
                    live: view.live,
                    n_slots: view.n_slots,
                    code_pitch: view.code_pitch,
                    metric: view.metric,
                    reserved: 0,
                },
                planes: at(codes.planes),
                codes: at(codes.consts),
                consts: at(plan.consts),
                items: others.items,
                n_items: others.n_items,
                group: at(plan.group),
                pair: at(plan.pairs),
                add: at(plan.adds),
                distance: at(plan.distances),
                thresholds: at(plan.thresholds),
                counts: at(plan.counts),
                survivors: at(plan.survivors),
                pair_base: 0,
                cap: plan.cap as u32,
                upper: 0,
                loose_scale: scales.loose,
                epsilon,
            };
            let rerank = RerankSurvivorsParams {
                rows: view.rows,
                err: view.err,
                queries: at(plan.queries),
                consts: at(plan.consts),
                base: at(codes.base),
                counts: at(plan.counts),
                survivors: at(plan.survivors),
                n_slots: view.n_slots,
                pitch: view.pitch,
                metric: view.metric,
                cap: plan.cap as u32,
                tight_scale: scales.tight,
                reserved: 0,
            };
            (codes.scan, prepare, scan, rerank)
        });
        Ok(move || {
            prepare_queries(ctx, stream, prepare)?;
            if !plan.is_exact() {
                if n > 1 {
                    stream.zero(rounds.list_pairs, 2 * n_lists * 4)?;
                }
                scan_planned(ctx, stream, plan.rank_width, rank)?;
                select_probes(ctx, stream, probes, n)?;
                plan_rounds(ctx, stream, rounds)?;
            }
            scan_planned(ctx, stream, plan.width, first)?;
            select(ctx, stream, best, n)?;
            if plan.is_exact() {
                // The sample's rows come again: only its thresholds stay.
                stream.zero(scan.counts, n * 4)?;
            }
            if let Some((kernel, prepare, scan, rerank)) = codes {
                prepare_codes(ctx, stream, prepare, n)?;
                stream.copy(rerank.base, scan.counts, n * 4)?;
                let blocks = kernel.blocks_per_multiprocessor() as usize * ctx.multiprocessors();
                scan_codes(ctx, stream, kernel, scan, blocks as u32)?;
                rerank_survivors(ctx, stream, rerank, n, CODE_SURVIVORS)?;
            } else {
                scan_planned(ctx, stream, plan.width, others)?;
            }
            select(ctx, stream, best, n)?;
            finish(ctx, stream, answer, n)
        })
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
