//! Build: writes all pages of a new index, first to last.
//!
//! Order: metapage, directory (both written last, with what the lists turned out to be), root list, lists. Of each list the
//! vector stream comes first, because its pages can be written as the entries arrive; the codes, a fraction of the size,
//! are kept in memory until the list ends.

use half::f16;
use rayon::ThreadPool;

use crate::build_entries::{EntrySource, OneByOne};
use crate::form::sparse::MAX_ENTRIES;
use crate::form::{RowForm, max_dim};
use crate::layout::directory::{
    ENTRIES_PER_PAGE, ListEntry, Run, directory_pages, entry_position, put_entry,
};
use crate::layout::group::{Filter, GroupShape};
use crate::layout::meta::{self, MAGIC, META_BLOCK, MetaPage, VERSION};
use crate::layout::page::{self, NO_LIST, PageKind};
use crate::list_piece::Maker;
pub use crate::list_piece::{Contents, Piece};
use crate::params::{MAX_LISTS, Metric, Tid, VectorKind};
use crate::rotation::Rotation;
use crate::store::{BulkWriter, PAGE_BYTES};
use crate::write_lists::write_lists;
use crate::{IvfError, Result};

/// What a new index is to be.
#[derive(Debug, Clone)]
pub struct IndexSpec {
    /// What its rows are.
    pub kind: VectorKind,
    /// Metric, one of the kind's.
    pub metric: Metric,
    /// Dimension of the values, 1 to [`max_dim`].
    pub dim: u32,
    /// Entries that a row of a sparse vector has room for; 0 for other kinds.
    pub entries: u32,
    /// Number of lists, 1 to [`MAX_LISTS`].
    pub lists: u32,
    /// What codes the entries get.
    pub filter: Filter,
    /// The `lists` option as given, 0 for automatic.
    pub lists_option: u32,
    /// Stored numbers are the user's times 2^scale_exp.
    pub scale_exp: i32,
    /// Seed of the rotation; drawn at random for each build.
    pub rotation_seed: u64,
    /// Centroids, `[lists, coarse_dim]`, scaled; finite.
    pub centroids: Vec<f16>,
    /// Microseconds since the Unix epoch.
    pub built_at: i64,
}

impl IndexSpec {
    /// The form of its rows.
    pub fn form(&self) -> RowForm {
        RowForm::new(
            self.kind,
            self.metric,
            self.dim,
            self.scale_exp,
            self.rotation_seed,
        )
        .with_entries(self.entries)
    }

    /// Shape of its groups.
    pub fn shape(&self) -> GroupShape {
        GroupShape::new(self.filter, self.form().coarse_dim())
    }
}

/// An entry of a new index.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildEntry {
    /// Its list.
    pub list: u32,
    /// The heap row.
    pub tid: Tid,
    /// Radius of the hard bound.
    pub err: f32,
    /// The stored row, `[row_words]`.
    pub row: Vec<f16>,
}

/// Follows the writing of an index, on the thread that writes.
pub trait Follower {
    /// So many entries are written.
    fn written(&mut self, n_entries: u64);

    /// This piece will be written next: pieces come in the order of lists, and of entries within a list.
    fn piece(&mut self, _piece: &Piece) {}
}

/// Who wants to know how far it is.
impl<F: FnMut(u64)> Follower for F {
    fn written(&mut self, n_entries: u64) {
        self(n_entries);
    }
}

/// Writes an index with the entries that `entries` returns, in ascending order of lists, until `None`. `progress` gets
/// the number of entries written so far. Returns the metapage.
///
/// # Errors
/// `Store` if the arguments contradict each other or come out of order; else what `w` and `entries` return.
pub fn write_index<W: BulkWriter>(
    w: &mut W,
    spec: &IndexSpec,
    entries: &mut dyn FnMut() -> Result<Option<BuildEntry>>,
    progress: &mut dyn FnMut(u64),
) -> Result<MetaPage> {
    let mut source = OneByOne::new(spec.form().row_words() as usize, entries);
    write_index_from(w, spec, None, &mut source, &mut |n: u64| progress(n))
}

