//! Last step of a build: measures how many lists a search must visit for which recall, and stores the curve.
#![allow(unsafe_code)]

use omen_ivf::Tid;
use omen_ivf::calibrate::{calibrate, store_calibration};
use pgrx::pg_sys;

use super::progress::{self, Phase};
use crate::error::Result;
use crate::storage::{IndexPages, forget_index, open_index};

/// Multiplications a calibration may take, about: some ten seconds of one core.
const MAX_WORK: u64 = 100_000_000_000;
/// Queries it takes at least, however large the index.
const MIN_QUERIES: u64 = 100;

/// How many of `wanted` queries, each compared to all entries, are affordable.
fn affordable(wanted: usize, n_entries: u64, dim: usize) -> usize {
    let n = MAX_WORK / (n_entries.max(1) * dim as u64);
    wanted.min(n.max(MIN_QUERIES) as usize)
}

/// Calibrates `index`, which has `n_entries`, with rows of the table as queries: vectors `[n, dim]` and their tids.
///
/// # Safety
/// `index` is open, complete and not yet visible to others.
pub(super) unsafe fn run(
    index: pg_sys::Relation,
    queries: &(Vec<f32>, Vec<Tid>),
    n_entries: u64,
) -> Result<()> {
    let (rows, tids) = queries;
    // SAFETY: by this function's contract.
    let pages = unsafe { IndexPages::new(index) };
    let open = open_index(&pages)?;
    if open.n_lists() > 1 && !tids.is_empty() {
        progress::begin(Phase::Calibrating);
        let n = affordable(tids.len(), n_entries, open.dim());
        let points = calibrate(&pages, &open, &rows[..n * open.dim()], &tids[..n])?;
        store_calibration(&pages, &points, n as u32)?;
    }
    // SAFETY: by this function's contract. The cached copy has no calibration yet.
    unsafe { forget_index(index) };
    Ok(())
}
