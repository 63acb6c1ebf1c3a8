//! A batch on the simulated device: the steps of `engine/batch.rs`, by the twins.

use super::SimulatedEngine;
use crate::batch::Input;
use crate::batch::exact::Sample;
use crate::batch::plan::BatchPlan;
use crate::context::Wait;
use crate::engine::Scales;
use crate::error::GpuError;
use crate::params::{
    CodeConsts, Found, FoundHead, OVERFLOW_QUERY, QueryBound, QueryConsts, ScanItem, ScanMode,
};
use crate::query::{TierQuery, prepare, prepare_bits};
use crate::twin::finish::finish_one;
use crate::twin::plan::{Round, plan_round};
use crate::twin::prepare_codes::prepare_codes;
use crate::twin::probes::{Choice, Chosen, select_probes};
use crate::twin::rerank_survivors::rerank_survivors;
use crate::twin::scan::{ScanArrays, centroid_rank, scan_item};
use crate::twin::scan_codes::{CodeArrays, CodeScanArrays, scan_codes_item};
use crate::twin::select::select_smallest;
use bytemuck::{NoUninit, cast_slice, cast_slice_mut};
use half::f16;
use omen_ivf::layout::group::Filter;

/// What the batch's steps hand on.
struct State {
    queries: Vec<f32>,
    /// Of strings of bits: their words, `[n, row_query_words]`.
    bits: Vec<f32>,
    consts: Vec<QueryConsts>,
    thresholds: Vec<f32>,
    counts: Vec<u32>,
    overflows: Vec<u32>,
    survivors: Vec<u64>,
}

impl State {
    /// Twin of `prepare_queries`.
    fn new(plan: &BatchPlan, raw: &[f32], bounds: &[QueryBound]) -> Self {
        let (n, dim, pitch) = (plan.wanted.n_queries, plan.tier.dim, plan.pitch);
        let (of_bits, words) = (plan.tier.metric.is_of_bits(), plan.tier.row_query_words());
        let mut state = Self {
            queries: vec![0.0; n * pitch],
            bits: vec![0.0; if of_bits { n * words } else { 0 }],
            consts: Vec::with_capacity(n),
            thresholds: vec![f32::INFINITY; n],
            counts: vec![0; n],
            overflows: vec![0; n],
            survivors: vec![0; n * plan.cap],
        };
        let mut halves = vec![f16::ZERO; 2 * pitch];
        for q in 0..n {
            let padded = &mut state.queries[q * pitch..][..pitch];
            let (vector, bits) =
                raw[q * plan.tier.query_words()..][..plan.tier.query_words()].split_at(dim);
            let query = TierQuery {
                q: vector,
                q_norm: bounds[q].q_norm,
                q_err: bounds[q].q_err,
                lists: &[],
                k: 1,
            };
            let g = plan.wanted.rounding;
            let consts = prepare(plan.tier.metric, &query, g, padded, &mut halves);
            if consts.is_err() {
                state.overflows[q] = OVERFLOW_QUERY;
                padded.fill(0.0);
            }
            let mut consts = consts.unwrap_or_default();
            if of_bits {
                consts.norm = prepare_bits(bits, &mut state.bits[q * words..][..words]);
            }
            state.consts.push(consts);
        }
        state
    }

    /// What rows are compared to, `[n, row_query_words]`.
    fn row_queries(&self) -> &[f32] {
        if self.bits.is_empty() {
            &self.queries
        } else {
            &self.bits
        }
    }
}

