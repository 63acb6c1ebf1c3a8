//! How often this session searched each list: where not all of an index fits the device, the hottest lists go there.

use std::cell::RefCell;
use std::collections::HashMap;

use omen_ivf::index::Index;

use crate::compat::FileId;
use crate::storage::IndexPages;

/// Sessions remember so many files.
const MAX_FILES: usize = 64;

thread_local! {
    /// Probes of each list, by file.
    static PROBES: RefCell<HashMap<FileId, Vec<u32>>> = RefCell::default();
}

/// These lists are searched.
pub(super) fn note(pages: &IndexPages, index: &Index, lists: impl IntoIterator<Item = u32>) {
    let file = pages.file();
    PROBES.with_borrow_mut(|files| {
        if files.len() >= MAX_FILES && !files.contains_key(&file) {
            files.clear();
        }
        let counts = files.entry(file).or_default();
        counts.resize(index.n_lists() as usize, 0);
        for list in lists {
            if let Some(count) = counts.get_mut(list as usize) {
                *count = count.saturating_add(1);
            }
        }
    });
}

/// The lists by how often they were searched, the hottest first; by number where that is the same. What was counted so far counts
/// half from now on.
pub(super) fn hottest_first(file: FileId, n_lists: u32) -> Vec<u32> {
    let mut lists: Vec<u32> = (0..n_lists).collect();
    PROBES.with_borrow_mut(|files| {
        if let Some(counts) = files.get_mut(&file) {
            counts.resize(n_lists as usize, 0);
            lists.sort_by_key(|&list| std::cmp::Reverse(counts[list as usize]));
            counts.iter_mut().for_each(|count| *count /= 2);
        }
    });
    lists
}
