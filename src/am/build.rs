//! CREATE INDEX and REINDEX: sample, train, assign and sort all rows, write and log the pages, calibrate.
//!
//! Nothing is written before all rows are assigned; if the build ends early, abort removes files and locks.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use half::f16;
use omen_gpu::GpuAssigner;
use omen_gpu::assign::{Failure, RowAssigner, SampleAssigner};
use omen_ivf::VectorKind;
use omen_ivf::form::{RowForm, coarse_dim};
use omen_ivf::kmeans::{OnThreads, train_by};
use omen_ivf::layout::group::{Filter, GroupShape};
use omen_ivf::layout::size::index_size;
use omen_ivf::store::BulkWriter;
use omen_ivf::write_index::{Follower, IndexSpec, Piece, write_index, write_index_from};
use pgrx::prelude::*;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

use super::entry_sink::EntrySink;
use super::entry_sort::{EntrySort, SortedEntries};
use super::heap_rows::HeapRows;
use super::opclass::OpClass;
use super::parallel_write::Writers;
use super::progress::{self, Clock, Phase};
use super::random::Random;
use super::sample::Values;
use super::{build_workers, calibration, column_dim, parallel_read, sample};
use crate::engine::build_tier::BuildTier;
use crate::engine::building::{self, Leftovers, Opening, Work};
use crate::error::{PgError, Result};
use crate::storage::{BulkPages, IndexPages, forget_index};
use crate::{options, threads};

