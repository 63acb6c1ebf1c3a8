//! The root list in memory: choosing lists then costs no look at shared pages, of which it would need hundreds.
//!
//! An open index belongs to one session, so this is memory of each session that searches or inserts: rows and groups,
//! 1.5 MB at 894 lists of 768 dimensions, 3.3 MB at 2000, and a tenth of a millisecond a MB to read it. A larger root list
//! is read from the pages, and so is one that finds the process's share taken.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;

use crate::Result;
use crate::index::Index;
use crate::layout::group::GroupHeader;
use crate::layout::meta::META_BLOCK;
use crate::layout::page::ROOT_LIST;
use crate::layout::streams;
use crate::list_reader::{GroupVisitor, ListReader, Visit};
use crate::store::PageStore;

/// Most bytes for one index, 5000 lists of 1536 dimensions: a hundred sessions then hold 1.6 GB of what the shared pages
/// hold once.
const MOST_BYTES: usize = 16 << 20;
/// Most bytes for all indexes of the process: a session may have one open for each of many partitions.
const MOST_BYTES_IN_ALL: usize = 64 << 20;

/// Bytes taken by all that exist.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// A part of [`MOST_BYTES_IN_ALL`], until dropped.
#[derive(Debug)]
struct Share(usize);

impl Share {
    fn take(bytes: usize) -> Option<Self> {
        let add = |taken: usize| Some(taken + bytes).filter(|&sum| sum <= MOST_BYTES_IN_ALL);
        let taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        taken.is_ok().then(|| Self(bytes))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// A copy of the root list.
#[derive(Debug)]
pub(crate) struct Centroids {
    dim: usize,
    /// `[lists + 1, dim]`, the mean last.
    rows: Vec<f16>,
    headers: Vec<GroupHeader>,
    /// `[groups, bytes of a group's codes]`
    codes: Vec<u8>,
    _share: Share,
}

impl Centroids {
    /// Reads the root list; `None` if it takes too much memory.
    pub(crate) fn load<S: PageStore>(s: &S, index: &Index) -> Result<Option<Self>> {
        let root = &index.meta.root;
        let (dim, n_rows) = (index.coarse_dim(), index.n_lists() + 1);
        let n_groups = streams::n_groups(root.frozen_count) as usize;
        let header_bytes = n_groups * size_of::<GroupHeader>();
        let code_bytes = n_groups * index.meta.shape().bytes() - header_bytes;
        let bytes = n_rows as usize * dim * size_of::<f16>() + header_bytes + code_bytes;
        let share = (bytes <= MOST_BYTES).then(|| Share::take(bytes)).flatten();
        let Some(share) = share else {
            return Ok(None);
        };
        let mut centroids = Self {
            dim,
            rows: Vec::with_capacity(n_rows as usize * dim),
            headers: Vec::with_capacity(n_groups),
            codes: Vec::with_capacity(code_bytes),
            _share: share,
        };
        let mut reader = ListReader::new();
        let groups = reader.visit_groups(s, index, ROOT_LIST, root, &mut centroids)?;
        unchanged(groups)?;
        let rows = &mut centroids.rows;
        let copy = |_, row: &[f16]| rows.extend_from_slice(row);
        unchanged(reader.rows(s, index, ROOT_LIST, root, 0..n_rows, copy)?)?;
        Ok(Some(centroids))
    }

    /// The centroid of `list` (`[dim]`), their mean if `list` is their number.
    #[inline]
    pub(crate) fn row(&self, list: u32) -> &[f16] {
        &self.rows[list as usize * self.dim..][..self.dim]
    }

    /// As [`ListReader::visit_groups`].
    pub(crate) fn visit_groups(&self, visitor: &mut impl GroupVisitor) {
        let code_bytes = self.codes.len() / self.headers.len();
        for (group, header) in self.headers.iter().enumerate() {
            if code_bytes > 0 {
                visitor.codes(0, &self.codes[group * code_bytes..][..code_bytes]);
            }
            if visitor.group(group as u32, header).is_break() {
                return;
            }
        }
    }
}

/// Takes the groups as they come.
impl GroupVisitor for Centroids {
    fn codes(&mut self, _first: usize, bytes: &[u8]) {
        self.codes.extend_from_slice(bytes);
    }

    fn group(&mut self, _group: u32, header: &GroupHeader) -> ControlFlow<()> {
        self.headers.push(*header);
        ControlFlow::Continue(())
    }
}

/// The root list never changes after the build.
pub(crate) fn unchanged(visit: Visit) -> Result<()> {
    match visit {
        Visit::Done => Ok(()),
        Visit::Changed => Err(crate::IvfError::corrupt(
            META_BLOCK,
            "the root list refers to pages that are not its own",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_given_back() {
        assert!(Share::take(MOST_BYTES_IN_ALL + 1).is_none());
        for _ in 0..10 {
            // Other tests of this process take some too.
            assert!(Share::take(MOST_BYTES_IN_ALL / 2).is_some());
        }
        let shares: Vec<_> = (0..10)
            .map_while(|_| Share::take(MOST_BYTES_IN_ALL / 5))
            .collect();
        assert!((3..=5).contains(&shares.len()));
    }
}