/// As [`write_index`], from any source. With a pool its threads encode the entries and lay out the pages, up to so many bytes of them ahead.
/// Everything else, calls of `w`, of `source` and of `follower` included, happens on the calling thread. The bytes written are the same. A thread's panic is an error.
pub fn write_index_from<W: BulkWriter>(
    w: &mut W,
    spec: &IndexSpec,
    pool: Option<(&ThreadPool, usize)>,
    source: &mut dyn EntrySource,
    follower: &mut dyn Follower,
) -> Result<MetaPage> {
    let is_possible = (1..=max_dim(spec.kind)).contains(&spec.dim)
        && spec.kind.has(spec.metric)
        && (spec.kind == VectorKind::Sparse) == (spec.entries > 0)
        && spec.entries <= MAX_ENTRIES;
    if !is_possible || !(1..=MAX_LISTS).contains(&spec.lists) {
        return Err(misuse(format!(
            "an index of {} dimensions and {} lists by {}",
            spec.dim,
            spec.lists,
            spec.metric.name()
        )));
    }
    let form = spec.form();
    let dim = form.coarse_dim() as usize;
    if spec.centroids.len() != dim * spec.lists as usize {
        return Err(misuse(format!(
            "{} numbers for {} centroids of {dim}",
            spec.centroids.len(),
            spec.lists
        )));
    }
    let n_directory = directory_pages(spec.lists);
    if w.reserve(1)? != META_BLOCK {
        return Err(misuse("the file is not empty".into()));
    }
    let directory = Run {
        start: w.reserve(n_directory)?,
        len: n_directory,
    };
    let shape = spec.shape();
    let maker = Maker {
        spec,
        form: &form,
        rotation: &Rotation::new(spec.rotation_seed, dim, shape.code_dim as usize),
        shape,
        mean: &mean(spec),
    };
    let written = write_lists(w, &maker, pool, source, follower)?;
    write_directory(w, directory, &written.lists)?;
    write_meta(w, spec, directory, written.root, written.n_rows)
}

pub(crate) fn misuse(what: String) -> IvfError {
    IvfError::Store(format!("cannot build the index: {what}"))
}

/// The centroids' mean: the root list's own centroid, and one more row of it.
fn mean(spec: &IndexSpec) -> Vec<f16> {
    let dim = spec.form().coarse_dim() as usize;
    let mut sum = vec![0f64; dim];
    for centroid in spec.centroids.chunks_exact(dim) {
        for (sum, x) in sum.iter_mut().zip(centroid) {
            *sum += x.to_f64();
        }
    }
    sum.iter()
        .map(|sum| f16::from_f64(sum / f64::from(spec.lists)))
        .collect()
}

fn write_directory<W: BulkWriter>(w: &mut W, directory: Run, lists: &[ListEntry]) -> Result<()> {
    let mut image = vec![0; PAGE_BYTES];
    for (seq, entries) in lists.chunks(ENTRIES_PER_PAGE).enumerate() {
        page::init_page(&mut image, PageKind::Directory, NO_LIST, 0, seq as u32);
        for (i, entry) in entries.iter().enumerate() {
            put_entry(&mut image, entry_position(i as u32).1, entry);
        }
        page::set_content_bytes(&mut image, size_of_val(entries));
        w.write_at(directory.start + seq as u32, &image)?;
    }
    Ok(())
}

fn write_meta<W: BulkWriter>(
    w: &mut W,
    spec: &IndexSpec,
    directory: Run,
    root: ListEntry,
    built_rows: u64,
) -> Result<MetaPage> {
    let form = spec.form();
    let (row_words, coarse_dim) = match spec.kind {
        VectorKind::Half => (0, 0),
        _ => (form.row_words(), form.coarse_dim()),
    };
    let meta = MetaPage {
        magic: MAGIC,
        version: VERSION,
        metric: spec.metric as u32,
        dim: spec.dim,
        code_dim: spec.shape().code_dim,
        lists: spec.lists,
        filter: spec.filter as u32,
        vector_kind: spec.kind as u32,
        scale_exp: spec.scale_exp,
        rounding: form.rounding(),
        rotation_seed: spec.rotation_seed,
        lists_option: spec.lists_option,
        entries_per_page: ENTRIES_PER_PAGE as u32,
        directory,
        root,
        built_rows,
        built_at: spec.built_at,
        calibration_queries: 0,
        calibration_points: 0,
        calibration: bytemuck::Zeroable::zeroed(),
        spreads: bytemuck::Zeroable::zeroed(),
        row_words,
        coarse_dim,
    };
    let mut image = vec![0; PAGE_BYTES];
    page::init_page(&mut image, PageKind::Meta, NO_LIST, 0, 0);
    meta::put_meta(&mut image, &meta);
    w.write_at(META_BLOCK, &image)?;
    Ok(meta)
}
