//! What the searches of this session did; with the library preloaded it is counted for all sessions too.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use omen_ivf::scan_list::SearchStats;

use crate::gpu_service;

/// Scans deeper than this are not remembered as such.
const MAX_DEPTH: u64 = 4096;
/// Indexes whose plans are remembered, until their scan begins.
const MAX_PLANNED: usize = 1024;

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Engine {
    /// SIMD over pages.
    #[default]
    Cpu,
    /// Kernels over the hot tier.
    Gpu,
}

impl Engine {
    /// Name as shown to users.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }
}

/// Figures of one scan, from one `amrescan` to the next, or of one batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScanRecord {
    /// OID of the index.
    pub relation: u32,
    /// Queries of a batch; 0: a scan.
    pub queries: u64,
    /// Who answered the last round.
    pub engine: Engine,
    /// Lists of the index.
    pub lists: u32,
    /// Lists visited; of a batch the most of one query.
    pub probes: u32,
    /// Candidates asked for in the last round.
    pub k: u64,
    /// Searches.
    pub rounds: u64,
    /// Those of them that the GPU answered, and the CPU; of a batch each counts for every query.
    pub gpu_rounds: u64,
    pub cpu_rounds: u64,
    /// Rows handed to the executor.
    pub rows: u64,
    /// Entries looked at.
    pub candidates: u64,
    /// Entries whose distance was computed from the stored vector.
    pub reranked: u64,
    /// Lists started again because they were rewritten meanwhile.
    pub restarts: u64,
    /// Candidates nearer than rows already handed out, from lists visited late or missed in an earlier round.
    pub late: u64,
    /// Preparing the query and choosing lists.
    pub select: Duration,
    /// Scanning pages.
    pub cpu: Duration,
    /// Searching the hot tier.
    pub gpu: Duration,
    /// Loading the hot tier.
    pub load: Duration,
    /// Why the GPU was not used although it should have been.
    pub fallback: Option<String>,
}

impl ScanRecord {
    /// Adds what a scan of pages did.
    pub(crate) fn add(&mut self, did: &SearchStats) {
        self.candidates += did.filtered + did.candidates;
        self.reranked += did.candidates;
        self.restarts += did.restarts;
    }

    /// A round of so many queries has been answered.
    pub(crate) fn count_round(&mut self, engine: Engine, n_queries: u64) {
        match engine {
            Engine::Cpu => self.cpu_rounds += n_queries,
            Engine::Gpu => self.gpu_rounds += n_queries,
        }
        SESSION.with_borrow_mut(|session| match engine {
            Engine::Cpu => session.counters.cpu += n_queries,
            Engine::Gpu => session.counters.gpu += n_queries,
        });
    }
}

/// Counts of this session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    /// Rounds answered by the CPU, those of a batch by the query.
    pub cpu: u64,
    /// Rounds answered by the GPU, likewise.
    pub gpu: u64,
    /// Fallbacks by reason.
    pub fallbacks: BTreeMap<&'static str, u64>,
}

/// What is known of a scan before it begins. No more than a hint: a plan may have been discarded, or serve for another query.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expectation {
    /// Rows it will pull; `None`: unknown.
    pub rows: Option<u64>,
    /// Not all that it hands out will be taken: there is a WHERE clause or a join.
    pub filtered: bool,
}

#[derive(Default)]
struct Session {
    last: Option<ScanRecord>,
    counters: Counters,
    /// Rows pulled lately, by index.
    depths: HashMap<u32, u64>,
    /// What the last plan of a scan expects of it, by index; the number of rows only until that scan has begun.
    planned: HashMap<u32, Expectation>,
}

thread_local! {
    static SESSION: RefCell<Session> = RefCell::default();
}

/// A scan has ended.
pub(crate) fn finish(record: &ScanRecord) {
    SESSION.with_borrow_mut(|session| {
        let depth = session.depths.entry(record.relation).or_default();
        // Follows growth at once, forgets in a few scans.
        *depth = record.rows.min(MAX_DEPTH).max(*depth / 2);
        session.last = Some(record.clone());
    });
    if let Some(service) = gpu_service::service() {
        service.note_search(record, false);
    }
}

/// A batch has ended: the last thing done, though no scan.
pub(crate) fn finish_batch(record: &ScanRecord) {
    SESSION.with_borrow_mut(|session| session.last = Some(record.clone()));
    if let Some(service) = gpu_service::service() {
        service.note_search(record, true);
    }
}

/// A round fell back to the CPU. Returns how often that happened before for this reason.
pub(crate) fn count_fallback(reason: &'static str) -> u64 {
    SESSION.with_borrow_mut(|session| {
        let n = session.counters.fallbacks.entry(reason).or_default();
        *n += 1;
        *n - 1
    })
}

/// The planner considers a scan of this index of which it expects this.
pub(crate) fn note_plan(relation: u32, expected: Expectation) {
    SESSION.with_borrow_mut(|session| {
        if session.planned.len() >= MAX_PLANNED {
            session.planned.clear();
        }
        session.planned.insert(relation, expected);
    });
}

/// What the scan of this index that begins now will pull: as its plan says, if that was made just now, else as scans did lately.
pub(crate) fn expectation(relation: u32) -> Expectation {
    SESSION.with_borrow_mut(|session| {
        let usual = session.depths.get(&relation).copied();
        let planned = session.planned.get_mut(&relation);
        let (planned, filtered) = match planned {
            Some(plan) => (plan.rows.take(), plan.filtered),
            None => (None, false),
        };
        Expectation {
            rows: planned.or(usual).map(|rows| rows.min(MAX_DEPTH)),
            filtered,
        }
    })
}

/// The scan that ended last.
pub(crate) fn last() -> Option<ScanRecord> {
    SESSION.with_borrow(|session| session.last.clone())
}

/// The counts so far.
pub(crate) fn counters() -> Counters {
    SESSION.with_borrow(|session| session.counters.clone())
}
