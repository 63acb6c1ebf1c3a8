//! Searches of many queries at once: by the GPU all together, by the CPU one after another.

use std::time::Instant;

use omen_ivf::coarse::{Probe, select_lists};
use omen_ivf::index::Index;
use omen_ivf::probes::Reach;
use omen_ivf::topk::Candidates;

use super::answer::Round;
use super::stats::{Engine, ScanRecord};
use super::{SearchRequest, gpu_batch, heat, search_cpu};
use crate::error::Result;
use crate::storage::IndexPages;

/// Queries that the CPU answers before it is asked again whether the GPU should take over; each time twice as many.
const FIRST_ON_CPU: usize = 32;
/// Lists of queries in memory at a time, about, 12 bytes each.
const MAX_PROBES: usize = 1 << 20;

/// Queries whose lists are counted before a tier is loaded.
const SAMPLE: usize = 256;

/// A round of many queries.
#[derive(Clone, Copy)]
pub(crate) struct BatchRequest<'a> {
    /// The index's pages.
    pub pages: &'a IndexPages,
    /// The index.
    pub index: &'a Index,
    /// The queries, each `[dim]`, as the user gave them.
    pub vectors: &'a [&'a [f32]],
    /// Which lists each visits.
    pub reach: Reach,
    /// How many candidates each wants.
    pub k: usize,
    /// Whether only hard bounds may rule entries out.
    pub exact: bool,
}

impl<'a> BatchRequest<'a> {
    /// What is asked for each query.
    pub(super) fn round(&self) -> Round<'a> {
        Round {
            pages: self.pages,
            index: self.index,
            k: self.k,
            exact: self.exact,
        }
    }
}

/// For each query the `k` nearest entries of its lists. Fails only for what ends the query on any engine: a damaged index, an
/// interrupt; never because of the GPU.
pub(crate) fn search_batch(
    request: &BatchRequest,
    record: &mut ScanRecord,
) -> Result<Vec<Candidates>> {
    record.rounds += 1;
    record.k = request.k as u64;
    let mut found = Vec::with_capacity(request.vectors.len());
    let mut n_on_cpu = FIRST_ON_CPU;
    while found.len() < request.vectors.len() {
        let rest = BatchRequest {
            vectors: &request.vectors[found.len()..],
            ..*request
        };
        if let Some(answers) = gpu_batch::search(&rest, record)? {
            record.count_round(record.engine, answers.len() as u64);
            found.extend(answers);
            continue;
        }
        let here = &rest.vectors[..n_on_cpu.min(rest.vectors.len())];
        n_on_cpu *= 4;
        found.extend(search_on_cpu(&rest, here, record)?);
        record.count_round(Engine::Cpu, here.len() as u64);
    }
    Ok(found)
}

/// Answers some queries on the CPU.
pub(super) fn search_on_cpu(
    request: &BatchRequest,
    vectors: &[&[f32]],
    record: &mut ScanRecord,
) -> Result<Vec<Candidates>> {
    let n_lists = request.reach.probes.min(request.index.n_lists()) as usize;
    let mut found = Vec::with_capacity(vectors.len());
    for vectors in vectors.chunks((MAX_PROBES / n_lists.max(1)).max(1)) {
        found.extend(search_neighbours(request, vectors, record)?);
    }
    Ok(found)
}

/// Answers queries one after another, those of one neighbourhood in a row, so that what one has read is in the processor's caches for
/// the next.
fn search_neighbours(
    request: &BatchRequest,
    vectors: &[&[f32]],
    record: &mut ScanRecord,
) -> Result<Vec<Candidates>> {
    let BatchRequest {
        pages,
        index,
        reach,
        k,
        exact,
        ..
    } = *request;
    let began = Instant::now();
    let mut chosen: Vec<(usize, Vec<Probe>)> = Vec::with_capacity(vectors.len());
    for (i, vector) in vectors.iter().enumerate() {
        let lists = select_lists(pages, index, &index.prepare(vector)?, reach)?;
        heat::note(pages, index, lists.iter().map(|probe| probe.list));
        record.probes = record.probes.max(lists.len() as u32);
        chosen.push((i, lists));
    }
    // Numbers of lists are in no order: two sets of them have the same least one as often as they have members in common
    // (Broder's MinHash).
    let neighbourhood = |lists: &[Probe]| {
        let least = lists.iter().map(|probe| probe.list).min();
        (least, lists.first().map(|probe| probe.list))
    };
    chosen.sort_by_cached_key(|(_, lists)| neighbourhood(lists));
    record.select += began.elapsed();

    let nothing = Candidates {
        items: Vec::new(),
        frontier: f32::INFINITY,
    };
    let mut found = vec![nothing; vectors.len()];
    for (i, lists) in &chosen {
        let began = Instant::now();
        // Made anew rather than kept: it is as large as the query, and made faster than a page is scanned.
        let query = &index.prepare(vectors[*i])?;
        record.select += began.elapsed();
        let one = SearchRequest {
            pages,
            index,
            query,
            lists,
            k,
            exact,
        };
        found[*i] = search_cpu(&one, record)?;
    }
    Ok(found)
}

/// Counts the lists of some of the queries as searched: where not all of the index fits the device, they get the room.
pub(super) fn note_sample(request: &BatchRequest) -> Result<()> {
    let BatchRequest {
        pages,
        index,
        vectors,
        reach,
        ..
    } = *request;
    for vector in vectors
        .iter()
        .step_by(vectors.len().div_ceil(SAMPLE).max(1))
    {
        let lists = select_lists(pages, index, &index.prepare(vector)?, reach)?;
        heat::note(pages, index, lists.iter().map(|probe| probe.list));
    }
    Ok(())
}