/// What a row of a table takes besides its vector, at least.
const TUPLE_BYTES: u64 = 32;
/// A build that takes longer tells what it did.
const LONG_BUILD: Duration = Duration::from_secs(1);
/// Most bytes for what is on its way between threads.
const MAX_AHEAD_BYTES: usize = 128 << 20;
/// What a worker has, and the GPU's driver; that is left of `maintenance_work_mem` as far as it is no more than one in so many parts of it.
const WORKER_BYTES: usize = 4 << 20;
const DRIVER_BYTES: usize = 128 << 20;
const OWN_SHARE: usize = 8;

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
        let (dim, class) = (column_dim(index)?, OpClass::of(index)?);
        let (kind, metric) = (class.kind(), class.metric);
        let spec = IndexSpec {
            entries: RowForm::new(kind, metric, dim, 0, 0).entries(),
            kind,
            metric,
            dim,
            lists: 1,
            filter: filter_of(class, dim),
            lists_option: options::lists(index),
            scale_exp: 0,
            rotation_seed: Random::from_clock().next(),
            centroids: vec![f16::ZERO; coarse_dim(kind, dim) as usize],
            built_at: now_micros(),
        };
        let mut pages = BulkPages::new(index, true);
        write_index(&mut pages, &spec, &mut || Ok(None), &mut |_| {})?;
        pages.finish();
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
        let work_bytes = work_bytes();
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
    threads::bound_heaps();
    let pool = Arc::new(threads::pool()?);

    let mut clock = Clock::default();
    clock.begin(Phase::Sampling);
    let n_threads = pool.current_num_threads();
    // SAFETY: by this function's contract.
    let rough = unsafe { rough_work(&rows, opclass, dim, lists_option) };
    let opening = Opening::begin(&rough, n_threads);
    let sample_bytes = work_bytes / sample::PARTS;
    let kind = opclass.kind();
    let values = Values { kind, dim };
    // SAFETY: by this function's contract.
    let mut sample =
        unsafe { sample::take(&rows, values, lists_option, sample_bytes, &mut random)? };
    let lists = sample::choose_lists(lists_option, &mut sample, values, is_new, &mut random);
    let seed = random.next();
    let form =
        pool.install(|| RowForm::for_sample(values.kind, opclass.metric, dim, seed, &sample.rows));
    let coarse_dim = form.coarse_dim() as usize;
    let estimated_rows = sample.estimated_rows;
    let queries = sample.queries(values.words(), &mut random);
    let coarse = pool.install(|| form.train_rows(&sample.rows))?;
    drop(sample);

    clock.begin(Phase::KMeans);
    let work = Work {
        dim: coarse_dim,
        lists: lists as usize,
        n_sampled: coarse.len() / coarse_dim,
        n_rows: estimated_rows,
    };
    let failure = Failure::default();
    // SAFETY: `index` is open, by this function's contract.
    let leftovers = unsafe { Leftovers::of(&IndexPages::new(index)) };
    let device = building::assigner_for(&work, n_threads, opening, &failure);
    let has_device = device.is_some();
    // May be fewer than asked for, if rows are equal.
    let (centroids, device) = train(&coarse, &work, device, &failure, &mut random, &pool)?;
    let lists = (centroids.len() / coarse_dim) as u32;
    drop(coarse);

    clock.begin(Phase::Assigning);
    progress::total(estimated_rows);
    let ahead_bytes = ahead_bytes(work_bytes);
    let assigner = RowAssigner::new(
        device,
        failure.clone(),
        &centroids,
        coarse_dim,
        pool.clone(),
    );
    let row_words = form.row_words() as usize;
    // SAFETY: by this function's contract.
    let n_workers = unsafe { build_workers::planned_workers(&rows) };
    let sort_bytes = sort_bytes(work_bytes, n_workers, has_device);
    let sort = EntrySort::new(row_words, lists, sort_bytes, &pool);
    let mut sink = EntrySink::new(form, Box::new(assigner), &pool, sort, lists, ahead_bytes)?;
    // SAFETY: by this function's contract.
    let (heap_tuples, n_workers) = unsafe { read_table(&rows, &mut sink)? };
    let mut sort = sink.finish()?;
    let (n_entries, sizes) = (sort.n_entries(), sort.take_sizes());
    let filter = filter_of(opclass, dim);
    let shape = GroupShape::new(filter, coarse_dim as u32);
    let size = index_size(n_entries, lists, row_words as u32, coarse_dim as u32, shape);
    // They start while the entries are sorted.
    // SAFETY: by this function's contract; nothing is written yet.
    let writers = unsafe { Writers::start(&rows, size.pages) };
    let mut sorted = sort.finish()?;

    clock.begin(Phase::Writing);
    progress::total(n_entries);
    let spec = IndexSpec {
        entries: form.entries(),
        kind,
        metric: opclass.metric,
        dim,
        lists,
        filter,
        lists_option,
        scale_exp: form.scale_exp(),
        rotation_seed: seed,
        centroids,
        built_at: now_micros(),
    };
    let calibrates = calibration::is_of_use(lists, &queries);
    let mut tier = match calibrates && has_device && failure.get().is_none() {
        true => BuildTier::begin(&spec, &sizes, &failure),
        false => BuildTier::none(),
    };
    // SAFETY: `index` is open, by this function's contract.
    let pages = unsafe { BulkPages::new(index, false) };
    // Half, because merging has buffers of its own.
    let ahead = (&*pool, ahead_bytes / 2);
    // The first pages are logged before the calibration changes the metapage: its record may be a difference to the page as logged here.
    match &writers {
        Some(writers) => {
            let pages = write(writers.pages(pages), &spec, ahead, &mut sorted, &mut tier)?;
            pages.finish();
        }
        None => write(pages, &spec, ahead, &mut sorted, &mut tier)?.finish(),
    }
    sorted.close();
    // SAFETY: `index` is open, by this function's contract.
    unsafe {
        calibration::run(index, &queries, n_entries, tier, &mut clock, &pool)?;
        leftovers.end(&IndexPages::new(index), &failure);
    }
    let n_writers = match writers {
        Some(writers) => {
            clock.begin(Phase::Logging);
            writers.finish()?
        }
        None => 0,
    };
    let engine = match (has_device, failure.get()) {
        (false, _) => "cpu",
        (true, None) => "gpu",
        (true, Some(_)) => "gpu, then cpu",
    };
    // SAFETY: likewise.
    let name = unsafe { pgrx::name_data_to_str(&(*(*index).rd_rel).relname) };
    tell(
        name,
        &clock,
        n_entries,
        lists,
        engine,
        n_workers.max(n_writers),
    );
    Ok((heap_tuples, n_entries))
}

/// Writes all pages, fills the tier with them, and gives the writer back.
fn write<W: BulkWriter>(
    mut pages: W,
    spec: &IndexSpec,
    ahead: (&rayon::ThreadPool, usize),
    sorted: &mut SortedEntries,
    tier: &mut BuildTier,
) -> Result<W> {
    write_index_from(&mut pages, spec, Some(ahead), sorted, &mut Written { tier })?;
    Ok(pages)
}

/// What is written goes to the tier too, and shows.
struct Written<'a> {
    tier: &'a mut BuildTier,
}

impl Follower for Written<'_> {
    fn written(&mut self, n_entries: u64) {
        progress::done(n_entries);
    }

    fn piece(&mut self, piece: &Piece) {
        self.tier.put(piece);
    }
}

/// What codes the entries of an index get.
pub(super) fn filter_of(class: OpClass, dim: u32) -> Filter {
    match class.kind() {
        VectorKind::Half => Filter::for_index(class.metric, dim),
        VectorKind::Bits | VectorKind::Sparse => Filter::None,
    }
}

