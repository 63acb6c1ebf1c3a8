//! The sample a build is trained on: random rows of random blocks of the table.
#![allow(unsafe_code)]

use omen_ivf::form::{self, coarse_dim, input_words};
use omen_ivf::{IvfError, Tid, VectorKind};
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::heap_rows::HeapRows;
use super::random::Random;
use super::sample_blocks::{Density, Plan};
use super::{build_workers, sample_workers};
use crate::error::{PgError, Result};

/// Rows sampled at least, where the table has them and memory allows.
const MIN_TARGET: usize = 10_000;
/// Rows sampled per list.
const PER_LIST: usize = 64;
/// Most rows that serve as queries of the calibration.
pub(super) const MAX_QUERIES: usize = 2000;
/// A sample with fewer rows keeps those that serve as queries.
const FEW_ROWS_TO_SHARE: usize = 1000;

/// With fewer rows per list than this, centroids are mostly noise.
const FEW_ROWS_PER_LIST: u64 = 8;
/// With fewer sampled rows per list than this, more would be better.
const FEW_SAMPLES_PER_LIST: u64 = 32;
/// The sample is one of this many parts of `maintenance_work_mem`: its scaled copy and what training needs are the others.
pub(super) const PARTS: usize = 3;

/// Bytes of a sample from which on parallel workers take it: some 40 ms of one process.
pub(super) const MIN_PARALLEL_BYTES: usize = 32 << 20;

/// What is sampled.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Values {
    /// What the rows of the index are.
    pub kind: VectorKind,
    /// Dimension of the values.
    pub dim: u32,
}

impl Values {
    /// Words of an input.
    pub(super) fn words(self) -> usize {
        input_words(self.kind, self.dim)
    }

    /// Numbers that a row takes in training or in the sample, whichever are more.
    pub(super) fn most_words(self) -> usize {
        self.words().max(coarse_dim(self.kind, self.dim) as usize)
    }
}

/// A sample of the table.
pub(super) struct Sample {
    /// The values as inputs, `[n, words]`: of vectors the user's numbers.
    pub rows: Vec<f32>,
    /// Their heap rows, `[n]`.
    pub tids: Vec<Tid>,
    /// Rows the whole table is estimated to have in the index.
    pub estimated_rows: u64,
    /// Rows that memory allows.
    max_rows: usize,
}

/// Samples rows in memory of `max_bytes` at most: as many as training wants, where the table has them.
///
/// Errors: a row has another dimension than `values`; no memory.
///
/// # Safety
/// `heap` is what `ambuild` was called with.
pub(super) unsafe fn take(
    heap: &HeapRows,
    values: Values,
    lists_option: u32,
    max_bytes: usize,
    random: &mut Random,
) -> Result<Sample> {
    let n_blocks = heap.n_blocks();
    let max_rows = max_rows(lists_option, values.most_words(), max_bytes);
    let mut density = Density::measure(heap, n_blocks, random);
    let mut is_last = false;
    loop {
        let expected = (density.mean * f64::from(n_blocks)) as u64;
        let target = target_rows(lists_option, expected).min(max_rows);
        let is_costly = heap.has_expressions();
        let plan = Plan::new(density, n_blocks, target, is_costly, random.next() as u32);
        let mut reservoir = Reservoir::new(values, target, expected)?;
        // SAFETY: by this function's contract.
        let (n_seen, n_workers) = unsafe { fill(&mut reservoir, heap, plan, expected, random)? };
        let estimated_rows = plan.estimate(n_seen);
        let wanted = target_rows(lists_option, estimated_rows).min(max_rows) as u64;
        let n = reservoir.tids.len() as u64;
        // The blocks looked at first had few of the rows, as of a partial index whose rows lie together.
        if !is_last && 2 * n < wanted.min(estimated_rows) {
            is_last = true;
            density = Density::of(n_seen, plan.n_visited);
            continue;
        }
        PgError::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("omen sampled {n} of about {estimated_rows} rows"),
        )
        .with_detail(format!(
            "Blocks: {} of {n_blocks}. Parallel workers: {n_workers}.",
            plan.n_visited
        ))
        .report(PgLogLevel::DEBUG1);
        return Ok(Sample {
            rows: reservoir.rows,
            tids: reservoir.tids,
            estimated_rows,
            max_rows,
        });
    }
}

