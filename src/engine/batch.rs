//! Searches of many queries at once: by the GPU all together, by the CPU one after another.

use std::time::Instant;

use omen_ivf::coarse::select_lists;
use omen_ivf::index::Index;
use omen_ivf::probes::Reach;
use omen_ivf::query::Query;
use omen_ivf::topk::Candidates;

use super::stats::{self, Engine, ScanRecord};
use super::{SearchRequest, gpu_batch, search_cpu};
use crate::error::Result;
use crate::storage::IndexPages;

/// Queries that the CPU answers before it is asked again whether the GPU should take over; each time twice as many.
const FIRST_ON_CPU: usize = 32;

/// A round of many queries.
#[derive(Clone, Copy)]
pub(crate) struct BatchRequest<'a> {
    /// The index's pages.
    pub pages: &'a IndexPages,
    /// The index.
    pub index: &'a Index,
    /// The queries, by [`Index::prepare_uncoded`].
    pub queries: &'a [&'a Query],
    /// Which lists each visits.
    pub reach: Reach,
    /// How many candidates each wants.
    pub k: usize,
    /// Whether only hard bounds may rule entries out.
    pub exact: bool,
}

/// For each query the `k` nearest entries of its lists. Fails only for what ends the query on any engine: a damaged index, an
/// interrupt; never because of the GPU.
pub(crate) fn search_batch(
    request: &BatchRequest,
    record: &mut ScanRecord,
) -> Result<Vec<Candidates>> {
    record.rounds += 1;
    record.k = request.k as u64;
    let mut found = Vec::with_capacity(request.queries.len());
    let mut n_on_cpu = FIRST_ON_CPU;
    while found.len() < request.queries.len() {
        let rest = BatchRequest {
            queries: &request.queries[found.len()..],
            ..*request
        };
        if let Some(answers) = gpu_batch::search(&rest, record)? {
            record.engine = Engine::Gpu;
            stats::count_searches(Engine::Gpu, answers.len() as u64);
            found.extend(answers);
            continue;
        }
        let here = &rest.queries[..n_on_cpu.min(rest.queries.len())];
        n_on_cpu *= 2;
        for query in here {
            found.push(search_one(&rest, query, record)?);
        }
        stats::count_searches(Engine::Cpu, here.len() as u64);
    }
    Ok(found)
}

/// Answers one query on the CPU.
fn search_one(
    request: &BatchRequest,
    query: &Query,
    record: &mut ScanRecord,
) -> Result<Candidates> {
    let BatchRequest {
        pages,
        index,
        reach,
        k,
        exact,
        ..
    } = *request;
    let began = Instant::now();
    let query = &index.with_code(query);
    let lists = &select_lists(pages, index, query, reach)?;
    record.select += began.elapsed();
    record.probes = record.probes.max(lists.len() as u32);
    let one = SearchRequest {
        pages,
        index,
        query,
        lists,
        k,
        exact,
    };
    search_cpu(&one, record)
}
