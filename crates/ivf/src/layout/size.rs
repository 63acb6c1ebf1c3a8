//! How large a new index will be: pure arithmetic.

use super::directory::directory_pages;
use super::group::GroupShape;
use super::page::{CONTENT_START, TAIL_START};
use super::streams::{code_pages, n_groups, row_bytes, vector_pages};
use crate::store::PAGE_BYTES;

/// Sizes of lists over their mean, equally frequent: k-means does not make them equal, and the last page of a stream is not full.
const SIZES: [f64; 16] = [
    0.490, 0.593, 0.661, 0.717, 0.768, 0.817, 0.866, 0.915, 0.967, 1.022, 1.083, 1.152, 1.234,
    1.340, 1.492, 1.806,
];

/// Size of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSize {
    /// Pages.
    pub pages: u64,
    /// Bytes of them that are used; the rest is not logged.
    pub used_bytes: u64,
}

/// Size of a new index of `rows` rows of so many words, and coarse vectors of `coarse_dim` dimensions, in `lists` lists (at least 1), with codes in
/// groups of this shape; within a few percent.
pub fn index_size(
    rows: u64,
    lists: u32,
    row_words: u32,
    coarse_dim: u32,
    shape: GroupShape,
) -> IndexSize {
    let size = |n: u64, n_rows: u64, words: u32| {
        let pages = code_pages(n as u32, shape) + vector_pages(n_rows, words);
        let codes = u64::from(n_groups(n as u32)) * shape.bytes() as u64;
        (pages, codes + n_rows * row_bytes(words) as u64)
    };
    let mean = rows as f64 / f64::from(lists);
    let (mut pages, mut bytes) = (0f64, 0f64);
    let sizes = if lists == 1 { &[1.0][..] } else { &SIZES };
    for size_of_mean in sizes {
        let n = (size_of_mean * mean).round() as u64;
        let (p, b) = size(n, n, row_words);
        pages += p as f64;
        bytes += b as f64;
    }
    let lists_of_a_size = f64::from(lists) / sizes.len() as f64;
    let n_lists = u64::from(lists);
    let root = size(n_lists, n_lists + 1, coarse_dim);
    // The metapage is the first.
    let pages =
        1 + u64::from(directory_pages(lists)) + root.0 + (pages * lists_of_a_size).round() as u64;
    let used_bytes = root.1 + (bytes * lists_of_a_size).round() as u64;
    IndexSize {
        pages,
        used_bytes: used_bytes + pages * (CONTENT_START + PAGE_BYTES - TAIL_START) as u64,
    }
}
