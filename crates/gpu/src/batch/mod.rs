//! Batches that the device answers on its own: it chooses the lists, searches them in two rounds, and sorts what it found, without a word
//! from the host between. What that cannot answer (survivors lost to adverse data, bounds too loose) is searched again, query by query,
//! in rounds that the host plans (`search.rs`).

pub mod codes;
pub mod exact;
mod fitting;
mod locked;
pub mod plan;
mod shape;
pub mod tuning;

pub use locked::{Input, LockedQueries, Source};

use crate::catalog::{Catalog, Extent};
use crate::context::Wait;
use crate::engine::{BatchOut, Engine};
use crate::error::GpuError;
use crate::params::{Found, FoundHead, OVERFLOW_QUERY, QueryBound};
use crate::query::{TierQuery, scales};
use crate::search::{FoundList, Search, SearchTimes};
use codes::NearSlot;
use fitting::fitting;
use plan::{BatchPlan, TierShape, Wanted};
use std::ops::Range;
use std::time::Instant;
use tuning::Tuning;

/// Sizes of batches up to `[0]` are rounded up to multiples of `[1]`, so that a few recorded graphs serve all: the rest is filled with copies of the
/// first query, which read nothing that it does not read.
const ROUNDED_SIZES: [(usize, usize); 3] = [(16, 1), (64, 4), (256, 16)];

/// How many queries the device searches for, to answer `n`.
fn rounded_size(n: usize) -> usize {
    let fits = ROUNDED_SIZES.iter().find(|(most, _)| n <= *most);
    fits.map_or(n, |(_, step)| n.next_multiple_of(*step))
}

/// A number of slots, rounded up to one of few.
fn rounded(n: usize) -> usize {
    n.next_multiple_of((n.next_power_of_two() / 16).max(1))
}

/// Which lists a batch searches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lists {
    /// The nearest ones: `probes` of them, without those that are farther than `spread` from the nearest (see `omen_ivf`'s `Reach`).
    Nearest {
        /// Lists of a query.
        probes: u32,
        /// How much farther than the nearest; +inf for no limit.
        spread: f32,
    },
    /// All there are: an exact search.
    All,
}

/// Writes queries `first..` of a batch to where the device reads them: `[n, query_words]` (`omen_ivf`'s `Query::words`), and bounds `[n]`.
pub type Fill<'a> = dyn FnMut(usize, &mut [f32], &mut [QueryBound]) + 'a;

/// A batch of queries.
pub struct Batch<'a> {
    /// Queries.
    pub n_queries: usize,
    /// Gives the queries.
    pub source: Source<'a>,
    /// Lists to search.
    pub lists: Lists,
    /// Lists that must not be searched here, out of date or otherwise: the caller searches them.
    pub skipped: &'a [u32],
    /// Results wanted of each query, at least 1.
    pub k: usize,
    /// Whether to tell which lists were chosen.
    pub want_lists: bool,
    /// What was set by measurement.
    pub tuning: Tuning,
}

/// What a batch found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchFound {
    /// Results asked for.
    pub k: usize,
    /// `[n, k]`: of each query the first `count` hold, ascending by (key, tid). Of a tier of codes alone: none.
    pub items: Vec<Found>,
    /// `[n]`
    pub heads: Vec<FoundHead>,
    /// Of a tier of codes alone, of all queries: `count` survivors each, ascending.
    survivors: Vec<u64>,
    /// `[n]`: where those of each query begin.
    first_survivors: Vec<usize>,
    /// `[n, probes]`, if asked for: the lists of each query, nearest first, those skipped and those without entries included.
    pub lists: Vec<u32>,
    /// Lists of a row of `lists`.
    pub probes: usize,
    /// `[n]`, likewise: how many of them were searched.
    pub n_probes: Vec<u32>,
}

impl BatchFound {
    /// Answers found list by list ([`crate::Tier::search_found`]), of which the first `k` each count.
    pub fn from_lists(k: usize, answers: &[FoundList]) -> Self {
        let mut found = Self {
            k,
            items: vec![Found::default(); answers.len() * k],
            heads: vec![FoundHead::default(); answers.len()],
            ..Self::default()
        };
        for (q, answer) in answers.iter().enumerate() {
            found.set(q, answer);
        }
        found
    }

    /// Sets the answer of query `q`, with what is cut off as its frontier.
    fn set(&mut self, q: usize, answer: &FoundList) {
        let items = &mut self.items[q * self.k..][..self.k];
        let count = answer.items.len().min(self.k);
        items[..count].copy_from_slice(&answer.items[..count]);
        let next = answer.items.get(count).map(|next| next.key);
        self.heads[q] = FoundHead {
            count: count as u32,
            frontier: next.unwrap_or(answer.frontier),
            overflow: 0,
            reserved: 0,
        };
    }

    /// The answer of query `q`.
    pub fn of(&self, q: usize) -> &[Found] {
        &self.items[q * self.k..][..self.heads[q].count as usize]
    }

