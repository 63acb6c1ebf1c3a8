//! The sample a build is trained on: random rows of random blocks of the table.
#![allow(unsafe_code)]

use omen_ivf::Tid;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

use super::heap_rows::HeapRows;
use crate::compat;
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

/// A sample of the table.
pub(super) struct Sample {
    /// The vectors as the user gave them, `[n, dim]`.
    pub rows: Vec<f32>,
    /// Their heap rows, `[n]`.
    pub tids: Vec<Tid>,
    /// Rows the whole table is estimated to have in the index.
    pub estimated_rows: u64,
}

/// Samples rows in memory of `max_bytes` at most. `n_rows_hint`: about how many rows the table has.
///
/// Errors: a row has another dimension than `dim`.
pub(super) fn take(
    heap: &HeapRows,
    dim: usize,
    lists_option: u32,
    max_bytes: usize,
    random: &mut Random,
) -> Result<Sample> {
    let n_blocks = heap.n_blocks();
    let mut sample = Sample {
        rows: Vec::new(),
        tids: Vec::new(),
        estimated_rows: 0,
    };
    if n_blocks == 0 {
        return Ok(sample);
    }
    // A block is at most this many rows of the index; refined below by what is seen.
    let max_rows = (max_bytes / (dim * size_of::<f32>()))
        .max(lists_option as usize)
        .max(64);
    let target = target_rows(lists_option, u64::from(n_blocks) * 32).min(max_rows);
    // SAFETY: all-zero is a valid sampler state, and it is initialised before use.
    let mut sampler: pg_sys::BlockSamplerData = unsafe { core::mem::zeroed() };
    // SAFETY: `sampler` is writable.
    unsafe {
        compat::start_block_sampler(&mut sampler, n_blocks, target as i32, random.next() as u32);
    }
    let (mut n_seen, mut n_visited) = (0u64, 0u64);
    // SAFETY: `sampler` was initialised above.
    while unsafe { pg_sys::BlockSampler_HasMore(&mut sampler) } {
        // SAFETY: `sampler` was initialised above.
        let block = unsafe { pg_sys::BlockSampler_Next(&mut sampler) };
        pgrx::check_for_interrupts!();
        n_visited += 1;
        heap.for_each_in_block(block, &mut |tid, value| {
            n_seen += 1;
            // Each row seen so far is in the reservoir with equal probability.
            let slot = if sample.tids.len() < target {
                sample.tids.push(tid);
                sample.rows.resize(sample.tids.len() * dim, 0.0);
                sample.tids.len() - 1
            } else {
                let slot = random.below(n_seen) as usize;
                if slot >= target {
                    return Ok(());
                }
                sample.tids[slot] = tid;
                slot
            };
            let row = &mut sample.rows[slot * dim..(slot + 1) * dim];
            value.with(|v| {
                check_dim(dim, v.len())?;
                row.copy_from_slice(v);
                Ok(())
            })?
        });
    }
    sample.estimated_rows =
        (n_seen as f64 * f64::from(n_blocks) / n_visited.max(1) as f64).round() as u64;
    Ok(sample)
}

/// Rows wanted for training.
fn target_rows(lists_option: u32, estimated_rows: u64) -> usize {
    let lists = if lists_option > 0 {
        lists_option
    } else {
        omen_ivf::coarse::default_lists(estimated_rows)
    };
    (lists as usize * PER_LIST).max(MIN_TARGET)
}

/// How many lists the index gets; keeps as much of the sample as they need. Tells the user who makes a new index (`is_new`)
/// if the table is too small.
pub(super) fn choose_lists(option: u32, sample: &mut Sample, dim: usize, is_new: bool) -> u32 {
    let rows = sample.estimated_rows;
    let wanted = if option > 0 {
        option
    } else {
        omen_ivf::coarse::default_lists(rows)
    };
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
    let n_sampled = sample.tids.len() as u64;
    if n_sampled < rows.min(u64::from(lists) * FEW_SAMPLES_PER_LIST) {
        let mb = |n: u64| n * 3 * (dim as u64 * 4) / (1 << 20) + 1;
        PgError::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            "omen index is trained on a small sample",
        )
        .with_detail(format!(
            "maintenance_work_mem allows {n_sampled} rows for {lists} lists."
        ))
        .with_hint(format!(
            "Set maintenance_work_mem to at least {} MB for better recall at the same speed.",
            mb(u64::from(lists) * FEW_SAMPLES_PER_LIST)
        ))
        .report(PgLogLevel::NOTICE);
    }
    sample.truncate(target_rows(wanted, rows), dim);
    lists
}

/// Errors: a row of another dimension than the index.
pub(super) fn check_dim(expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(PgError::new(
        PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        format!("expected {expected} dimensions, not {found}"),
    ))
}

impl Sample {
    /// Keeps `n` rows. They are random ones, as the order is.
    pub(super) fn truncate(&mut self, n: usize, dim: usize) {
        self.tids.truncate(n);
        self.rows.truncate(n * dim);
    }

    /// Moves some random rows out, for use as queries: a fifth of the sample, at most [`MAX_QUERIES`]. A row that centroids
    /// were trained on lies nearer to its own than a query will, and would promise too much. Only where there are too few rows
    /// to do without, rows serve as both.
    pub(super) fn queries(&mut self, dim: usize, random: &mut Random) -> (Vec<f32>, Vec<Tid>) {
        let n = self.tids.len();
        let apart = n >= FEW_ROWS_TO_SHARE;
        let wanted = if apart { n / 5 } else { n }.min(MAX_QUERIES);
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
            self.truncate(n - wanted, dim);
        }
        (rows, tids)
    }
}

/// SplitMix64: numbers for sampling and seeds, not for secrets.
pub(super) struct Random(u64);

impl Random {
    /// A generator seeded by time and process.
    pub(super) fn from_clock() -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64);
        Self(now ^ u64::from(std::process::id()).rotate_left(32))
    }

    /// 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to `n` - 1.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}
