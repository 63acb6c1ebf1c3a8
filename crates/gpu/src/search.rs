//! Searching a tier: prepares a batch, plans its rounds, runs it, and turns what comes back into candidates.

use crate::catalog::Catalog;
use crate::context::{Scans, Wait};
use crate::engine::Engine;
use crate::error::GpuError;
use crate::launch::scan::Width;
use crate::memory::{MAX_K, ScratchPlan, ScratchShape, batch_len, cap_for, keep_for};
use crate::params::{Found, QueryConsts, ordered_bits};
use crate::plan::{Room, Rounds, Walk, plan_rounds};
use crate::query::{TierQuery, prepare, prepare_bits, scales};
use half::f16;
use omen_ivf::Tid;
use omen_ivf::topk::{Candidate, Candidates};
use std::time::{Duration, Instant};

/// Where the time of a search went, all batches together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SearchTimes {
    /// Planning rounds on the CPU.
    pub plan: Duration,
    /// Waiting for earlier work, preparing queries, writing the upload area.
    pub fill: Duration,
    /// From the first launch until the results are there.
    pub device: Duration,
    /// Turning results into candidates.
    pub collect: Duration,
}

/// What was found for one query.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FoundList {
    /// The nearest entries, ascending by (key, tid).
    pub items: Vec<Found>,
    /// Entries that are not among them have keys of at least this.
    pub frontier: f32,
}

/// What a device found for a query, without the slots, and below which key it found all.
pub fn candidates_from(found: &[Found], frontier: f32) -> Candidates {
    let candidate = |found: &Found| Candidate {
        key: found.key,
        ceiling: found.ceiling,
        tid: Tid {
            block: found.tid_block,
            offset: found.tid_offset,
        },
    };
    Candidates {
        items: found.iter().map(candidate).collect(),
        frontier,
    }
}

/// What one query's batch found; None if survivors were lost and the query must be searched again.
type Answer = Option<FoundList>;

/// One search of a tier.
pub(crate) struct Search<'a, 'w> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) engine: &'a mut dyn Engine,
    /// The index's g.
    pub(crate) rounding: f32,
    /// Bytes of device memory that batches may use.
    pub(crate) scratch_limit: u64,
    pub(crate) wait: Wait<'w>,
    pub(crate) times: SearchTimes,
}