/// Bytes of `maintenance_work_mem`.
///
/// # Safety
/// On the main thread.
pub(super) unsafe fn work_bytes() -> usize {
    // SAFETY: by this function's contract.
    let kb = unsafe { pg_sys::maintenance_work_mem };
    (kb.max(64) as usize) << 10
}

/// Bytes of `maintenance_work_mem` for rows on their way, beside those that are sorted.
pub(super) fn ahead_bytes(work_bytes: usize) -> usize {
    (work_bytes / 3).min(MAX_AHEAD_BYTES)
}

/// Bytes of `maintenance_work_mem` for the entries that are sorted, in a build with so many workers, and with a GPU or without.
pub(super) fn sort_bytes(work_bytes: usize, n_workers: usize, has_device: bool) -> usize {
    let own = own_bytes(n_workers, has_device);
    work_bytes - ahead_bytes(work_bytes) - own.min(work_bytes / OWN_SHARE)
}

/// Bytes that so many workers have, and the GPU's driver.
pub(super) fn own_bytes(n_workers: usize, has_device: bool) -> usize {
    let driver = if has_device { DRIVER_BYTES } else { 0 };
    n_workers * WORKER_BYTES + driver
}

/// What the build of an index will have to assign, by the size of the table alone.
///
/// # Safety
/// `rows` is of relations that are open.
unsafe fn rough_work(rows: &HeapRows, class: OpClass, dim: u32, lists_option: u32) -> Work {
    // SAFETY: by this function's contract.
    let n_blocks = unsafe { build_workers::n_blocks_with_toast(rows) };
    let n_rows = n_blocks * u64::from(pg_sys::BLCKSZ) / (class.value_bytes(dim) + TUPLE_BYTES);
    Work {
        dim: coarse_dim(class.kind(), dim) as usize,
        lists: sample::wanted_lists(lists_option, n_rows) as usize,
        n_sampled: sample::target_rows(lists_option, n_rows),
        n_rows,
    }
}

/// Tells the user what was built and what took how long, if it took long enough to be of interest.
fn tell(name: &str, clock: &Clock, n_entries: u64, lists: u32, engine: &str, n_workers: usize) {
    let took = clock.elapsed();
    let level = if took < LONG_BUILD {
        PgLogLevel::DEBUG1
    } else {
        PgLogLevel::NOTICE
    };
    let what = format!(
        "omen index \"{name}\" built in {:.1} s: {n_entries} rows in {lists} lists",
        took.as_secs_f64()
    );
    PgError::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, what)
        .with_detail(format!(
            "Engine: {engine}. Parallel workers: {n_workers}. Time: {}.",
            clock.summary()
        ))
        .report(level);
}

/// Gives all rows to `sink`, read by parallel workers if that pays and they can be had. Returns the number of rows of the table, and of workers.
///
/// # Safety
/// `rows` is what `ambuild` was called with.
unsafe fn read_table(rows: &HeapRows, sink: &mut EntrySink) -> Result<(f64, usize)> {
    progress::blocks_total(u64::from(rows.n_blocks()));
    // SAFETY: by this function's contract.
    unsafe {
        let n_workers = build_workers::planned_workers(rows);
        if n_workers > 0
            && let Some(read) = parallel_read::read_table(rows, n_workers, sink)?
        {
            return Ok(read);
        }
    }
    let n_rows = rows.for_each(&mut |tid, value| value.with(|v| sink.put(tid, v))?);
    Ok((n_rows, 0))
}

/// Centroids as stored, `[lists, dim]`, and the device, if it has not failed.
fn train(
    coarse: &[f32],
    work: &Work,
    device: Option<GpuAssigner>,
    failure: &Failure,
    random: &mut Random,
    pool: &rayon::ThreadPool,
) -> Result<(Vec<f16>, Option<GpuAssigner>)> {
    let mut interrupt = || {
        pgrx::check_for_interrupts!();
        Ok(())
    };
    let threads = OnThreads {
        sample: coarse,
        dim: work.dim,
        pool,
    };
    let mut assigner = SampleAssigner::new(device, failure.clone(), threads);
    let centroids = train_by(
        &mut assigner,
        coarse,
        work.dim,
        work.lists,
        random.next(),
        pool,
        &mut interrupt,
    )?;
    let mut stored = vec![f16::ZERO; centroids.len()];
    omen_distance::f16_from_f32(&centroids, &mut stored);
    Ok((stored, assigner.into_device()))
}

fn now_micros() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_micros() as i64)
}
