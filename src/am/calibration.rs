//! Last step of a build: measures how many lists a search must visit for which recall, and stores the curve.
#![allow(unsafe_code)]

use omen_ivf::Tid;
use omen_ivf::calibrate::{calibrate, store_calibration};
use pgrx::pg_sys;

use super::progress::{Clock, Phase};
use crate::error::Result;
use crate::storage::{IndexPages, forget_index, open_index};

/// Comparisons of a query with an entry that a calibration may take: some two seconds.
const MAX_COMPARISONS: u64 = 700_000_000;
/// Queries it takes at least, however large the index: as much again as a twentieth of the build.
const MIN_QUERIES: u64 = 1000;

/// How many of `wanted` queries, each compared to all entries, are affordable.
fn affordable(wanted: usize, n_entries: u64) -> usize {
    let n = MAX_COMPARISONS / n_entries.max(1);
    wanted.min(n.max(MIN_QUERIES) as usize)
}

/// Calibrates `index`, which has `n_entries`, with rows of the table as queries: vectors `[n, dim]` and their tids. The
/// threads of `pool` compare.
///
/// # Safety
/// `index` is open, complete and not yet visible to others.
pub(super) unsafe fn run(
    index: pg_sys::Relation,
    queries: &(Vec<f32>, Vec<Tid>),
    n_entries: u64,
    clock: &mut Clock,
    pool: &rayon::ThreadPool,
) -> Result<()> {
    let (rows, tids) = queries;
    // SAFETY: by this function's contract.
    let pages = unsafe { IndexPages::new(index) };
    let open = open_index(&pages)?;
    if open.n_lists() > 1 && !tids.is_empty() {
        clock.begin(Phase::Calibrating);
        let n = affordable(tids.len(), n_entries);
        let curve = calibrate(&pages, &open, &rows[..n * open.dim()], &tids[..n], pool)?;
        store_calibration(&pages, &curve, n as u32)?;
    }
    // SAFETY: by this function's contract. The cached copy has no calibration yet.
    unsafe { forget_index(index) };
    Ok(())
}