    /// What a tier of codes alone does not rule out for query `q`, ascending by bound: of its lists all live entries whose bounds are
    /// below the head's frontier.
    pub fn slots_of(&self, q: usize) -> impl ExactSizeIterator<Item = NearSlot> + '_ {
        let first = self.first_survivors[q];
        let survivors = &self.survivors[first..][..self.heads[q].count as usize];
        survivors.iter().map(|&survivor| NearSlot::of(survivor))
    }

    /// Takes what the device answered to the first `n` queries of a part of the batch.
    fn add(&mut self, out: &BatchOut<'_>, plan: &BatchPlan, n: usize) {
        if let Some((lists, n_probes)) = out.chosen {
            self.probes = plan.probes;
            self.lists.extend_from_slice(&lists[..n * plan.probes]);
            self.n_probes.extend_from_slice(&n_probes[..n]);
        }
        let Some(slots) = &out.slots else {
            self.heads.extend_from_slice(&out.heads[..n]);
            self.items.extend_from_slice(&out.found[..n * self.k]);
            return;
        };
        let keep = plan.keep;
        let of_queries = slots.survivors.chunks_exact(keep).take(n);
        for (q, survivors) in of_queries.enumerate() {
            let kept = &survivors[..keep.min(slots.counts[q] as usize)];
            let first = self.survivors.len();
            self.first_survivors.push(first);
            self.survivors.extend_from_slice(kept);
            self.survivors[first..].sort_unstable();
            self.heads.push(FoundHead {
                count: kept.len() as u32,
                frontier: slots.thresholds[q],
                overflow: slots.overflows[q],
                reserved: 0,
            });
        }
    }
}

/// One batch search of a tier.
pub(crate) struct BatchSearch<'a, 'w> {
    pub(crate) catalog: &'a Catalog,
    /// Whether the tier holds rows, or codes alone.
    pub(crate) has_rows: bool,
    pub(crate) engine: &'a mut dyn Engine,
    /// The index's g.
    pub(crate) rounding: f32,
    /// Bytes of device memory that batches may use.
    pub(crate) scratch_limit: u64,
    pub(crate) wait: Wait<'w>,
    pub(crate) times: SearchTimes,
}

impl BatchSearch<'_, '_> {
    /// See [`crate::tier::Tier::search_batch`].
    pub(crate) fn run(&mut self, batch: &mut Batch<'_>) -> Result<BatchFound, GpuError> {
        let start = Instant::now();
        let slots = self.catalog.slots_without(batch.skipped);
        let extent = self.catalog.extent();
        let tier = self.shape(slots.len(), extent);
        self.engine.set_slots(&slots, &mut self.wait)?;
        let (probes, spread) = match batch.lists {
            // Which the plan refuses.
            Lists::All if !self.has_rows => (None, f32::INFINITY),
            Lists::Nearest { probes, spread }
                if (probes as usize) < tier.n_lists || spread < f32::INFINITY =>
            {
                (Some(probes as usize), spread)
            }
            // Where some slots are not to be searched, the lists that are searched are told one by one; so they are where codes are.
            _ if !batch.skipped.is_empty() || !extent.is_dense || !self.has_rows => {
                (Some(tier.n_lists), f32::INFINITY)
            }
            Lists::Nearest { .. } | Lists::All => (None, f32::INFINITY),
        };
        let mut found = BatchFound {
            k: batch.k,
            ..BatchFound::default()
        };
        self.times.plan += start.elapsed();
        let mut first = 0;
        while first < batch.n_queries {
            let left = batch.n_queries - first;
            let wanted = Wanted {
                n_queries: left,
                k: batch.k,
                probes,
                spread,
                rounding: self.rounding,
                want_lists: batch.want_lists,
            };
            // A quarter is left to searches that follow.
            let limit = self.scratch_limit / 4 * 3;
            let rounded = Wanted {
                n_queries: match batch.source {
                    Source::Fill(_) => rounded_size(left),
                    // They are read where they are.
                    Source::Locked(..) => left,
                },
                ..wanted
            };
            let mut plan = BatchPlan::new(tier, rounded, batch.tuning)?;
            if !plan.fits(limit) {
                plan = fitting(tier, wanted, batch.tuning, limit)?;
            }
            let n = plan.wanted.n_queries.min(left);
            self.run_part(batch, &plan, first..first + n, &mut found)?;
            first += n;
        }
        Ok(found)
    }

    /// What batches are planned for. What lists come to use by being refreshed in place is in it already, and what is more is rounded where no
    /// search goes over all slots: a graph that was recorded for one shape serves no other.
    fn shape(&self, n_lists: usize, extent: Extent) -> TierShape {
        let (n_slots, longest) = match extent.is_dense {
            true => (extent.n_slots, extent.longest),
            false => (rounded(extent.n_roomy_slots), rounded(extent.longest)),
        };
        let spec = self.catalog.spec();
        TierShape {
            metric: spec.metric,
            dim: spec.dim,
            bit_words: spec.bit_words(),
            row_pitch: self.catalog.pitch(),
            n_lists,
            n_slots,
            longest,
            scans: self.engine.scans(),
            code_dim: self.engine.code_dim(),
            has_rows: self.has_rows,
        }
    }

