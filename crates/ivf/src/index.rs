//! An open index: the metapage's frozen facts, and access to the list directory.
//!
//! Everything read from a page is validated here or in the readers before it is used as a block number, a count or a
//! length; what cannot be true becomes [`IvfError::Corrupt`], never a panic.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use half::f16;

use crate::centroids::{Centroids, unchanged};
use crate::form::RowForm;
use crate::layout::directory::{ENTRIES_PER_PAGE, ListEntry, Run, entry_position, get_entry};
use crate::layout::meta::{META_BLOCK, MetaPage, get_meta};
use crate::layout::page::{self, NO_LIST, PageKind, ROOT_LIST};
use crate::layout::streams;
use crate::list_reader::ListReader;
use crate::params::{Metric, VectorKind};
use crate::rotation::Rotation;
use crate::store::{NO_BLOCK, PageStore};
use crate::{IvfError, Result};

/// An open index. May be kept for as long as the file is the same (until REINDEX): all it holds is frozen at the
/// build, except the calibration, of which it has a copy. A few kB, and from the first choice of lists on what
/// `centroids.rs` keeps.
#[derive(Debug)]
pub struct Index {
    /// The metapage as read by [`Index::open`].
    pub meta: MetaPage,
    /// What its rows hold.
    pub form: RowForm,
    /// The rotation of residuals and queries.
    pub rotation: Rotation,
    /// Pages the file is known to have; it never shrinks.
    known_blocks: AtomicU32,
    /// See [`Index::centroid_norms`].
    centroid_norms: OnceLock<Vec<f32>>,
    /// See [`Index::centroids`].
    centroids: OnceLock<Centroids>,
}

impl Index {
    /// Reads and validates the metapage.
    ///
    /// # Errors
    /// `Version` for a format this code does not read; `Corrupt` if the file is no index of ours or damaged.
    pub fn open<S: PageStore>(s: &S) -> Result<Self> {
        let n_blocks = s.n_blocks()?;
        if n_blocks == 0 {
            return Err(IvfError::corrupt(META_BLOCK, "the file is empty"));
        }
        let meta = s.read(META_BLOCK, get_meta)??;
        let form = RowForm::of_meta(&meta);
        let index = Self {
            meta,
            form,
            rotation: Rotation::new(
                meta.rotation_seed,
                form.coarse_dim() as usize,
                meta.code_dim as usize,
            ),
            known_blocks: AtomicU32::new(n_blocks),
            centroid_norms: OnceLock::new(),
            centroids: OnceLock::new(),
        };
        index.check_run(s, META_BLOCK, "directory", meta.directory)?;
        index.check_entry(s, ROOT_LIST, META_BLOCK, &meta.root)?;
        if meta.root.map_head != NO_BLOCK || meta.root.append_head != NO_BLOCK {
            return Err(IvfError::corrupt(
                META_BLOCK,
                "the root list is not as built",
            ));
        }
        Ok(index)
    }

    /// Metric of the index.
    pub fn metric(&self) -> Metric {
        Metric::from_u32(self.meta.metric).expect("get_meta checked it")
    }

