//! CREATE INDEX and REINDEX: sample, train, assign and sort all rows, write the pages, log them, calibrate.
//!
//! Nothing is written before all rows are assigned; if the build ends early, abort removes files and locks.
#![allow(unsafe_code)]

use half::f16;
use omen_ivf::assign::Assigner;
use omen_ivf::layout::group::Filter;
use omen_ivf::stored::{Scaling, StoredVector, choose_scale, scale_sample};
use omen_ivf::write_index::{IndexSpec, write_index, write_index_in};
use omen_ivf::{IvfError, Tid, kmeans};
use pgrx::pg_sys;
use pgrx::prelude::*;
use rayon::prelude::*;

use super::entry_sort::EntrySort;
use super::heap_rows::HeapRows;
use super::opclass::OpClass;
use super::progress::{self, Phase};
use super::sample::{self, Random};
use super::{calibration, column_dim};
use crate::error::Result;
use crate::storage::{BulkPages, forget_index};
use crate::{options, threads};

/// Most rows handed to the threads at once, and the bytes they may have.
const BATCH_ROWS: usize = 4096;
const BATCH_BYTES: usize = 16 << 20;

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambuild(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: Postgres passes open relations and their IndexInfo, valid during this call; palloc returns zeroed memory
    // of the size asked for.
    unsafe {
        let (heap_tuples, index_tuples) = match build(heap, index, info) {
            Ok(counts) => counts,
            Err(error) => error.raise(),
        };
        let result = pg_sys::palloc0(size_of::<pg_sys::IndexBuildResult>())
            .cast::<pg_sys::IndexBuildResult>();
        (*result).heap_tuples = heap_tuples;
        (*result).index_tuples = index_tuples as f64;
        result
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    // SAFETY: Postgres passes an open index.
    let result = unsafe { build_empty(index) };
    if let Err(error) = result {
        error.raise();
    }
}

/// Writes the init fork of an unlogged index: one list without entries.
///
/// # Safety
/// `index` is open.
unsafe fn build_empty(index: pg_sys::Relation) -> Result<()> {
    // SAFETY: by this function's contract.
    unsafe {
        let dim = column_dim(index)?;
        let spec = IndexSpec {
            metric: OpClass::of(index)?.metric,
            dim,
            lists: 1,
            filter: Filter::for_dim(dim),
            lists_option: options::lists(index),
            scale_exp: 0,
            rotation_seed: Random::from_clock().next(),
            centroids: vec![f16::ZERO; dim as usize],
            built_at: now_micros(),
        };
        let mut pages = BulkPages::new(index, true);
        write_index(&mut pages, &spec, &mut || Ok(None), &mut |_| {})?;
        pages.log();
    }
    Ok(())
}

/// Builds the index; returns rows of the table and entries of the index.
///
/// # Safety
/// The arguments are those of `ambuild`.
unsafe fn build(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> Result<(f64, u64)> {
    // SAFETY: by this function's contract; settings are read on the main thread.
    let (opclass, dim, lists_option, is_new, rows, work_bytes) = unsafe {
        forget_index(index);
        let opclass = OpClass::of(index)?;
        let rows = HeapRows::new(heap, index, info, opclass);
        let work_bytes = (pg_sys::maintenance_work_mem.max(64) as usize) << 10;
        // Not when TRUNCATE, REINDEX or the end of a transaction empties or rebuilds it. 0 is InvalidSubTransactionId.
        let is_new = (*index).rd_createSubid != 0;
        (
            opclass,
            column_dim(index)?,
            options::lists(index),
            is_new,
            rows,
            work_bytes,
        )
    };
    let mut random = Random::from_clock();
    let pool = threads::pool()?;

    progress::begin(Phase::Sampling);
    // Sample, its scaled copy, and what training needs share the memory.
    let mut sample = sample::take(
        &rows,
        dim as usize,
        lists_option,
        work_bytes / 3,
        &mut random,
    )?;
    let lists = sample::choose_lists(lists_option, &mut sample, dim as usize, is_new);
    let scale_exp = choose_scale(opclass.metric, &sample.rows, dim as usize);
    let scaling = Scaling {
        metric: opclass.metric,
        dim,
        scale_exp,
    };
    let queries = sample.queries(dim as usize, &mut random);
    let scaled = scale_sample(&scaling, &sample.rows)?;
    drop(sample);

    progress::begin(Phase::KMeans);
    // May be fewer than asked for, if rows are equal.
    let centroids = train(&scaled, dim as usize, lists, &mut random, &pool)?;
    let lists = (centroids.len() / dim as usize) as u32;
    drop(scaled);

    progress::begin(Phase::Assigning);
    let mut sink = EntrySink {
        scaling,
        assigner: Assigner::new(&centroids, dim as usize),
        pool: &pool,
        sort: EntrySort::new(dim as usize, work_bytes / 2),
        batch: Vec::new(),
        batch_tids: Vec::new(),
    };
    let heap_tuples = rows.for_each(&mut |tid, value| value.with(|v| sink.put(tid, v))?);
    sink.flush()?;
    let n_entries = sink.sort.n_entries();
    let mut sorted = sink.sort.finish();
    drop(sink.assigner);

    progress::begin(Phase::Writing);
    progress::total(n_entries);
    let spec = IndexSpec {
        metric: opclass.metric,
        dim,
        lists,
        filter: Filter::for_dim(dim),
        lists_option,
        scale_exp,
        rotation_seed: random.next(),
        centroids,
        built_at: now_micros(),
    };
    // SAFETY: `index` is open, by this function's contract.
    let mut pages = unsafe { BulkPages::new(index, false) };
    let mut next = || sorted.next().map_err(|e| IvfError::Store(e.to_string()));
    write_index_in(
        &mut pages,
        &spec,
        Some(&pool),
        &mut next,
        &mut progress::done,
    )?;
    sorted.close();

    progress::begin(Phase::Logging);
    // Before the calibration changes the metapage: its record may be a difference to the page as logged here.
    pages.log();
    // SAFETY: `index` is open, by this function's contract.
    unsafe { calibration::run(index, &queries, n_entries)? };
    Ok((heap_tuples, n_entries))
}

/// Centroids as stored, `[lists, dim]`.
fn train(
    scaled: &[f32],
    dim: usize,
    lists: u32,
    random: &mut Random,
    pool: &rayon::ThreadPool,
) -> Result<Vec<f16>> {
    let mut interrupt = || {
        pgrx::check_for_interrupts!();
        Ok(())
    };
    let centroids = kmeans::train(
        scaled,
        dim,
        lists as usize,
        random.next(),
        pool,
        &mut interrupt,
    )?;
    let mut stored = vec![f16::ZERO; centroids.len()];
    omen_distance::f16_from_f32(&centroids, &mut stored);
    Ok(stored)
}

/// Takes rows of the table; assigns them to lists in batches.
struct EntrySink<'a> {
    scaling: Scaling,
    assigner: Assigner,
    pool: &'a rayon::ThreadPool,
    sort: EntrySort,
    /// `[n, dim]`, the user's numbers.
    batch: Vec<f32>,
    batch_tids: Vec<Tid>,
}

impl EntrySink<'_> {
    fn put(&mut self, tid: Tid, v: &[f32]) -> Result<()> {
        let dim = self.scaling.dim as usize;
        sample::check_dim(dim, v.len())?;
        self.batch.extend_from_slice(v);
        self.batch_tids.push(tid);
        let full = (BATCH_BYTES / (dim * size_of::<f32>())).clamp(32, BATCH_ROWS);
        if self.batch_tids.len() >= full {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<()> {
        let (dim, scaling) = (self.scaling.dim as usize, &self.scaling);
        let stored: Vec<Option<StoredVector>> = self.pool.install(|| {
            self.batch
                .par_chunks_exact(dim)
                .map(|v| scaling.to_stored(v))
                .collect::<omen_ivf::Result<_>>()
        })?;
        let mut rows = Vec::with_capacity(self.batch.len());
        let mut heads = Vec::with_capacity(stored.len());
        for (tid, stored) in self.batch_tids.iter().zip(&stored) {
            // Zero vectors under cosine are not indexed.
            if let Some(stored) = stored {
                rows.extend_from_slice(&stored.row);
                heads.push((*tid, stored.err));
            }
        }
        let lists = self.assigner.assign(&rows, self.pool);
        for ((row, &(tid, err)), list) in rows.chunks_exact(dim).zip(&heads).zip(lists) {
            self.sort.put(list, tid, err, row);
        }
        self.batch.clear();
        self.batch_tids.clear();
        pgrx::check_for_interrupts!();
        Ok(())
    }
}

fn now_micros() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_micros() as i64)
}
