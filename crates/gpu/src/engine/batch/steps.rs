//! The launches of a batch, in order.

use super::{Addresses, BatchMemory, Views, not_begun};
use crate::batch::exact::Sample;
use crate::batch::plan::BatchPlan;
use crate::context::{Context, Stream};
use crate::engine::Scales;
use crate::error::GpuError;
use crate::launch::finish::finish;
use crate::launch::plan::plan as plan_rounds;
use crate::launch::prepare::prepare_queries;
use crate::launch::probes::select_probes;
use crate::launch::scan::scan_planned;
use crate::launch::select::select;
use crate::params::{
    PlanParams, PrepareParams, ProbeParams, RerankParams, ScanItem, ScanMode, ScanParams,
    SelectParams,
};

impl BatchMemory {
    /// A closure that queues every step of the batch. `input`: where the queries and their bounds are, or (0, 0): as `host_input` says.
    pub(super) fn queue<'a>(
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
        let of_bits = plan.tier.metric.is_of_bits();
        let prepare = PrepareParams {
            raw: input.0,
            bounds: input.1,
            input: on_host(plan.host_input),
            queries: at(plan.queries),
            halves: at(plan.halves),
            consts: at(plan.consts),
            thresholds: at(plan.thresholds),
            counts: at(plan.counts),
            overflows: at(plan.overflows),
            n_queries: n as u32,
            dim: plan.tier.dim as u32,
            bits: if of_bits { at(plan.row_queries) } else { 0 },
            bit_words: plan.tier.bit_words as u32,
            bit_pitch: if of_bits {
                plan.tier.row_query_words() as u32
            } else {
                0
            },
            pitch: plan.pitch as u32,
            metric: view.metric,
            rounding: plan.wanted.rounding,
            first_count: if plan.is_exact() {
                plan.sample.first_rows as u32
            } else {
                0
            },
        };
        let scan = ScanParams {
            tier: view,
            halves: at(plan.halves),
            queries: at(plan.row_queries),
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
            queries: at(plan.queries),
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
            tile_rows: [plan.first_tile().0 as u32, plan.second_tile().0 as u32],
            width: [plan.first_tile().1 as u32, plan.second_tile().1 as u32],
        };
        let by_list = ScanParams {
            group: at(plan.group),
            pairs: at(plan.pairs),
            places: at(plan.places),
            ..scan
        };
        let first = if plan.is_exact() {
            ScanParams {
                n_rows: plan.sample.first_rows as u32,
                row_step: plan.sample.steps[0] as u32,
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
            queries: at(plan.row_queries),
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
        let codes = self.code_steps(plan, view, &others, scales);
        // Survivors kept, and what is known of them: to where, from where.
        let slots = plan.slots.map(|slots| {
            let numbers = [
                (on_host(slots.thresholds), scan.thresholds),
                (on_host(slots.counts), scan.counts),
                (on_host(slots.overflows), best.overflows),
            ];
            (on_host(slots.survivors), numbers)
        });
        let told = plan.chosen.map(|chosen| {
            [
                (on_host(chosen.lists), probes.lists, plan.probes * 4),
                (on_host(chosen.n_probes), probes.n_probes, 4),
            ]
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
            for (to, from, row) in told.into_iter().flatten() {
                stream.copy_rows(to, from, row, row, n)?;
            }
            if let (Some(codes), Some((kept, numbers))) = (&codes, slots) {
                codes.prepare(ctx, stream, n)?;
                // What `select_probes` counted are places of rows, which codes do not have.
                stream.zero(scan.counts, n * 4)?;
                codes.scan(ctx, stream, first.items, first.n_items)?;
                select(ctx, stream, best, n)?;
                codes.scan(ctx, stream, others.items, others.n_items)?;
                select(ctx, stream, best, n)?;
                let (row, room) = (plan.keep * 8, plan.cap * 8);
                stream.copy_rows(kept, scan.survivors, row, room, n)?;
                for (to, from) in numbers {
                    stream.copy_rows(to, from, n * 4, n * 4, 1)?;
                }
                return Ok(());
            }
            scan_planned(ctx, stream, plan.width, first)?;
            select(ctx, stream, best, n)?;
            if plan.is_exact() {
                // A sample's rows come again: only its thresholds stay.
                stream.zero(scan.counts, n * 4)?;
                for &step in &plan.sample.steps[1..] {
                    let denser = ScanParams {
                        n_rows: Sample::rows(plan.tier.n_slots, step) as u32,
                        row_step: step as u32,
                        ..others
                    };
                    scan_planned(ctx, stream, plan.width, denser)?;
                    select(ctx, stream, best, n)?;
                    stream.zero(scan.counts, n * 4)?;
                }
            }
            if let Some(codes) = &codes {
                codes.prepare(ctx, stream, n)?;
                codes.note_base(stream, n)?;
                codes.scan(ctx, stream, others.items, others.n_items)?;
                codes.rerank(ctx, stream, n)?;
            } else {
                scan_planned(ctx, stream, plan.width, others)?;
            }
            select(ctx, stream, best, n)?;
            finish(ctx, stream, answer, n)
        })
    }
}