    /// Why the CPU alone searches this index, whatever devices there are; `None`: a device may.
    pub fn cpu_only(&self) -> Option<&'static str> {
        self.form.cpu_only()
    }

    /// Dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.meta.dim as usize
    }

    /// Words of 16 bits of an entry's row.
    pub fn entry_words(&self) -> usize {
        self.form.row_words() as usize
    }

    /// See [`RowForm::query_words`].
    pub fn query_words(&self) -> usize {
        self.form.query_words()
    }

    /// Dimension of the centroids, and of what chooses lists (see [`RowForm`]).
    pub fn coarse_dim(&self) -> usize {
        self.form.coarse_dim() as usize
    }

    /// Words of 16 bits of a row of `list`.
    pub(crate) fn row_words(&self, list: u32) -> u32 {
        if list == ROOT_LIST {
            self.form.coarse_dim()
        } else {
            self.form.row_words()
        }
    }

    /// The form of the rows of `list`, if their coarse vectors are not the rows themselves.
    pub(crate) fn coarser(&self, list: u32) -> Option<&RowForm> {
        let is_row = list == ROOT_LIST || self.form.kind() == VectorKind::Half;
        (!is_row).then_some(&self.form)
    }

    /// Number of lists, the root list not counted.
    pub fn n_lists(&self) -> u32 {
        self.meta.lists
    }

    /// Rows in the vector stream of a list: its entries; of the root list one more (the centroids' mean).
    pub(crate) fn n_rows(&self, list: u32, entry: &ListEntry) -> u64 {
        u64::from(entry.frozen_count) + u64::from(list == ROOT_LIST)
    }

    /// Squared norms of the centroids as stored, `[lists]`. Read once: centroids never change.
    pub(crate) fn centroid_norms<S: PageStore>(&self, s: &S) -> Result<&[f32]> {
        if let Some(norms) = self.centroid_norms.get() {
            return Ok(norms);
        }
        let mut norms = Vec::with_capacity(self.n_lists() as usize);
        let mut wide = vec![0.0; self.coarse_dim()];
        let root = &self.meta.root;
        let rows = 0..self.n_lists();
        let visit = ListReader::new().rows(s, self, ROOT_LIST, root, rows, |_, row: &[f16]| {
            omen_distance::f32_from_f16(row, &mut wide);
            norms.push(omen_distance::norm_sq(&wide));
        })?;
        unchanged(visit)?;
        Ok(self.centroid_norms.get_or_init(|| norms))
    }

    /// The root list in memory, read at first use: not by whoever opens an index only to plan. `None` if it takes too
    /// much memory.
    pub(crate) fn centroids<S: PageStore>(&self, s: &S) -> Result<Option<&Centroids>> {
        if self.centroids.get().is_none()
            && let Some(centroids) = Centroids::load(s, self)?
        {
            // Another thread may have been faster.
            self.centroids.get_or_init(|| centroids);
        }
        Ok(self.centroids.get())
    }

    /// Directory block of `list`, its page's index in the directory, and the entry's byte offset in the page.
    pub(crate) fn entry_address(&self, list: u32) -> (u32, u32, usize) {
        let (page, offset) = entry_position(list);
        (self.meta.directory.start + page, page, offset)
    }

    /// Pages the file is known to have.
    pub(crate) fn known_blocks(&self) -> u32 {
        self.known_blocks.load(Ordering::Relaxed)
    }

    /// Checks that `block`, found on page `from`, lies in the file and is not the metapage.
    pub(crate) fn check_block<S: PageStore>(
        &self,
        s: &S,
        from: u32,
        what: &str,
        block: u32,
    ) -> Result<()> {
        self.check_run(
            s,
            from,
            what,
            Run {
                start: block,
                len: 1,
            },
        )
    }

    /// Checks that `run`, found on page `from`, lies in the file and does not cover the metapage. Empty runs pass.
    pub(crate) fn check_run<S: PageStore>(
        &self,
        s: &S,
        from: u32,
        what: &str,
        run: Run,
    ) -> Result<()> {
        let end = u64::from(run.start) + u64::from(run.len);
        if run.len == 0 || (run.start != META_BLOCK && end <= u64::from(self.known_blocks())) {
            return Ok(());
        }
        let n_blocks = self.refresh_blocks(s)?;
        if run.start != META_BLOCK && end <= u64::from(n_blocks) {
            return Ok(());
        }
        Err(IvfError::corrupt(
            from,
            format!("{what} at {}..{end} of {n_blocks} pages", run.start),
        ))
    }

    /// Checks that a stream of `n_pages` pages can exist in the file.
    fn check_pages<S: PageStore>(
        &self,
        s: &S,
        from: u32,
        what: &str,
        n_pages: u64,
        run: Run,
    ) -> Result<()> {
        self.check_run(s, from, what, run)?;
        self.check_length(s, from, what, n_pages)
    }

    /// Checks that the file can have so many pages.
    fn check_length<S: PageStore>(&self, s: &S, from: u32, what: &str, n_pages: u64) -> Result<()> {
        if n_pages > u64::from(self.known_blocks()) && n_pages > u64::from(self.refresh_blocks(s)?)
        {
            return Err(IvfError::corrupt(
                from,
                format!("{what} of {n_pages} pages, more than the file has"),
            ));
        }
        Ok(())
    }

    fn refresh_blocks<S: PageStore>(&self, s: &S) -> Result<u32> {
        let n_blocks = s.n_blocks()?;
        self.known_blocks.fetch_max(n_blocks, Ordering::Relaxed);
        Ok(n_blocks)
    }

    /// Validates an entry read from page `from`.
    pub(crate) fn check_entry<S: PageStore>(
        &self,
        s: &S,
        list: u32,
        from: u32,
        entry: &ListEntry,
    ) -> Result<()> {
        let bad = |what: &str| Err(IvfError::corrupt(from, format!("list {list}: {what}")));
        if entry.layout_gen == 0 {
            return bad("no layout");
        }
        if entry.frozen_dead > entry.frozen_count {
            return bad("more dead entries than entries");
        }
        let code_pages = streams::code_pages(entry.frozen_count, self.meta.shape());
        let vector_pages = streams::vector_pages(self.n_rows(list, entry), self.row_words(list));
        self.check_pages(s, from, "code stream", code_pages, entry.code_run)?;
        self.check_pages(s, from, "vector stream", vector_pages, entry.vector_run)?;
        let (code_len, vector_len) = (
            u64::from(entry.code_run.len),
            u64::from(entry.vector_run.len),
        );
        if code_len > code_pages || vector_len > vector_pages {
            return bad("runs longer than the streams");
        }
        if entry.map_head == NO_BLOCK {
            if code_len != code_pages || vector_len != vector_pages {
                return bad("runs shorter than the streams");
            }
        } else {
            self.check_block(s, from, "map", entry.map_head)?;
        }
        let has_append = entry.append_head != NO_BLOCK;
        if has_append != (entry.append_tail != NO_BLOCK) || has_append != (entry.append_pages != 0)
        {
            return bad("appendable part without head, tail or pages");
        }
        if has_append {
            self.check_block(s, from, "appendable part", entry.append_head)?;
            self.check_block(s, from, "appendable part", entry.append_tail)?;
            self.check_length(s, from, "appendable part", entry.append_pages.into())?;
        }
        Ok(())
    }
}