/// Fills the reservoir by a plan, with parallel workers if that pays and they can be had. Returns the rows come across, and the number of workers.
///
/// # Safety
/// As for [`take`].
unsafe fn fill(
    reservoir: &mut Reservoir,
    heap: &HeapRows,
    plan: Plan,
    expected: u64,
    random: &mut Random,
) -> Result<(u64, usize)> {
    let values = reservoir.values;
    let rows = expected.min(reservoir.target as u64) as usize;
    if rows * values.words() * size_of::<f32>() >= MIN_PARALLEL_BYTES {
        // SAFETY: by this function's contract.
        let outcome = unsafe {
            match build_workers::planned_workers(heap) {
                0 => None,
                n => sample_workers::fill(reservoir, heap, plan, n, random)?,
            }
        };
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
    }
    let mut n_seen = 0;
    for block in plan.blocks() {
        pgrx::check_for_interrupts!();
        heap.for_each_in_block(block, &mut |tid, value| {
            n_seen += 1;
            if !plan.takes(random) {
                return Ok(());
            }
            let Some(row) = reservoir.place(tid, random) else {
                return Ok(());
            };
            value.with(|v| {
                check_dim(values.kind, values.dim, v)?;
                row.copy_from_slice(v);
                Ok(())
            })?
        });
    }
    Ok((n_seen, 0))
}

/// Rows of which at most `target` are kept, each offered one with equal probability.
pub(super) struct Reservoir {
    values: Values,
    target: usize,
    n_offered: u64,
    rows: Vec<f32>,
    tids: Vec<Tid>,
}

impl Reservoir {
    /// An empty one, with memory for the rows `expected`. Errors: there is none.
    fn new(values: Values, target: usize, expected: u64) -> Result<Self> {
        let mut rows = Vec::new();
        let n = expected.min(target as u64) as usize * values.words();
        rows.try_reserve_exact(n).map_err(|_| {
            let mb = (n * size_of::<f32>()) >> 20;
            PgError::new(
                PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
                format!("no memory for a sample of {mb} MB"),
            )
            .with_hint("Lower maintenance_work_mem.")
        })?;
        Ok(Self {
            values,
            target,
            n_offered: 0,
            rows,
            tids: Vec::new(),
        })
    }

    /// What its rows are.
    pub(super) fn values(&self) -> Values {
        self.values
    }

    /// The place for a row that is offered, to be filled; `None` if it is not kept.
    pub(super) fn place(&mut self, tid: Tid, random: &mut Random) -> Option<&mut [f32]> {
        self.n_offered += 1;
        let dim = self.values.words();
        let at = if self.tids.len() < self.target {
            self.tids.push(tid);
            self.rows.resize(self.tids.len() * dim, 0.0);
            self.tids.len() - 1
        } else {
            let at = random.below(self.n_offered) as usize;
            *self.tids.get_mut(at)? = tid;
            at
        };
        Some(&mut self.rows[at * dim..(at + 1) * dim])
    }
}

/// Rows that memory allows.
fn max_rows(lists_option: u32, dim: usize, max_bytes: usize) -> usize {
    (max_bytes / (dim * size_of::<f32>()))
        .max(lists_option as usize)
        .max(64)
}

/// Rows that a build samples of a table of `n_rows`, with so much memory.
pub(super) fn planned_rows(lists_option: u32, n_rows: u64, values: Values, work_bytes: u64) -> u64 {
    let most = max_rows(
        lists_option,
        values.most_words(),
        work_bytes as usize / PARTS,
    );
    (target_rows(lists_option, n_rows).min(most) as u64).min(n_rows)
}

/// Rows of a sample of `n` that serve as queries.
pub(super) fn n_queries(n: usize) -> usize {
    let wanted = if n >= FEW_ROWS_TO_SHARE { n / 5 } else { n };
    wanted.min(MAX_QUERIES)
}

/// Rows wanted for training.
pub(super) fn target_rows(lists_option: u32, estimated_rows: u64) -> usize {
    (wanted_lists(lists_option, estimated_rows) as usize * PER_LIST).max(MIN_TARGET)
}

