//! What is set by measurement.

/// A large batch.
pub const LARGE: usize = 4096;

/// What may be set by measurement. The defaults are those of an H100 (docs/benchmarks.md).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuning {
    /// Rows at which a first round is large enough, at least; and per survivor kept.
    pub first_rows: usize,
    /// The same for batches of at least `LARGE` queries: nearly every row is read anyway, and what survives has its price.
    pub first_rows_large: usize,
    /// Exact searches: a sample is at most so many times denser than the one before.
    pub exact_denser: usize,
    /// See `first_rows`.
    pub first_rows_per_kept: usize,
    /// Up to so many queries, both halves of the queries take part in `scan_wgmma`: memory is the limit there.
    pub two_halves_queries: usize,
    /// Batches with up to so many queries a list, on average, search codes in the second round; see `code_queries`.
    pub code_sharing: usize,
    /// Rows at which the first round before a code scan is large enough, at least.
    pub code_first_rows: usize,
    /// Smaller batches search rows: for them launches count, not bytes.
    pub code_from: usize,
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
            exact_denser: 24,
            first_rows_per_kept: 20,
            two_halves_queries: 64,
            code_sharing: 16,
            code_first_rows: 512,
            code_from: 2,
            wgmma_from: 17,
            code_queries: 512,
        }
    }
}