/// Whether `page` is page `seq` of the directory.
pub(crate) fn check_directory_page(page: &[u8], block: u32, seq: u32) -> Result<()> {
    if page::tail(page).is(PageKind::Directory, NO_LIST, 0, seq) {
        Ok(())
    } else {
        Err(IvfError::corrupt(
            block,
            format!("not page {seq} of the directory"),
        ))
    }
}

/// Reads the directory entry of `list` (or of `ROOT_LIST`).
pub fn read_entry<S: PageStore>(s: &S, index: &Index, list: u32) -> Result<ListEntry> {
    if list == ROOT_LIST {
        return Ok(index.meta.root);
    }
    check_list(index, list)?;
    let (block, seq, offset) = index.entry_address(list);
    let entry = s.read(block, |page| {
        check_directory_page(page, block, seq)?;
        Ok(get_entry(page, offset))
    })??;
    index.check_entry(s, list, block, &entry)?;
    Ok(entry)
}

/// Reads the directory entries of `lists`, in their order, each directory page once.
pub fn read_entries<S: PageStore>(s: &S, index: &Index, lists: &[u32]) -> Result<Vec<ListEntry>> {
    let mut order: Vec<u32> = (0..lists.len() as u32).collect();
    order.sort_unstable_by_key(|&i| lists[i as usize]);
    let mut entries = vec![index.meta.root; lists.len()];
    let by_page = |a: &u32, b: &u32| {
        lists[*a as usize] / ENTRIES_PER_PAGE as u32 == lists[*b as usize] / ENTRIES_PER_PAGE as u32
    };
    for same_page in order.chunk_by(by_page) {
        let first = lists[same_page[0] as usize];
        if first == ROOT_LIST {
            continue;
        }
        check_list(index, lists[same_page[same_page.len() - 1] as usize])?;
        let (block, seq, _) = index.entry_address(first);
        s.read(block, |page| {
            check_directory_page(page, block, seq)?;
            for &i in same_page {
                entries[i as usize] = get_entry(page, index.entry_address(lists[i as usize]).2);
            }
            Ok(())
        })??;
        for &i in same_page {
            index.check_entry(s, lists[i as usize], block, &entries[i as usize])?;
        }
    }
    Ok(entries)
}

/// A list by its directory entry, and the version that it had before that was read ([`PageStore::list_version`]); 0 where nobody asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeenList {
    /// The entry.
    pub entry: ListEntry,
    /// The version.
    pub version: u32,
}

impl From<ListEntry> for SeenList {
    fn from(entry: ListEntry) -> Self {
        Self { entry, version: 0 }
    }
}

/// As [`read_entry`], with the version of the list.
pub fn see_list<S: PageStore>(s: &S, index: &Index, list: u32) -> Result<SeenList> {
    // Before the entry.
    let version = s.list_version(list);
    let entry = read_entry(s, index, list)?;
    Ok(SeenList { entry, version })
}

/// As [`read_entries`], with the versions of the lists.
pub fn see_lists<S: PageStore>(s: &S, index: &Index, lists: &[u32]) -> Result<Vec<SeenList>> {
    // Before any entry.
    let versions: Vec<u32> = lists.iter().map(|&list| s.list_version(list)).collect();
    let entries = read_entries(s, index, lists)?.into_iter();
    let seen = entries.zip(versions);
    Ok(seen
        .map(|(entry, version)| SeenList { entry, version })
        .collect())
}

/// Reads the entry of `list` again after a page did not belong to the layout of `old`.
///
/// # Errors
/// `Corrupt` if the list still has that layout: pages of a layout are given up only after the entry that replaces it
/// has been logged and is visible, so the mismatch cannot come from a rewrite.
pub fn reread_entry<S: PageStore>(
    s: &S,
    index: &Index,
    list: u32,
    old: &ListEntry,
) -> Result<ListEntry> {
    let entry = read_entry(s, index, list)?;
    if list == ROOT_LIST || entry.layout_gen == old.layout_gen {
        let block = if list == ROOT_LIST {
            META_BLOCK
        } else {
            index.entry_address(list).0
        };
        return Err(IvfError::corrupt(
            block,
            format!("list {list} refers to pages that are not its own"),
        ));
    }
    Ok(entry)
}

fn check_list(index: &Index, list: u32) -> Result<()> {
    if list < index.n_lists() {
        Ok(())
    } else {
        Err(IvfError::corrupt(
            META_BLOCK,
            format!("no list {list}, there are {}", index.n_lists()),
        ))
    }
}