impl SimulatedEngine {
    /// Runs the batch whose queries are in `host`, and writes its answer there.
    pub(super) fn answer_batch(
        &mut self,
        plan: &BatchPlan,
        input: Option<Input<'_>>,
        scales: Scales,
        wait: &mut Wait<'_>,
    ) -> Result<(), GpuError> {
        let n = plan.wanted.n_queries;
        let mut host = std::mem::take(&mut self.host);
        let memory: &mut [u8] = cast_slice_mut(&mut host);
        let raw = &memory[plan.host_raw..][..n * plan.tier.query_words() * 4];
        let bounds = &memory[plan.host_bounds..][..n * size_of::<QueryBound>()];
        let input = input.unwrap_or(Input {
            raw: cast_slice(raw),
            bounds: cast_slice(bounds),
        });
        let mut state = State::new(plan, input.raw, input.bounds);

        let chosen = if plan.is_exact() {
            state.counts.fill(plan.sample.first_rows as u32);
            Vec::new()
        } else {
            self.choose(plan, &state, wait)?
        };
        for (q, chosen) in chosen.iter().enumerate() {
            state.counts[q] = chosen.count;
            state.overflows[q] |= chosen.overflow;
        }
        if let Some(slots) = plan.slots {
            state.counts.fill(0);
            for round in 0..2 {
                self.scan_codes(plan, scales, &mut state, &chosen, round, wait)?;
                select_all(plan, &mut state);
            }
            let rows = state.survivors.chunks_exact(plan.cap);
            let kept: Vec<u64> = rows.flat_map(|row| row[..plan.keep].to_vec()).collect();
            put(memory, slots.survivors, &kept);
            put(memory, slots.thresholds, &state.thresholds);
            put(memory, slots.counts, &state.counts);
            put(memory, slots.overflows, &state.overflows);
        } else {
            self.search_rows(plan, scales, &mut state, &chosen, memory, wait)?;
        }
        let lists: Vec<u32> = chosen.iter().flat_map(|c| c.lists.clone()).collect();
        let n_probes: Vec<u32> = chosen.iter().map(|c| c.n_probes).collect();
        if let Some(told) = plan.chosen {
            put(cast_slice_mut(&mut host), told.lists, &lists);
            put(cast_slice_mut(&mut host), told.n_probes, &n_probes);
        }
        self.host = host;
        self.fetched = vec![
            (plan.lists, cast_slice(&lists).to_vec()),
            (plan.n_probes, cast_slice(&n_probes).to_vec()),
        ];
        Ok(())
    }

    /// Both rounds of a tier with rows, and the answer into the host's `memory`.
    fn search_rows(
        &self,
        plan: &BatchPlan,
        scales: Scales,
        state: &mut State,
        chosen: &[Chosen],
        memory: &mut [u8],
        wait: &mut Wait<'_>,
    ) -> Result<(), GpuError> {
        let n = plan.wanted.n_queries;
        if plan.is_exact() {
            let step = plan.sample.steps[0];
            self.scan_sample(plan, scales, state, ScanMode::Place, step, wait)?;
        } else {
            self.scan_round(plan, scales, state, chosen, 0, wait)?;
        }
        select_all(plan, state);
        if plan.is_exact() {
            for &step in &plan.sample.steps[1..] {
                state.counts.fill(0);
                self.scan_sample(plan, scales, state, ScanMode::Append, step, wait)?;
                select_all(plan, state);
            }
            state.counts.fill(0);
            self.scan_sample(plan, scales, state, ScanMode::Append, 1, wait)?;
        } else if plan.codes.is_some() {
            let base = state.counts.clone();
            self.scan_codes(plan, scales, state, chosen, 1, wait)?;
            self.rerank_codes(plan, scales, state, &base);
        } else {
            self.scan_round(plan, scales, state, chosen, 1, wait)?;
        }
        select_all(plan, state);

        let k = plan.wanted.k;
        let (heads, found) = memory.split_at_mut(plan.host_found);
        let heads: &mut [FoundHead] = cast_slice_mut(&mut heads[plan.host_heads..][..n * 16]);
        let found: &mut [Found] = cast_slice_mut(&mut found[..n * k * size_of::<Found>()]);
        for (q, head) in heads.iter_mut().enumerate() {
            let tier = self.read();
            let tier = tier.arrays();
            let words = plan.tier.row_query_words();
            let query = &state.row_queries()[q * words..][..words];
            let survivors = &state.survivors[q * plan.cap..][..plan.cap];
            let (consts, threshold) = (&state.consts[q], state.thresholds[q]);
            let n = state.counts[q] as usize;
            let kept = &survivors[..n.min(plan.keep)];
            let (mut of_query, items) =
                finish_one(&tier, query, consts, scales, kept, threshold, k);
            of_query.overflow |= state.overflows[q];
            *head = of_query;
            found[q * k..][..items.len()].copy_from_slice(&items);
        }
        Ok(())
    }

