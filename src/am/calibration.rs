//! Last step of a build: measures how many lists a search must visit for which recall, and stores the curve.
#![allow(unsafe_code)]

use omen_ivf::calibrate::{Curve, NEIGHBOURS, calibrate, store_calibration};
use omen_ivf::layout::group::Filter;
use omen_ivf::{Tid, VectorKind};
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

use super::progress::{Clock, Phase};
use crate::engine::build_tier::BuildTier;
use crate::error::{PgError, Result};
use crate::guc;
use crate::storage::{IndexPages, forget_index, open_index};

/// Comparisons of a query with an entry by its code that a calibration may take: some two seconds.
const MAX_COMPARISONS: f64 = 700e6;
/// Seconds for one of them, about.
const CODE_SECONDS: f64 = 3e-9;
/// Queries it takes at least, however large the index: as much again as a twentieth of the build. Without codes they are fewer, or they would take
/// longer than all else does: the curve has limits of confidence, so that fewer ask for more lists, not for a worse recall.
const MIN_QUERIES: u64 = 1000;
const MIN_QUERIES_WITHOUT_CODES: u64 = 200;

/// A smaller index is searched fast, however much of it.
const MIN_ENTRIES_TO_WARN: u64 = 10_000;
const MIN_LISTS_TO_WARN: u32 = 16;
/// A search of more than one in so many lists saves little.
const MANY_LISTS: u32 = 3;

/// How many of `wanted` queries, each compared to all entries, are affordable, in an index whose rows are of this kind, with so many words.
pub(super) fn affordable(
    wanted: usize,
    n_entries: u64,
    kind: VectorKind,
    words: u32,
    filter: Filter,
) -> usize {
    let (weight, least) = match filter {
        Filter::None => (
            (row_seconds(kind, words) / CODE_SECONDS).max(1.0),
            MIN_QUERIES_WITHOUT_CODES,
        ),
        Filter::OneBit | Filter::FourBit => (1.0, MIN_QUERIES),
    };
    let n = (MAX_COMPARISONS / weight) as u64 / n_entries.max(1);
    wanted.min(n.max(least) as usize)
}

/// Seconds to compare a query with a row itself, of so many words. An entry of a sparse row is three words and a step of a merge, some 10 ns as
/// measured (1.3 us for 128 of them); other words are read one after the other.
pub(super) fn row_seconds(kind: VectorKind, words: u32) -> f64 {
    let of_word = match kind {
        VectorKind::Sparse => 3.4e-9,
        VectorKind::Half | VectorKind::Bits => 0.3e-9,
    };
    8e-9 + of_word * f64::from(words)
}

/// Whether there is anything to measure, with queries as for [`run`].
pub(super) fn is_of_use(lists: u32, (_, tids): &(Vec<f32>, Vec<Tid>)) -> bool {
    lists > 1 && !tids.is_empty()
}

/// Calibrates `index`, which has `n_entries`, with rows of the table as queries: inputs `[n, input_words]` and their tids. Their neighbours are found by
/// `tier`, if there is one, else by the threads of `pool`.
///
/// # Safety
/// `index` is open, complete and not yet visible to others.
pub(super) unsafe fn run(
    index: pg_sys::Relation,
    queries: &(Vec<f32>, Vec<Tid>),
    n_entries: u64,
    tier: BuildTier,
    clock: &mut Clock,
    pool: &rayon::ThreadPool,
) -> Result<()> {
    let (rows, tids) = queries;
    // SAFETY: by this function's contract.
    let pages = unsafe { IndexPages::new(index) };
    let open = open_index(&pages)?;
    if is_of_use(open.n_lists(), queries) {
        clock.begin(Phase::Calibrating);
        let (form, filter) = (&open.form, open.meta.shape().filter);
        let n = affordable(tids.len(), n_entries, form.kind(), form.row_words(), filter);
        let words = open.form.input_words();
        let (rows, tids) = (&rows[..n * words], &tids[..n]);
        let vectors: Vec<&[f32]> = rows.chunks_exact(words).collect();
        let nearest = tier.neighbours(&pages, &open, &vectors, NEIGHBOURS)?;
        let curve = calibrate(&pages, &open, rows, tids, nearest, pool)?;
        store_calibration(&pages, &curve, n as u32)?;
        if n_entries >= MIN_ENTRIES_TO_WARN && open.n_lists() > MIN_LISTS_TO_WARN {
            // SAFETY: by this function's contract.
            let name = unsafe { pgrx::name_data_to_str(&(*(*index).rd_rel).relname) };
            warn(name, &curve, open.n_lists());
        }
    }
    // SAFETY: by this function's contract. The cached copy has no calibration yet.
    unsafe { forget_index(index) };
    Ok(())
}

/// Tells the user if searches will visit a large part of the lists. A recall of 1 asks for all of them.
fn warn(name: &str, curve: &Curve, lists: u32) {
    let recall = guc::recall();
    let probes = curve.reach_for(recall, 10, lists).probes;
    if curve.points.is_empty() || recall >= 1.0 || probes <= lists / MANY_LISTS {
        return;
    }
    let percent = |probes| 100.0 * curve.recall_at(probes);
    PgError::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("omen index \"{name}\" must search {probes} of {lists} lists for a recall of {recall}"),
    )
    .with_detail(format!(
        "Of the ten nearest rows a tenth of the lists holds {:.0} %, half of them {:.0} %.",
        percent(lists / 10),
        percent(lists / 2)
    ))
    .with_hint(
        "Neighbours of vectors without structure are in lists everywhere; more lists do not change that. Lower omen.recall if that is enough.",
    )
    .report(PgLogLevel::WARNING);
}