/// Lists that an index of so many rows should have.
pub(super) fn wanted_lists(lists_option: u32, estimated_rows: u64) -> u32 {
    if lists_option > 0 {
        lists_option
    } else {
        omen_ivf::coarse::default_lists(estimated_rows)
    }
}

/// How many lists the index gets; keeps as much of the sample as they need. Tells the user who makes a new index (`is_new`)
/// if the table is too small.
pub(super) fn choose_lists(
    option: u32,
    sample: &mut Sample,
    values: Values,
    is_new: bool,
    random: &mut Random,
) -> u32 {
    let rows = sample.estimated_rows;
    let wanted = wanted_lists(option, rows);
    let lists = wanted.min(sample.tids.len().max(1) as u32);
    let few = rows == 0 || rows < u64::from(option) * FEW_ROWS_PER_LIST;
    if few && is_new {
        PgError::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            "omen index created with little data",
        )
        .with_detail(format!(
            "The table has about {rows} rows; the index gets {lists} lists."
        ))
        .with_hint("Searches are slow if the table grows much. REINDEX after loading.")
        .report(PgLogLevel::NOTICE);
    }
    let enough = rows.min(u64::from(wanted) * FEW_SAMPLES_PER_LIST);
    if (sample.max_rows as u64) < enough {
        PgError::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            "omen index is trained on a small sample",
        )
        .with_detail(format!(
            "maintenance_work_mem allows {} rows for {wanted} lists.",
            sample.max_rows
        ))
        .with_hint(format!(
            "Set maintenance_work_mem to at least {} MB for better recall at the same speed.",
            mb_for(enough, values.most_words())
        ))
        .report(PgLogLevel::NOTICE);
    }
    sample.thin(target_rows(wanted, rows), values.words(), random);
    lists
}

/// MB of `maintenance_work_mem` that a sample of about so many rows wants: the next one finds some more or fewer rows in the table.
fn mb_for(n_rows: u64, dim: usize) -> u64 {
    let bytes = n_rows * (PARTS * dim * size_of::<f32>()) as u64;
    (bytes + bytes / 8).div_ceil(1 << 20)
}

/// Errors: a row of another dimension than the index.
pub(super) fn check_dim(kind: VectorKind, dim: u32, input: &[f32]) -> Result<()> {
    let Err(IvfError::Dimension { expected, found }) = form::check_dim(kind, dim, input) else {
        return Ok(());
    };
    Err(PgError::new(
        PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        format!("expected {expected} dimensions, not {found}"),
    ))
}

impl Sample {
    /// Keeps `n` random rows.
    fn thin(&mut self, n: usize, dim: usize, random: &mut Random) {
        while self.tids.len() > n {
            let last = self.tids.len() - 1;
            let at = random.below(self.tids.len() as u64) as usize;
            self.tids.swap_remove(at);
            self.rows.copy_within(last * dim.., at * dim);
            self.rows.truncate(last * dim);
        }
    }

    /// Moves some random rows out, for use as queries: a fifth of the sample, at most [`MAX_QUERIES`]. A row that centroids
    /// were trained on lies nearer to its own than a query will, and would promise too much. Only where there are too few rows
    /// to do without, rows serve as both.
    pub(super) fn queries(&mut self, dim: usize, random: &mut Random) -> (Vec<f32>, Vec<Tid>) {
        let n = self.tids.len();
        let apart = n >= FEW_ROWS_TO_SHARE;
        let wanted = n_queries(n);
        let (mut rows, mut tids) = (Vec::with_capacity(wanted * dim), Vec::with_capacity(wanted));
        for i in 0..wanted {
            let (last, row) = (n - 1 - i, random.below((n - i) as u64) as usize);
            rows.extend_from_slice(&self.rows[row * dim..(row + 1) * dim]);
            tids.push(self.tids[row]);
            // Drawn ones gather at the end.
            self.tids.swap(row, last);
            for d in 0..dim {
                self.rows.swap(row * dim + d, last * dim + d);
            }
        }
        if apart {
            self.tids.truncate(n - wanted);
            self.rows.truncate((n - wanted) * dim);
        }
        (rows, tids)
    }
}