    /// Ranks the centroids and chooses each query's lists.
    fn choose(
        &self,
        plan: &BatchPlan,
        state: &State,
        wait: &mut Wait<'_>,
    ) -> Result<Vec<Chosen>, GpuError> {
        let tier = self.read();
        let (centroids, norms) = tier.centroids();
        let rows: Vec<u32> = self.slots.iter().map(|s| s.n_slots).collect();
        let choice = Choice {
            metric: plan.tier.metric,
            list_norms: norms,
            list_rows: &rows,
            probes: plan.probes,
            first_rows: plan.first_rows as u32,
            cap: plan.cap as u32,
            spread: plan.wanted.spread,
        };
        let mut all = Vec::new();
        for (query, consts) in state.queries.chunks_exact(plan.pitch).zip(&state.consts) {
            (wait.poll)()?;
            let rank = |(centroid, &norm): (&[f16], &f32)| {
                let dot = query
                    .iter()
                    .zip(centroid)
                    .map(|(x, c)| x * c.to_f32())
                    .sum();
                centroid_rank(plan.tier.metric, consts.norm_sq, dot, norm)
            };
            let centroids = centroids.chunks_exact(plan.pitch);
            let ranks: Vec<f32> = centroids.zip(norms).map(rank).collect();
            all.push(select_probes(&choice, consts, &ranks));
        }
        Ok(all)
    }

    /// The items of one round.
    fn planned(&self, plan: &BatchPlan, chosen: &[Chosen], round: usize) -> Round {
        let lists: Vec<u32> = chosen.iter().flat_map(|c| c.lists.clone()).collect();
        let (rows, width) = if round == 0 {
            plan.first_tile()
        } else {
            plan.second_tile()
        };
        let wanted = |q: usize, place: usize| {
            let first = place < chosen[q].n_first as usize;
            if round == 0 {
                first
            } else {
                !first && place < chosen[q].n_probes as usize
            }
        };
        let (rows, width) = (rows as u32, width as u32);
        plan_round(&lists, plan.probes, &self.slots, rows, width, wanted)
    }

    /// Scans the codes of a round's lists.
    fn scan_codes(
        &self,
        plan: &BatchPlan,
        scales: Scales,
        state: &mut State,
        chosen: &[Chosen],
        round: usize,
        wait: &mut Wait<'_>,
    ) -> Result<(), GpuError> {
        let (Some(codes), Some(rotation)) = (plan.codes, &self.rotation) else {
            return Err(GpuError::Other("no codes".into()));
        };
        let epsilon = omen_ivf::rabitq::epsilon(Filter::OneBit);
        let (n, words) = (plan.wanted.n_queries, 4 * codes.code_pitch);
        let mut planes = vec![0; n * words];
        let queries = state.queries.chunks_exact(plan.pitch);
        let consts: Vec<CodeConsts> = queries
            .zip(planes.chunks_exact_mut(words))
            .map(|(query, planes)| {
                prepare_codes(rotation, &query[..plan.tier.dim], epsilon, planes).0
            })
            .collect();
        let planned = self.planned(plan, chosen, round);
        let of_pairs = |f: fn(&Chosen) -> &Vec<f32>| -> Vec<f32> {
            chosen.iter().flat_map(|c| f(c).clone()).collect()
        };
        let tier = self.read();
        let tier = tier.arrays();
        let arrays = CodeArrays {
            codes: tier.codes,
            factors: tier.factors,
            err: tier.err,
            live: tier.live,
            code_pitch: tier.code_pitch,
            metric: tier.metric,
        };
        let mut scan = CodeScanArrays {
            planes: &planes,
            codes: &consts,
            consts: &state.consts,
            group: &planned.group,
            pair: &planned.pairs,
            add: &of_pairs(|c| &c.adds),
            distance: &of_pairs(|c| &c.distances),
            thresholds: &state.thresholds,
            counts: &mut state.counts,
            survivors: &mut state.survivors,
            pair_base: &[],
            cap: plan.cap,
            upper: false,
            loose_scale: scales.loose,
            epsilon,
        };
        for item in &planned.items {
            (wait.poll)()?;
            scan_codes_item(&arrays, &mut scan, item);
        }
        Ok(())
    }

