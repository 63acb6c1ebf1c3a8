//! One call of the device for requests that go together.

use super::hosted::Hosted;
use super::{Admitted, Search, n_queries_of};
use crate::queue::Queue;
use omen_gpu::batch::tuning::Tuning;
use omen_gpu::params::QueryBound;
use omen_gpu::{Batch, BatchFound, FoundList, GpuError, Lists, Source, Tier, TierQuery};
use std::time::Duration;

/// Of a batch so many results are asked for, the next that is enough: recorded graphs are for one number, and clients have any LIMIT.
const ROUNDED_K: [usize; 8] = [1, 10, 20, 50, 100, 200, 500, 1000];

fn rounded_k(k: usize) -> usize {
    let enough = ROUNDED_K.into_iter().find(|&rounded| rounded >= k);
    enough.unwrap_or(k)
}

/// What the device is called for.
pub enum Call<'a> {
    /// The lists nearest to each query.
    Nearest(Batch<'a>),
    /// Lists that are given, of each query.
    Given(Vec<TierQuery<'a>>),
}

impl Call<'_> {
    /// Queries.
    pub fn n_queries(&self) -> usize {
        match self {
            Self::Nearest(batch) => batch.n_queries,
            Self::Given(queries) => queries.len(),
        }
    }

    /// Results wanted, of the query that wants the most.
    pub fn k(&self) -> usize {
        match self {
            Self::Nearest(batch) => batch.k,
            Self::Given(queries) => queries.iter().map(|query| query.k).max().unwrap_or(1),
        }
    }

    /// Makes it: [`Tier::search_batch`] or [`Tier::search_found`].
    pub fn make(
        &mut self,
        tier: &Tier,
        rounding: f32,
        deadline: Duration,
        poll: &mut dyn FnMut() -> Result<(), GpuError>,
    ) -> Result<BatchFound, GpuError> {
        let k = self.k();
        match self {
            Self::Nearest(batch) => tier.search_batch(batch, rounding, deadline, poll),
            Self::Given(queries) => {
                let asked = queries.iter().filter(|query| !query.lists.is_empty());
                let asked: Vec<TierQuery<'_>> = asked.copied().collect();
                let mut answers = match asked.as_slice() {
                    [] => Vec::new(),
                    asked => tier.search_found(asked, rounding, deadline, poll)?,
                }
                .into_iter();
                let answers: Option<Vec<FoundList>> = queries
                    .iter()
                    .map(|query| match query.lists {
                        [] => Some(nothing()),
                        _ => answers.next(),
                    })
                    .collect();
                let answers =
                    answers.ok_or_else(|| GpuError::Other("no answer to a query".into()))?;
                Ok(BatchFound::from_lists(k, &answers))
            }
        }
    }
}

/// What there is in no lists.
fn nothing() -> FoundList {
    FoundList {
        items: Vec::new(),
        frontier: f32::INFINITY,
    }
}

/// Searches for all requests of a group, each of which the tier can answer.
pub(super) fn search_group(
    queue: &Queue,
    hosted: &Hosted,
    group: &[Admitted],
    search: &mut Search<'_>,
    meanwhile: &mut dyn FnMut(),
) -> Result<BatchFound, GpuError> {
    if group[0].lists.is_empty() {
        search_nearest(queue, hosted, group, search, meanwhile)
    } else {
        search_given(queue, hosted, group, search, meanwhile)
    }
}

fn search_nearest(
    queue: &Queue,
    hosted: &Hosted,
    group: &[Admitted],
    search: &mut Search<'_>,
    meanwhile: &mut dyn FnMut(),
) -> Result<BatchFound, GpuError> {
    let (tier, form) = (&hosted.tier, group[0].head);
    let words = tier.spec().query_words();
    let mut fill = |first: usize, raw: &mut [f32], bounds: &mut [QueryBound]| {
        let (wanted, mut at) = (first..first + bounds.len(), 0);
        for request in group {
            let queries = at..at + request.n_queries();
            at = queries.end;
            let (from, to) = (wanted.start.max(queries.start), wanted.end.min(queries.end));
            if from >= to {
                continue;
            }
            let here = from - wanted.start..to - wanted.start;
            let there = from - queries.start..to - queries.start;
            let raw = &mut raw[here.start * words..here.end * words];
            match request.head.arrays(queue.request(&request.taken)) {
                Ok(asked) if asked.vectors.len() == request.n_queries() * words => {
                    raw.copy_from_slice(&asked.vectors[there.start * words..there.end * words]);
                    bounds[here].copy_from_slice(&asked.bounds[there]);
                }
                // Impossible, as both were checked; whatever it is, it disturbs nobody else.
                _ => {
                    raw.fill(0.0);
                    bounds[here].fill(QueryBound::default());
                }
            }
        }
    };
    let is_all = form.probes as usize >= tier.spec().n_lists && form.spread == f32::INFINITY;
    // Codes alone are for clients that did not ask for exact answers, and that see from the answer what it is.
    let lists = if is_all && tier.parts().rows() {
        Lists::All
    } else {
        Lists::Nearest {
            probes: form.probes,
            spread: form.spread,
        }
    };
    let batch = Batch {
        n_queries: n_queries_of(group),
        source: Source::Fill(&mut fill),
        lists,
        skipped: &hosted.stale,
        k: rounded_k(group.iter().map(|r| r.head.k as usize).max().unwrap_or(1)),
        want_lists: true,
        tuning: Tuning::default(),
    };
    search(tier, &mut Call::Nearest(batch), form.rounding, meanwhile)
}

fn search_given(
    queue: &Queue,
    hosted: &Hosted,
    group: &[Admitted],
    search: &mut Search<'_>,
    meanwhile: &mut dyn FnMut(),
) -> Result<BatchFound, GpuError> {
    let (tier, words) = (&hosted.tier, hosted.tier.spec().query_words());
    let here: Vec<Vec<u32>> = group.iter().map(|r| hosted.only_here(&r.lists)).collect();
    let mut queries = Vec::with_capacity(n_queries_of(group));
    for (request, lists) in group.iter().zip(&here) {
        let asked = request.head.arrays(queue.request(&request.taken));
        // Impossible, as it was checked.
        let asked = asked.map_err(|e| GpuError::Other(e.to_string()))?;
        for (q, bound) in asked.vectors.chunks_exact(words).zip(asked.bounds) {
            queries.push(TierQuery {
                q,
                q_norm: bound.q_norm,
                q_err: bound.q_err,
                lists,
                k: request.head.k as usize,
            });
        }
    }
    let rounding = group[0].head.rounding;
    search(tier, &mut Call::Given(queries), rounding, meanwhile)
}
