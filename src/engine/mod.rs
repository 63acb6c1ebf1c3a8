//! Who searches: the CPU over pinned pages, or the GPU over its hot tier and the CPU over the rest. One index, two
//! engines, the same rows.
//!
//! | file | content |
//! |---|---|
//! | `lists.rs` | which lists a search visits |
//! | `choice.rs` | which engine, from what both have cost so far |
//! | `fallback.rs` | **the one point where the GPU's work falls back to the CPU** |
//! | `nearest.rs`, `nearest/` | a round of one query over the lists nearest to it; the GPU chooses them |
//! | `gpu.rs` | the GPU side of a round whose lists are given |
//! | `answer.rs` | what a device answers, this session's or the shared service's |
//! | `named_slots.rs` | vectors of what a tier of codes alone names, from pages |
//! | `batch.rs`, `gpu_batch/` | searches of many queries at once, and their GPU side |
//! | `devices.rs` | which GPU |
//! | `tiers.rs`, `load.rs` | this session's GPU context and hot tiers |
//! | `mapping.rs` | in their place the shared service's, mapped |
//! | `building.rs`, `build_tier.rs` | the GPU's part in the build of an index; its tier, filled while it is written |
//! | `heat.rs` | which lists it searches most |
//! | `shared/` | rounds that the shared service answers |
//! | `pages.rs` | what pages hold beside what a device has searched |
//! | `service_tiers.rs` | whether the shared service serves this session, and which tiers it should have |
//! | `residence.rs` | loading and evicting tiers, for searches and by hand |
//! | `status.rs` | what the status functions ask |
//! | `stats.rs` | what searches did: for the status functions and for choosing |

mod answer;
pub(crate) mod batch;
pub(crate) mod build_tier;
pub(crate) mod building;
mod choice;
pub(crate) mod devices;
pub(crate) mod fallback;
mod gpu;
mod gpu_batch;
mod heat;
pub(crate) mod lists;
pub(crate) mod load;
mod mapping;
mod named_slots;
mod nearest;
mod pages;
pub(crate) mod refresh;
pub(crate) mod residence;
pub(crate) mod service_tiers;
mod shared;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod tiers;

use std::time::Instant;

use omen_ivf::coarse::Probe;
use omen_ivf::index::Index;
use omen_ivf::query::Query;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::scan_lists::scan_lists;
use omen_ivf::topk::{Candidates, TopK};

use crate::error::Result;
use crate::storage::IndexPages;
pub(crate) use nearest::{NearestRequest, search_nearest};
use stats::{Engine, ScanRecord};

/// One round of a search, over given lists.
pub(crate) struct SearchRequest<'a> {
    /// The index's pages.
    pub pages: &'a IndexPages,
    /// The index.
    pub index: &'a Index,
    /// The query.
    pub query: &'a Query,
    /// Lists to search, nearest first.
    pub lists: &'a [Probe],
    /// How many candidates are wanted.
    pub k: usize,
    /// Whether only hard bounds may rule entries out.
    pub exact: bool,
}

/// The `k` nearest entries of the lists. Fails only for what ends the query on any engine: a damaged index, an
/// interrupt; never because of the GPU.
pub(crate) fn search(request: &SearchRequest, record: &mut ScanRecord) -> Result<Candidates> {
    let found = match gpu::search(request, record)? {
        Some(found) => {
            record.engine = Engine::Gpu;
            found
        }
        None => search_cpu(request, record)?,
    };
    note_round(request.k, record);
    Ok(found)
}

/// Counts a round for `k` candidates.
fn note_round(k: usize, record: &mut ScanRecord) {
    record.rounds += 1;
    record.k = k as u64;
    record.count_round(record.engine, 1);
}

fn search_cpu(request: &SearchRequest, record: &mut ScanRecord) -> Result<Candidates> {
    record.engine = Engine::Cpu;
    let began = Instant::now();
    let mut top = TopK::new(request.k);
    scan(request, request.lists, &mut top, record)?;
    let elapsed = began.elapsed();
    record.cpu += elapsed;
    choice::note_cpu(request.pages.file(), request.lists.len(), elapsed);
    Ok(top.into_candidates())
}

/// Scans whole lists on the CPU.
fn scan(
    request: &SearchRequest,
    lists: &[Probe],
    top: &mut TopK,
    record: &mut ScanRecord,
) -> Result<()> {
    let SearchRequest {
        pages,
        index,
        query,
        exact,
        ..
    } = *request;
    let mut did = SearchStats::default();
    scan_lists(pages, index, query, lists, exact, top, &mut did)?;
    record.add(&did);
    Ok(())
}

/// What two searches of different entries found, as one.
pub(crate) fn merge(a: Candidates, b: Candidates) -> Candidates {
    let frontier = a.frontier.min(b.frontier);
    let mut items = a.items;
    items.extend(b.items);
    items.sort_unstable_by(|a, b| a.key.total_cmp(&b.key).then(a.tid.cmp(&b.tid)));
    items.truncate(items.partition_point(|item| item.key <= frontier));
    Candidates { items, frontier }
}
