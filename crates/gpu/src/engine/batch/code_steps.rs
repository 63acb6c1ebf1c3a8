//! The launches of a batch that read codes.

use super::BatchMemory;
use crate::batch::codes::{CODE_SURVIVORS, CodePlan};
use crate::batch::plan::BatchPlan;
use crate::context::{Context, Stream};
use crate::engine::Scales;
use crate::error::GpuError;
use crate::launch::prepare_codes::prepare_codes;
use crate::launch::rerank_survivors::rerank_survivors;
use crate::launch::scan_codes::{CodeScan, scan_codes};
use crate::params::{
    CodeView, PrepareCodesParams, RerankSurvivorsParams, ScanCodesParams, ScanParams, TierView,
};
use omen_ivf::layout::group::Filter;

/// The arguments of these launches.
pub(super) struct CodeSteps {
    kernel: CodeScan,
    prepare: PrepareCodesParams,
    scan: ScanCodesParams,
    rerank: RerankSurvivorsParams,
}

impl BatchMemory {
    /// What the batch needs where it searches codes; `rows`: the arguments of its scans of rows.
    pub(super) fn code_steps(
        &self,
        plan: &BatchPlan,
        view: TierView,
        rows: &ScanParams,
        scales: Scales,
    ) -> Option<CodeSteps> {
        let (codes, scratch): (CodePlan, _) = (plan.codes?, self.scratch.as_ref()?);
        let at = |offset: usize| scratch.address() + offset as u64;
        let flips = self.flips.as_ref().map_or(0, |(flips, _)| flips.address());
        let epsilon = omen_ivf::rabitq::epsilon(Filter::OneBit);
        Some(CodeSteps {
            kernel: codes.scan,
            prepare: PrepareCodesParams {
                queries: rows.queries,
                flips,
                rotated: codes.rotated.map_or(0, at),
                planes: at(codes.planes),
                codes: at(codes.consts),
                pitch: plan.pitch as u32,
                code_dim: plan.tier.code_dim as u32,
                code_pitch: codes.code_pitch as u32,
                epsilon,
            },
            scan: ScanCodesParams {
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
                consts: rows.consts,
                items: 0,
                n_items: 0,
                group: rows.group,
                pair: rows.pairs,
                add: at(plan.adds),
                distance: at(plan.distances),
                thresholds: rows.thresholds,
                counts: rows.counts,
                survivors: rows.survivors,
                pair_base: 0,
                cap: plan.cap as u32,
                upper: 0,
                loose_scale: scales.loose,
                epsilon,
            },
            rerank: RerankSurvivorsParams {
                rows: view.rows,
                err: view.err,
                queries: rows.queries,
                consts: rows.consts,
                base: at(codes.base),
                counts: rows.counts,
                survivors: rows.survivors,
                n_slots: view.n_slots,
                pitch: view.pitch,
                metric: view.metric,
                cap: plan.cap as u32,
                tight_scale: scales.tight,
                reserved: 0,
            },
        })
    }
}

impl CodeSteps {
    /// Queues the preparation of `n` queries.
    pub(super) fn prepare(&self, ctx: &Context, stream: &Stream, n: usize) -> Result<(), GpuError> {
        prepare_codes(ctx, stream, self.prepare, n)
    }

    /// Queues the scan of `*n_items` items: what may be below the thresholds is appended with its lower bound.
    pub(super) fn scan(
        &self,
        ctx: &Context,
        stream: &Stream,
        items: u64,
        n_items: u64,
    ) -> Result<(), GpuError> {
        let blocks = self.kernel.blocks_per_multiprocessor() as usize * ctx.multiprocessors();
        let params = ScanCodesParams {
            items,
            n_items,
            ..self.scan
        };
        scan_codes(ctx, stream, self.kernel, params, blocks as u32)
    }

    /// Queues that the survivors of `n` queries there are now have keys, not bounds.
    pub(super) fn note_base(&self, stream: &Stream, n: usize) -> Result<(), GpuError> {
        stream.copy(self.rerank.base, self.rerank.counts, n * 4)
    }

    /// Queues that the bounds of survivors beyond those become keys.
    pub(super) fn rerank(&self, ctx: &Context, stream: &Stream, n: usize) -> Result<(), GpuError> {
        rerank_survivors(ctx, stream, self.rerank, n, CODE_SURVIVORS)
    }
}
