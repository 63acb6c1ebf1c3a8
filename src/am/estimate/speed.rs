//! How fast this machine does what a build does: two things are measured, the others are in proportion.

use std::time::{Duration, Instant};

use omen_distance::Panels;
use omen_ivf::VectorKind;
use omen_ivf::form::{RowForm, dim_of};
use omen_ivf::layout::group::{Filter, GroupShape};

use super::super::calibration::row_seconds;
use super::super::check_max_dim;
use super::super::heap_rows::HeapRows;
use super::super::opclass::OpClass;
use super::super::random::Random;
use super::super::sample_blocks::Plan;
use super::code_bits;
use crate::error::Result;

/// Rows read, at most, and for so long.
const ROWS_READ: usize = 400;
const MAX_READING: Duration = Duration::from_millis(100);
/// Blocks they are read from.
const BLOCKS_READ: usize = 10;
/// How long assigning is measured, rows at a time, and the centroids that stand for all.
const ASSIGNING: Duration = Duration::from_millis(20);
const ROWS: usize = 256;
const CENTROIDS: std::ops::RangeInclusive<usize> = 64..=512;

/// Fewer take as long.
const FEW_CENTROIDS: usize = 16;

/// Seconds of a build of nothing.
pub(super) const STEADY: f64 = 0.02;

/// Seconds that one core needs.
pub(super) struct Speed {
    /// For a row: finding, fetching, bringing it into its stored form.
    pub read: f64,
    /// For a row: finding its list.
    pub assign: f64,
    /// For a row: its code.
    pub encode: f64,
    /// For a row and a query of the calibration.
    pub compare: f64,
    /// For a query of the calibration, apart from that.
    pub query: f64,
    /// For a list and a query of the calibration, apart from its rows.
    pub list: f64,
    /// For a byte of the index: copying it for the calibration.
    pub copy: f64,
}

impl Speed {
    /// Measures assigning coarse vectors of `dim` dimensions to `lists` lists, of rows of this kind and of `words` words, with codes of this shape;
    /// `read` is what [`of_reading`] gave; `pool` that of a build.
    pub(super) fn measure(
        dim: usize,
        (kind, words): (VectorKind, u32),
        shape: GroupShape,
        lists: usize,
        read: f64,
        pool: &rayon::ThreadPool,
        random: &mut Random,
    ) -> Self {
        let centroids = lists.clamp(*CENTROIDS.start(), *CENTROIDS.end());
        let mut numbers = |n: usize| -> Vec<f32> {
            (0..n)
                .map(|_| random.below(1 << 16) as f32 / 65536.0)
                .collect()
        };
        let (panels, rows) = (
            Panels::new(&numbers(centroids * dim), dim),
            numbers(ROWS * dim),
        );
        // All threads at once, as in a build: together they are often slower than one is alone.
        let seconds = pool.broadcast(|_| {
            let (begun, mut nearest, mut of_calls) = (Instant::now(), [0; ROWS], Vec::new());
            while begun.elapsed() < ASSIGNING {
                let call = Instant::now();
                panels.nearest(&rows, &mut nearest);
                of_calls.push(call.elapsed().as_secs_f64());
            }
            typical(&mut of_calls)
        });
        let row = seconds.iter().sum::<f64>() / (seconds.len() * ROWS) as f64;
        let pair = row / centroids as f64;
        // Against the machine on which the others were measured.
        let slower = pair / (PAIR_REFERENCE * (dim as f64 + PAIR_STEADY));
        Self {
            read,
            assign: pair * lists.max(FEW_CENTROIDS) as f64,
            encode: slower * encode(dim as u32, shape),
            compare: slower * compare(kind, words, shape),
            query: slower * QUERY * dim as f64,
            list: slower * LIST,
            copy: slower * COPY,
        }
    }
}

/// Seconds for a number of a row and one of a centroid, and numbers for which as much time goes by for each pair.
const PAIR_REFERENCE: f64 = 11e-12;
const PAIR_STEADY: f64 = 24.0;
/// Seconds for a byte.
const COPY: f64 = 0.2e-9;
/// Seconds for a query and a list.
const LIST: f64 = 0.22e-6;
/// Seconds for a query and a dimension.
const QUERY: f64 = 0.25e-6;

/// Seconds for a row: bringing it into order, and its code.
fn encode(dim: u32, shape: GroupShape) -> f64 {
    let code = match shape.filter {
        Filter::None => 0.5e-9,
        Filter::OneBit => 9e-9,
        Filter::FourBit => 6e-9,
    };
    0.3e-6 + code * f64::from(dim)
}

/// Seconds for a row and a query of the calibration: by its code, or without one by the row itself.
fn compare(kind: VectorKind, words: u32, shape: GroupShape) -> f64 {
    let bits = code_bits(shape);
    match shape.filter {
        Filter::None => row_seconds(kind, words),
        Filter::OneBit => 1.2e-9 + 6.5e-12 * bits,
        Filter::FourBit => 0.8e-9 + 4.5e-12 * bits,
    }
}

/// What some rows of a table tell.
pub(super) struct Reading {
    /// Their dimension: the one that was known, or that of the first.
    pub dim: Option<u32>,
    /// Words of their rows, where that depends on the values.
    pub row_words: Option<u32>,
    /// Seconds for a row.
    pub seconds: f64,
}

/// Reads some rows of `rows`, of `n_blocks` blocks. Errors: a row of more dimensions than an index can have.
pub(super) fn of_reading(
    rows: &HeapRows,
    class: OpClass,
    n_blocks: u32,
    known: Option<u32>,
    random: &mut Random,
) -> Result<Reading> {
    let kind = class.kind();
    let mut dim = known;
    let (mut of_rows, mut sparse) = (Vec::new(), Vec::new());
    let plan = Plan::some(n_blocks, BLOCKS_READ as u32, random.next() as u32);
    let begun = Instant::now();
    for (no, block) in plan.blocks().enumerate() {
        pgrx::check_for_interrupts!();
        let (mut n_read, block_begun) = (0, Instant::now());
        rows.for_each_in_block(block, &mut |_, value| {
            if n_read >= ROWS_READ / BLOCKS_READ {
                return Ok(());
            }
            n_read += 1;
            value.with(|v| {
                let found = dim_of(kind, v);
                if found == 0 {
                    // An empty string of bits: no index has it.
                    return Ok(());
                }
                check_max_dim(class, found)?;
                dim.get_or_insert(found);
                let form = RowForm::new(kind, class.metric, found, 0, 0);
                std::hint::black_box(form.to_stored(v)?);
                if kind == VectorKind::Sparse {
                    sparse.extend_from_slice(v);
                }
                Ok(())
            })?
        });
        if no == 1 {
            // Rows of the first opened what the others find open.
            of_rows.clear();
        }
        if n_read > 0 {
            of_rows.push(block_begun.elapsed().as_secs_f64() / n_read as f64);
        }
        if begun.elapsed() > MAX_READING {
            break;
        }
    }
    let of_sample = |dim| RowForm::for_sample(kind, class.metric, dim, 0, &sparse).row_words();
    Ok(Reading {
        dim,
        row_words: dim.filter(|_| !sparse.is_empty()).map(of_sample),
        seconds: median(&mut of_rows),
    })
}

/// The median: other processes may have had the core while some were measured.
fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_unstable_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
}

/// The mean, but no more than twice the median: other processes may have had the core for most of the time.
fn typical(seconds: &mut [f64]) -> f64 {
    if seconds.is_empty() {
        return 0.0;
    }
    seconds.sort_unstable_by(f64::total_cmp);
    let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
    mean.min(2.0 * seconds[seconds.len() / 2])
}
