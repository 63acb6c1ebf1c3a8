//! Which blocks of the table a sample looks at, and how likely it takes each of their rows.
//!
//! Rows of a block may be alike, and fetching a vector costs a hundred times what finding its row does: so a sample looks at many blocks and
//! takes few rows of each. A look at some random blocks tells beforehand how many rows a block has.
#![allow(unsafe_code)]

use pgrx::pg_sys;

use super::heap_rows::HeapRows;
use super::random::Random;
use crate::compat;

/// Blocks looked at to learn how many rows a block has: some milliseconds.
const PILOT_BLOCKS: u32 = 256;
/// Rows taken of a block on average, where the table has blocks enough.
const ROWS_OF_A_BLOCK: f64 = 4.0;
/// Blocks looked at at least, so that the table's rows are well estimated.
const MIN_BLOCKS: u32 = 2000;
/// Standard errors by which there may be fewer rows than the look at some blocks said, and the sample is as large as wanted.
const MARGIN: f64 = 2.0;

/// Rows of a block.
#[derive(Clone, Copy)]
pub(super) struct Density {
    /// On average.
    pub mean: f64,
    /// Standard error of that; 0 if all blocks were looked at.
    error: f64,
}

impl Density {
    /// What so many rows in so many blocks tell.
    pub(super) fn of(n_rows: u64, n_blocks: u32) -> Self {
        Self {
            mean: n_rows as f64 / f64::from(n_blocks.max(1)),
            error: 0.0,
        }
    }

    /// Looks at some random blocks of `rows`, which has `n_blocks`, without fetching vectors.
    pub(super) fn measure(rows: &HeapRows, n_blocks: u32, random: &mut Random) -> Self {
        let n = n_blocks.min(PILOT_BLOCKS);
        let (mut sum, mut sum_sq) = (0f64, 0f64);
        for block in Blocks::new(n_blocks, n, random.next() as u32) {
            pgrx::check_for_interrupts!();
            let mut here = 0f64;
            rows.for_each_in_block(block, &mut |_, _| {
                here += 1.0;
                Ok(())
            });
            sum += here;
            sum_sq += here * here;
        }
        let n = f64::from(n.max(1));
        let mean = sum / n;
        let variance = (sum_sq / n - mean * mean).max(0.0);
        let unseen = 1.0 - n / f64::from(n_blocks.max(1));
        Self {
            mean,
            error: (variance / n * unseen.max(0.0)).sqrt(),
        }
    }
}

/// Blocks looked at where a first look has seen no row.
const EMPTY_BLOCKS: u32 = 64 * MIN_BLOCKS;

/// What a sample looks at. Plain data, the same in all processes that take it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Blocks of the table.
    n_blocks: u32,
    /// Blocks to look at.
    pub n_visited: u32,
    /// A row is taken if 64 random bits are no more.
    chance: u64,
    /// Of the choice of blocks.
    seed: u32,
}

impl Plan {
    /// A plan by which some more than `target` rows come, where the table has them. `is_costly`: each row looked at costs as much as one taken,
    /// because its vector is the result of an expression.
    pub(super) fn new(
        density: Density,
        n_blocks: u32,
        target: usize,
        is_costly: bool,
        seed: u32,
    ) -> Self {
        // Chance alone gives some more or fewer.
        let target = target as f64 + MARGIN * (target as f64).sqrt();
        // Far off the mean where few blocks have all the rows: then rows that are too many are passed over.
        let low = (density.mean - MARGIN * density.error).max(density.mean / 8.0);
        let (mut plan, all) = (
            Self {
                n_blocks,
                n_visited: n_blocks,
                chance: u64::MAX,
                seed,
            },
            f64::from(n_blocks) * low,
        );
        if density.mean == 0.0 {
            // No row was seen: all are NULL perhaps, or others are in the index. More is learnt from some blocks more than from all.
            plan.n_visited = n_blocks.min(EMPTY_BLOCKS);
            return plan;
        }
        if all <= target {
            return plan;
        }
        let (of_a_block, least) = if is_costly {
            (ROWS_OF_A_BLOCK.max(density.mean / 4.0), PILOT_BLOCKS)
        } else {
            (ROWS_OF_A_BLOCK, MIN_BLOCKS)
        };
        let wanted = (target / of_a_block).max(target / low).ceil() as u64;
        plan.n_visited = wanted.max(u64::from(least)).min(u64::from(n_blocks)) as u32;
        let share = target / (f64::from(plan.n_visited) * low);
        // Beyond the range the cast gives the largest number.
        plan.chance = (share * u64::MAX as f64) as u64;
        plan
    }

    /// All rows of `n` random blocks.
    pub(super) fn some(n_blocks: u32, n: u32, seed: u32) -> Self {
        Self {
            n_blocks,
            n_visited: n.min(n_blocks),
            chance: u64::MAX,
            seed,
        }
    }

    /// The blocks to look at, ascending.
    pub(super) fn blocks(&self) -> Blocks {
        Blocks::new(self.n_blocks, self.n_visited, self.seed)
    }

    /// Whether a row that was come across is taken.
    pub(super) fn takes(&self, random: &mut Random) -> bool {
        random.next() <= self.chance
    }

    /// Rows of the table, if so many were come across.
    pub(super) fn estimate(&self, n_seen: u64) -> u64 {
        (n_seen as f64 * f64::from(self.n_blocks) / f64::from(self.n_visited.max(1))).round() as u64
    }
}

/// Random blocks of the table, ascending.
pub(super) struct Blocks(pg_sys::BlockSamplerData);

impl Blocks {
    fn new(n_blocks: u32, n: u32, seed: u32) -> Self {
        // SAFETY: all-zero is a valid sampler state, and it is initialised before use.
        let mut sampler: pg_sys::BlockSamplerData = unsafe { core::mem::zeroed() };
        let n = n.min(i32::MAX as u32) as i32;
        // SAFETY: `sampler` is writable.
        unsafe { compat::start_block_sampler(&mut sampler, n_blocks, n, seed) };
        Self(sampler)
    }
}

impl Iterator for Blocks {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        // SAFETY: the sampler was initialised by `new`.
        unsafe {
            pg_sys::BlockSampler_HasMore(&mut self.0)
                .then(|| pg_sys::BlockSampler_Next(&mut self.0))
        }
    }
}