impl Search<'_, '_> {
    /// Searches all queries. See [`crate::tier::Tier::search`].
    pub(crate) fn run(&mut self, queries: &[TierQuery<'_>]) -> Result<Vec<FoundList>, GpuError> {
        let k = queries.iter().map(|q| q.k).max().unwrap_or(1).max(1);
        if k > MAX_K {
            return Err(GpuError::Unsupported(format!("k = {k}, more than {MAX_K}")));
        }
        let start = Instant::now();
        let walks = queries
            .iter()
            .map(|q| self.catalog.walk(q))
            .collect::<Result<Vec<_>, _>>()?;
        self.times.plan += start.elapsed();
        let (pitch, keep) = (self.catalog.pitch(), keep_for(k));
        let cap = cap_for(keep);
        let n_pieces: Vec<usize> = walks.iter().map(|walk| walk.pieces.len()).collect();

        let mut results = Vec::with_capacity(queries.len());
        while results.len() < queries.len() {
            let from = results.len();
            let to = from + batch_len(pitch, keep, cap, &n_pieces[from..], self.scratch_limit)?;
            let (batch, batch_walks) = (&queries[from..to], &walks[from..to]);
            let mut room = Room {
                keep,
                cap,
                guaranteed: false,
            };
            let mut found = self.run_batch(batch, batch_walks, room)?;
            let again: Vec<usize> = (0..found.len()).filter(|&i| found[i].is_none()).collect();
            if !again.is_empty() {
                room.guaranteed = true;
                let some: Vec<TierQuery<'_>> = again.iter().map(|&i| batch[i]).collect();
                let some_walks: Vec<Walk> = again.iter().map(|&i| batch_walks[i].clone()).collect();
                let second = self.run_batch(&some, &some_walks, room)?;
                again
                    .into_iter()
                    .zip(second)
                    .for_each(|(i, answer)| found[i] = answer);
            }
            for answer in found {
                let lost = || GpuError::Other("survivors lost in guaranteed rounds".into());
                results.push(answer.ok_or_else(lost)?);
            }
        }
        Ok(results)
    }

    /// Runs one batch.
    fn run_batch(
        &mut self,
        queries: &[TierQuery<'_>],
        walks: &[Walk],
        room: Room,
    ) -> Result<Vec<Answer>, GpuError> {
        let start = Instant::now();
        let n = queries.len();
        let rounds = plan_rounds(
            self.catalog.pieces(),
            walks,
            room,
            Width::all(self.catalog.metric(), self.engine.scans() >= Scans::Mma),
        );
        let plan = ScratchPlan::new(ScratchShape {
            n_queries: n,
            pitch: self.catalog.pitch(),
            of_bits: self.catalog.metric().is_of_bits(),
            keep: room.keep,
            cap: room.cap,
            n_items: rounds.items.len(),
            n_group: rounds.group.len(),
        });
        let planned = Instant::now();
        let area = self.engine.begin(&plan, &mut self.wait)?;
        fill_upload(area, &plan, self.catalog, queries, &rounds, self.rounding)?;
        let filled = Instant::now();
        let download = self
            .engine
            .run(&plan, &rounds, scales(self.rounding), &mut self.wait)?;
        let done = Instant::now();

        let part = |at: usize, bytes: usize| &download[at - plan.state..at - plan.state + bytes];
        let thresholds: &[f32] = bytemuck::cast_slice(part(plan.thresholds, n * 4));
        let counts: &[u32] = bytemuck::cast_slice(part(plan.counts, n * 4));
        let overflows: &[u32] = bytemuck::cast_slice(part(plan.overflows, n * 4));
        let out = part(plan.out, n * room.keep * size_of::<Found>());
        let out: &[Found] = bytemuck::cast_slice(out);
        let mut found = Vec::with_capacity(n);
        for (i, of_query) in out.chunks(room.keep).enumerate() {
            let selected = &of_query[..(counts[i] as usize).min(room.keep)];
            // If all rows have room, none was left out.
            let frontier = if walks[i].n_rows <= room.keep {
                f32::INFINITY
            } else {
                thresholds[i]
            };
            found.push((overflows[i] == 0).then(|| sorted(selected, frontier)));
        }
        self.times.plan += planned - start;
        self.times.fill += filled - planned;
        self.times.device += done - filled;
        self.times.collect += done.elapsed();
        Ok(found)
    }
}

/// The answer to one query. Every entry not selected has a loose key, hence a key, of at least `frontier`.
fn sorted(selected: &[Found], frontier: f32) -> FoundList {
    // One number per item that orders like (key, tid): sorting these is what this function costs.
    let mut order: Vec<(u128, usize)> = (0..)
        .zip(selected)
        .filter(|(_, out)| out.key <= frontier)
        .map(|(at, out)| {
            let number = u128::from(ordered_bits(out.key)) << 64
                | u128::from(out.tid_block) << 32
                | u128::from(out.tid_offset);
            (number, at)
        })
        .collect();
    order.sort_unstable_by_key(|&(number, _)| number);
    let items = order.into_iter().map(|(_, at)| selected[at]).collect();
    FoundList { items, frontier }
}

/// Fills a batch's upload area: queries, items, and the state every search starts from.
fn fill_upload(
    area: &mut [u8],
    plan: &ScratchPlan,
    catalog: &Catalog,
    queries: &[TierQuery<'_>],
    rounds: &Rounds,
    rounding: f32,
) -> Result<(), GpuError> {
    let (pitch, n) = (plan.shape.pitch, queries.len());
    let words = plan.shape.query_words();
    let mut consts = Vec::with_capacity(n);
    let (low, high) = area.split_at_mut(plan.halves);
    let vectors: &mut [f32] =
        bytemuck::cast_slice_mut(&mut low[plan.queries..plan.queries + n * words * 4]);
    if plan.shape.of_bits {
        let dim = catalog.spec().dim;
        for (query, to) in queries.iter().zip(vectors.chunks_exact_mut(words)) {
            consts.push(QueryConsts {
                norm: prepare_bits(&query.q[dim..], to),
                ..QueryConsts::default()
            });
        }
    } else {
        let halves: &mut [f16] = bytemuck::cast_slice_mut(&mut high[..n * pitch * 4]);
        for (i, query) in queries.iter().enumerate() {
            let vector = &mut vectors[i * pitch..(i + 1) * pitch];
            let halves = &mut halves[2 * i * pitch..2 * (i + 1) * pitch];
            consts.push(prepare(catalog.metric(), query, rounding, vector, halves)?);
        }
    }
    let mut put = |at: usize, bytes: &[u8]| area[at..at + bytes.len()].copy_from_slice(bytes);
    put(plan.consts, bytemuck::cast_slice(&consts));
    put(plan.items, bytemuck::cast_slice(&rounds.items));
    put(plan.group, bytemuck::cast_slice(&rounds.group));
    put(
        plan.thresholds,
        bytemuck::cast_slice(&vec![f32::INFINITY; n]),
    );
    put(plan.counts, bytemuck::cast_slice(&vec![0u32; n]));
    put(plan.overflows, bytemuck::cast_slice(&vec![0u32; n]));
    Ok(())
}
