//! What is set by measurement.

/// A large batch.
pub const LARGE: usize = 4096;

/// A small batch of an exact search.
pub const FEW: usize = 64;

/// How the samples of an exact search grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Samples {
    /// Rows of the first one, at least.
    pub first_rows: usize,
    /// Each is at most so many times denser than the one before.
    pub denser: usize,
}

/// What may be set by measurement. The defaults are those of an H100 (docs/benchmarks.md).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuning {
    /// Rows at which a first round is large enough, at least; and per survivor kept.
    pub first_rows: usize,
    /// The same for batches of at least `LARGE` queries: nearly every row is read anyway, and what survives has its price.
    pub first_rows_large: usize,
    /// Exact searches: how the samples grow.
    pub exact: Samples,
    /// The same for batches of up to `FEW` queries: for them the launch of another round costs more than the survivors it saves.
    pub exact_few: Samples,
    /// See `first_rows`.
    pub first_rows_per_kept: usize,
    /// Up to so many queries, both halves of the queries take part in `scan_wgmma`: memory is the limit there.
    pub two_halves_queries: usize,
    /// Batches with up to so many queries a list, on average, search codes in the second round; see `code_queries`.
    pub code_sharing: usize,
    /// Rows at which the first round before a code scan is large enough, at least.
    pub code_first_rows: usize,
    /// From so many queries on that meet the same rows, `scan_wgmma` multiplies, where it runs.
    pub wgmma_from: usize,
    /// Larger batches search rows in any case.
    pub code_queries: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            first_rows: 512,
            first_rows_large: 4096,
            exact: Samples {
                first_rows: 2048,
                denser: 24,
            },
            exact_few: Samples {
                first_rows: 4096,
                denser: 512,
            },
            first_rows_per_kept: 20,
            two_halves_queries: 64,
            code_sharing: 16,
            code_first_rows: 512,
            wgmma_from: 17,
            code_queries: 512,
        }
    }
}
