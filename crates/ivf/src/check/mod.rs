//! Walks every page of an index and says what is wrong with it. Reads only.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | [`check`], [`Walk`]: list by list, then what concerns all lists |
//! | `report.rs` | [`Finding`], [`CheckReport`] |
//! | `meta.rs` | metapage and directory |
//! | `one_list.rs` | one list: its pages, its entries |
//! | `appended.rs` | its appendable part |
//! | `entry.rs` | one entry: numbers, error radius, list |
//! | `pages.rs` | headers and tails, pages of nobody |
//! | `sorted_rows.rs` | heap rows of all entries in order, within bounded memory |
//! | `cross_check.rs` | [`CrossCheck`]: no heap row twice, and the table against the index |
//!
//! A list is taken as found if its directory entry is the same afterwards; what concerns several lists, if none was rewritten and
//! no entry died meanwhile. Who keeps writers away gets the whole truth; a standby, where nobody can, checks what held still.

mod appended;
mod cross_check;
mod entry;
mod meta;
mod one_list;
mod pages;
mod report;
mod sorted_rows;

use crate::index::{Index, read_entry};
use crate::layout::directory::ListEntry;
use crate::layout::page::ROOT_LIST;
use crate::spilled::RunFile;
use crate::store::PageStore;
use crate::{IvfError, Result, Tid};

pub use cross_check::CrossCheck;
pub use report::{CheckReport, Finding};

use one_list::ListCheck;
use pages::Owners;
use report::Findings;
use sorted_rows::SortedRows;

/// A list that changes under the check is read again so often.
const MOST_TRIES: usize = 20;

/// What the host knows and allows.
pub struct Settings<'a, F> {
    /// Whether the index may change meanwhile: on a standby.
    pub is_changing: bool,
    /// Whether the table has a place for this row.
    pub has_place: &'a mut dyn FnMut(Tid) -> bool,
    /// Memory for the heap rows of the entries; more goes to a file.
    pub most_bytes: usize,
    /// Makes an empty file. Called at most once.
    pub new_file: &'a mut dyn FnMut() -> Result<F>,
}

/// Checks everything that the index alone tells, in memory. Fails only if the store does.
pub fn check<S: PageStore>(s: &S, index: &Index) -> Result<CheckReport> {
    let settings = Settings {
        is_changing: false,
        has_place: &mut |_| true,
        most_bytes: usize::MAX,
        new_file: &mut || Ok(NoFile),
    };
    walk(s, index, settings)?.finish(&mut || s.check_interrupts())
}

/// The file of a check that needs none.
struct NoFile;

impl RunFile for NoFile {
    fn append(&mut self, _bytes: &[u8]) -> Result<()> {
        Err(IvfError::Store("there is no file".into()))
    }

    fn read_at(&mut self, _at: u64, _out: &mut [u8]) -> Result<()> {
        Err(IvfError::Store("there is no file".into()))
    }
}

/// Checks all pages. What is left is to look for heap rows that occur twice, and, if wished, to compare the table.
pub fn walk<S: PageStore, F: RunFile>(
    s: &S,
    index: &Index,
    settings: Settings<F>,
) -> Result<CrossCheck<F>> {
    let mut walk = Walk {
        s,
        index,
        is_changing: settings.is_changing,
        has_place: settings.has_place,
        report: CheckReport::default(),
        across: Findings::default(),
        owners: Owners::new(s.n_blocks()?),
        rows: SortedRows::new(settings.most_bytes),
        new_file: settings.new_file,
        entries: vec![None; index.n_lists() as usize],
        centroids_are_sound: false,
    };
    walk.fixed_pages()?;
    let n_before = walk.report.n_findings;
    walk.list(ROOT_LIST)?;
    walk.centroids_are_sound = walk.report.n_findings == n_before;
    for list in 0..index.n_lists() {
        walk.list(list)?;
    }
    walk.end()
}

/// A check on its way.
struct Walk<'a, S, F> {
    s: &'a S,
    index: &'a Index,
    is_changing: bool,
    has_place: &'a mut dyn FnMut(Tid) -> bool,
    report: CheckReport,
    /// Findings that count only if no list changed meanwhile.
    across: Findings,
    owners: Owners,
    rows: SortedRows<F>,
    new_file: &'a mut dyn FnMut() -> Result<F>,
    /// Of each list that was read, its entry.
    entries: Vec<Option<ListEntry>>,
    /// Whether they can tell which list a row belongs to.
    centroids_are_sound: bool,
}

