//! Reads one list without locking it: the frozen part group by group and row by row, the appendable part in order.
//!
//! Pages are read one at a time, each once; what lies within a page is handed out in place. Of what spans pages, rows are
//! staged, and groups handed out in parts ([`GroupVisitor`]). Nothing is allocated a group. A page that does not
//! belong to the layout of the given entry ends the visit with [`Visit::Changed`]: the list was rewritten; drop what it
//! contributed, take the new entry from [`crate::index::reread_entry`] and start it again.
//!
//! The closures run while a page is locked: they must be short and must not call the store.

mod appended;
mod groups;
mod live;
mod rows;

use half::f16;

use crate::layout::append::{AppendHeader, MAX_OVERFLOW};
use crate::runs::StreamMap;

pub use groups::GroupVisitor;

/// Pages asked for ahead of the one being read.
const PREFETCH_PAGES: u32 = 8;

/// How a visit of a list ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Visit {
    /// Everything was visited (or the closure said stop).
    Done,
    /// The list was rewritten meanwhile.
    Changed,
}

pub use appended::AppendedTo;
pub(crate) use appended::{ChainPlace, PageVisit};

/// Scratch space for visiting lists of one index; keep it for a whole scan.
#[derive(Debug, Default)]
pub struct ListReader {
    pub(crate) map: StreamMap,
    staging: Staging,
    pending: Vec<(AppendHeader, [u32; MAX_OVERFLOW])>,
}

impl ListReader {
    /// A reader with empty scratch space.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Hands out a row in place if the page's bytes are aligned, else a copy.
#[inline]
fn emit_row<K>(key: K, bytes: &[u8], scratch: &mut [u8], mut f: impl FnMut(K, &[f16])) {
    match bytemuck::try_cast_slice::<u8, f16>(bytes) {
        Ok(row) => f(key, row),
        Err(_) => {
            scratch.copy_from_slice(bytes);
            f(key, bytemuck::cast_slice(scratch));
        }
    }
}

/// Byte buffer aligned for every type on pages.
#[derive(Debug, Default)]
struct Staging(Vec<u64>);

impl Staging {
    fn bytes(&mut self, n: usize) -> &mut [u8] {
        if self.0.len() * 8 < n {
            self.0.resize(n.div_ceil(8), 0);
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..n]
    }
}