    /// Gives the survivors beyond those of `base` their keys.
    fn rerank_codes(&self, plan: &BatchPlan, scales: Scales, state: &mut State, base: &[u32]) {
        let tier = self.read();
        let tier = tier.arrays();
        for (q, &first) in base.iter().enumerate() {
            let end = (state.counts[q] as usize).min(plan.cap);
            let survivors = &mut state.survivors[q * plan.cap..][first as usize..end];
            let query = &state.queries[q * plan.pitch..][..plan.pitch];
            rerank_survivors(&tier, query, &state.consts[q], scales, survivors);
        }
    }

    /// Scans the lists of one round.
    fn scan_round(
        &self,
        plan: &BatchPlan,
        scales: Scales,
        state: &mut State,
        chosen: &[Chosen],
        round: usize,
        wait: &mut Wait<'_>,
    ) -> Result<(), GpuError> {
        let mut places = Vec::new();
        for of_query in chosen {
            places.extend(&of_query.places);
            places.resize(places.len().next_multiple_of(plan.probes), 0);
        }
        let planned = self.planned(plan, chosen, round);
        let mode = if round == 0 {
            ScanMode::Place
        } else {
            ScanMode::Append
        };
        self.scan_items(plan, scales, state, &planned, &places, (mode, 1), wait)
    }

    /// Scans every `step`-th row against every query.
    fn scan_sample(
        &self,
        plan: &BatchPlan,
        scales: Scales,
        state: &mut State,
        mode: ScanMode,
        step: usize,
        wait: &mut Wait<'_>,
    ) -> Result<(), GpuError> {
        let (rows, n) = (plan.width.rows(), plan.wanted.n_queries);
        let n_rows = Sample::rows(plan.tier.n_slots, step);
        let mut planned = Round {
            group: (0..n as u32).collect(),
            ..Round::default()
        };
        for first in (0..n_rows).step_by(rows) {
            for query in (0..n).step_by(plan.width.queries()) {
                planned.items.push(ScanItem {
                    first_slot: first as u32,
                    first_row: first as u32,
                    first_query: query as u32,
                    n_rows: rows.min(n_rows - first) as u16,
                    n_queries: plan.width.queries().min(n - query) as u16,
                });
            }
        }
        self.scan_items(plan, scales, state, &planned, &[], (mode, step), wait)
    }

    #[allow(clippy::too_many_arguments)]
    fn scan_items(
        &self,
        plan: &BatchPlan,
        scales: Scales,
        state: &mut State,
        round: &Round,
        places: &[u32],
        (mode, step): (ScanMode, usize),
        wait: &mut Wait<'_>,
    ) -> Result<(), GpuError> {
        let tier = self.read();
        let tier = tier.arrays();
        let queries = match state.bits.as_slice() {
            [] => &state.queries,
            bits => bits,
        };
        let mut arrays = ScanArrays {
            queries,
            consts: &state.consts,
            group: &round.group,
            pairs: &round.pairs,
            places,
            thresholds: &state.thresholds,
            counts: &mut state.counts,
            survivors: &mut state.survivors,
            cap: plan.cap,
            loose_scale: scales.loose,
            mode,
            n_halves: plan.n_halves,
            row_step: step as u32,
        };
        for item in &round.items {
            (wait.poll)()?;
            scan_item(&tier, &mut arrays, item);
        }
        Ok(())
    }
}

/// Writes `array` to byte `at` of the host's memory.
fn put<T: NoUninit>(memory: &mut [u8], at: usize, array: &[T]) {
    let bytes: &[u8] = cast_slice(array);
    memory[at..at + bytes.len()].copy_from_slice(bytes);
}

fn select_all(plan: &BatchPlan, state: &mut State) {
    for (q, survivors) in state.survivors.chunks_exact_mut(plan.cap).enumerate() {
        select_smallest(
            survivors,
            &mut state.counts[q],
            &mut state.thresholds[q],
            &mut state.overflows[q],
            plan.keep,
        );
    }
}