impl<S: PageStore, F: RunFile> Walk<'_, S, F> {
    /// Metapage and directory.
    fn fixed_pages(&mut self) -> Result<()> {
        let mut findings = Findings::default();
        let blocks = meta::check_fixed(self.s, self.index, &mut findings)?;
        self.own(None, &blocks)?;
        self.report.add_all(findings);
        Ok(())
    }

    /// Notes pages as those of `list`.
    fn own(&mut self, list: Option<u32>, blocks: &[u32]) -> Result<()> {
        for &block in blocks {
            if !self.owners.take(self.s, block)? {
                let what = "the page is used twice, or is past the end of the file";
                self.across.add(Finding {
                    list,
                    block: Some(block),
                    what: what.into(),
                });
            }
        }
        Ok(())
    }

    /// Checks one list, again if it changed meanwhile.
    fn list(&mut self, list: u32) -> Result<()> {
        for _ in 0..MOST_TRIES {
            self.s.check_interrupts()?;
            let mut found = ListCheck::new(list);
            let (s, index) = (self.s, self.index);
            let outcome = read_entry(s, index, list).and_then(|entry| {
                let assigns = self.centroids_are_sound;
                found.run(s, index, &entry, assigns, self.has_place)?;
                Ok(entry)
            });
            let entry = match outcome {
                Ok(entry) if self.is_changing && is_another(s, index, list, &entry)? => continue,
                Ok(entry) => Some(entry),
                Err(IvfError::Corrupt { block, what }) => {
                    found
                        .findings
                        .add(Finding::of_page(Some(list), block, what));
                    // On its way through pages that were no longer the list's.
                    if self.is_changing
                        && found
                            .entry
                            .is_some_and(|old| is_another(s, index, list, &old) == Ok(true))
                    {
                        continue;
                    }
                    None
                }
                Err(error) => return Err(error),
            };
            return self.take(found, entry);
        }
        self.report.unsettled_lists += 1;
        Ok(())
    }

    /// Takes over what a list turned out to be. `entry`: its directory entry if it could be read to its end.
    fn take(&mut self, found: ListCheck, entry: Option<ListEntry>) -> Result<()> {
        let list = found.list;
        self.own(Some(list), &found.blocks)?;
        self.report.add_all(found.findings);
        if entry.is_none() || !found.is_complete {
            self.report.unread_lists += 1;
        }
        if list == ROOT_LIST {
            return Ok(());
        }
        self.entries[list as usize] = entry;
        self.report.frozen += found.live;
        self.report.frozen_dead += found.dead;
        self.report.appended += found.appended;
        self.report.appended_dead += found.appended_dead;
        for (tid, fingerprint) in found.rows {
            self.rows.push(tid, list, fingerprint, self.new_file)?;
        }
        Ok(())
    }

    /// Looks at all pages that no list has named.
    fn end(mut self) -> Result<CrossCheck<F>> {
        let all_read = self.report.unread_lists + self.report.unsettled_lists == 0;
        let unowned = pages::check_unowned(self.s, self.index, &self.owners, &self.entries)?;
        self.report.used_pages = self.owners.n_taken();
        self.report.free_pages = unowned.free;
        if self.is_changing {
            for list in 0..self.index.n_lists() {
                self.s.check_interrupts()?;
                if let Some(old) = self.entries[list as usize] {
                    self.report.has_changed |= moved(&old, &read_entry(self.s, self.index, list)?);
                }
            }
        }
        let is_settled = !self.report.has_changed && self.report.unsettled_lists == 0;
        if is_settled {
            self.report.add_all(self.across);
            self.report.add_all(unowned.findings);
            if all_read {
                self.report.leaked_pages = unowned.leaked;
            }
        }
        Ok(CrossCheck::new(self.report, self.rows, is_settled))
    }
}

/// Whether `list` has another directory entry than `old` now. Not that of the root list, which never changes.
fn is_another<S: PageStore>(s: &S, index: &Index, list: u32, old: &ListEntry) -> Result<bool> {
    Ok(bytemuck::bytes_of(&read_entry(s, index, list)?) != bytemuck::bytes_of(old))
}

/// Whether a list was rewritten, or entries of it died.
fn moved(old: &ListEntry, new: &ListEntry) -> bool {
    let generations = |e: &ListEntry| (e.layout_gen, e.delete_gen, e.append_delete_gen);
    generations(old) != generations(new)
}