    /// Answers some queries of the batch, at most `plan.wanted.n_queries`.
    fn run_part(
        &mut self,
        batch: &mut Batch<'_>,
        plan: &BatchPlan,
        queries: Range<usize>,
        found: &mut BatchFound,
    ) -> Result<(), GpuError> {
        let start = Instant::now();
        let (first, n) = (queries.start, queries.len());
        let (raw, bounds) = self.engine.begin_batch(plan, &mut self.wait)?;
        let input = match &mut batch.source {
            Source::Fill(fill) => {
                let words = plan.tier.query_words();
                let (mine, others) = raw.split_at_mut(n * words);
                let (bounds, other_bounds) = bounds.split_at_mut(n);
                fill(first, mine, bounds);
                for other in others.chunks_exact_mut(words) {
                    other.copy_from_slice(&mine[..words]);
                }
                other_bounds.fill(bounds[0]);
                None
            }
            Source::Locked(locked, from) => Some(locked.part(*from + first, n)),
        };
        let filled = Instant::now();
        let scales = scales(self.rounding);
        let out = self.engine.run_batch(plan, input, scales, &mut self.wait)?;
        let done = Instant::now();
        if out.overflow {
            return Err(GpuError::Other("more items than planned for".into()));
        }
        found.add(&out, plan, n);
        if self.has_rows {
            let again: Vec<usize> = (0..n)
                .filter(|&q| self.is_short(&found.heads[first + q], batch.k))
                .collect();
            self.search_again(batch, plan, first, &again, found)?;
        }
        self.times.fill += filled - start;
        self.times.device += done - filled;
        self.times.collect += done.elapsed();
        Ok(())
    }

    /// Whether an answer lacks candidates that there may be.
    fn is_short(&self, head: &FoundHead, k: usize) -> bool {
        head.overflow != 0 || ((head.count as usize) < k && head.frontier < f32::INFINITY)
    }

    /// The lists chosen for query `q` of the last part.
    fn chosen(&mut self, plan: &BatchPlan, q: usize) -> Result<Vec<u32>, GpuError> {
        let row = plan.probes * 4;
        let number = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let n_probes = self
            .engine
            .fetch(plan.n_probes + q * 4, 4, &mut self.wait)?;
        let lists = self
            .engine
            .fetch(plan.lists + q * row, row, &mut self.wait)?;
        let lists = lists.chunks_exact(4).map(number);
        Ok(lists.take(number(&n_probes) as usize).collect())
    }

    /// Searches some queries of the part again, in rounds that the host plans and with both halves of the queries.
    fn search_again(
        &mut self,
        batch: &mut Batch<'_>,
        plan: &BatchPlan,
        first: usize,
        queries: &[usize],
        found: &mut BatchFound,
    ) -> Result<(), GpuError> {
        if queries.is_empty() {
            return Ok(());
        }
        let mut raw = vec![0.0; plan.tier.query_words()];
        for &q in queries {
            if found.heads[first + q].overflow & OVERFLOW_QUERY != 0 {
                return Err(GpuError::Unsupported("query out of range".into()));
            }
            let lists = if plan.is_exact() {
                self.catalog.resident(batch.skipped)
            } else {
                let lists = self.chosen(plan, q)?;
                self.catalog.only_resident(&lists, batch.skipped)
            };
            let mut bound = QueryBound::default();
            batch
                .source
                .copy(first + q, &mut raw, core::slice::from_mut(&mut bound));
            let answer = self.search_one(&raw, bound, &lists, batch.k)?;
            found.set(first + q, &answer);
        }
        Ok(())
    }

    /// Searches one query until it has `k` candidates or all there are.
    fn search_one(
        &mut self,
        q: &[f32],
        bound: QueryBound,
        lists: &[u32],
        k: usize,
    ) -> Result<FoundList, GpuError> {
        let mut asked = k;
        loop {
            let query = TierQuery {
                q,
                q_norm: bound.q_norm,
                q_err: bound.q_err,
                lists,
                k: asked,
            };
            let mut search = Search {
                catalog: self.catalog,
                engine: &mut *self.engine,
                rounding: self.rounding,
                scratch_limit: self.scratch_limit / 4,
                wait: Wait {
                    until: self.wait.until,
                    poll: &mut *self.wait.poll,
                },
                times: SearchTimes::default(),
            };
            let answer = search
                .run(&[query])?
                .pop()
                .ok_or_else(|| GpuError::Other("no answer to a query".into()))?;
            if answer.items.len() >= k || answer.frontier == f32::INFINITY {
                return Ok(answer);
            }
            asked *= 4;
        }
    }
}
