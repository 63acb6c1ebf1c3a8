//! The metapage (block 0): identity, frozen options, the root list, calibration.

use bytemuck::{Pod, Zeroable};

use super::directory::{ENTRIES_PER_PAGE, ListEntry, Run, directory_pages};
use super::group::{Filter, GroupShape};
use super::page::{self, CONTENT_BYTES, CONTENT_START, NO_LIST, PageKind};
use crate::form::sparse::are_row_words;
use crate::form::{coarse_dim, max_dim, row_words};
use crate::params::{MAX_LISTS, Metric, VectorKind};
use crate::{IvfError, Result};

/// "OMEN" read as little-endian bytes.
pub const MAGIC: u32 = 0x4E45_4D4F;
/// The format version this code writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// Most points of the calibration curve.
pub const MAX_CALIBRATION: usize = 64;

/// One measured point: with so many probes this share of the true neighbours was found.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct CalibrationPoint {
    /// Lists visited.
    pub probes: u32,
    /// Lower confidence bound of recall@10.
    pub recall_10: f32,
    /// Lower confidence bound of recall@100; negative if not measured.
    pub recall_100: f32,
}

/// How much farther than the nearest centroid the centroid of a visited list may be, for one measured point: distance to the
/// query in scaled space; under NegIp inner product over the query's length. 0 (as in indexes that were built before
/// there was this): no limit.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct CalibrationSpread {
    /// For the 10 nearest.
    pub spread_10: f32,
    /// For the 100 nearest.
    pub spread_100: f32,
}

/// Content of the metapage, from `CONTENT_START` on.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct MetaPage {
    /// [`MAGIC`], first in every version.
    pub magic: u32,
    /// [`VERSION`], second in every version.
    pub version: u32,
    /// A `Metric`.
    pub metric: u32,
    /// Dimension of the vectors, or number of bits.
    pub dim: u32,
    /// Dimension of the codes: see [`GroupShape::new`].
    pub code_dim: u32,
    /// Number of lists.
    pub lists: u32,
    /// A [`Filter`].
    pub filter: u32,
    /// A [`VectorKind`].
    pub vector_kind: u32,
    /// Stored numbers are the user's times 2^scale_exp (see the README: range of binary16).
    pub scale_exp: i32,
    /// Relative rounding allowance of float32 sums of `dim` terms, operator and index together.
    pub rounding: f32,
    /// Seed of the rotation, and of sketches.
    pub rotation_seed: u64,
    /// Value of the `lists` option as given, 0 for automatic.
    pub lists_option: u32,
    /// Directory entries a page (constant in version 1, checked).
    pub entries_per_page: u32,
    /// Pages of the directory; list l is in page l / entries_per_page.
    pub directory: Run,
    /// The centroids, as a list of their own (`ROOT_LIST`): tid.block of entry i is list i.
    pub root: ListEntry,
    /// Rows at the last build.
    pub built_rows: u64,
    /// Time of the last build, microseconds since the Unix epoch.
    pub built_at: i64,
    /// Queries used for the calibration; 0 if there is none.
    pub calibration_queries: u32,
    /// Points used of `calibration`.
    pub calibration_points: u32,
    /// Recall against probes, probes ascending.
    pub calibration: [CalibrationPoint; MAX_CALIBRATION],
    /// How far the lists of each point may be: recall is that of both limits together.
    pub spreads: [CalibrationSpread; MAX_CALIBRATION],
    /// Words of 16 bits of a row; 0 for vectors, whose rows have `dim`.
    pub row_words: u32,
    /// Dimension of the centroids; 0 for vectors, whose centroids have `dim`.
    pub coarse_dim: u32,
}

impl MetaPage {
    /// Shape of the groups.
    pub fn shape(&self) -> GroupShape {
        let filter = Filter::from_u32(self.filter).expect("get_meta checked it");
        let kind = VectorKind::from_u32(self.vector_kind).expect("get_meta checked it");
        GroupShape::new(filter, coarse_dim(kind, self.dim))
    }
}

/// Block of the metapage.
pub const META_BLOCK: u32 = 0;
/// Largest absolute `scale_exp`: enough to bring any f32 into the range of binary16.
const MAX_SCALE_EXP: i32 = 160;

/// Reads and validates the metapage: magic, then version, then the rest, so that pages of other versions and files of
/// other kinds are told apart.
pub fn get_meta(page: &[u8]) -> Result<MetaPage> {
    let content = page::content(page);
    let meta: MetaPage = bytemuck::pod_read_unaligned(&content[..size_of::<MetaPage>()]);
    if meta.magic != MAGIC {
        return Err(IvfError::corrupt(
            META_BLOCK,
            format!("magic is {:#010x}, not {MAGIC:#010x}", meta.magic),
        ));
    }
    if meta.version != VERSION {
        return Err(IvfError::Version {
            found: meta.version,
            supported: VERSION,
        });
    }
    if !page::tail(page).is(PageKind::Meta, NO_LIST, 0, 0) {
        return Err(IvfError::corrupt(META_BLOCK, "not a metapage"));
    }
    match invalid_field(&meta) {
        None => Ok(meta),
        Some((name, value)) => Err(IvfError::corrupt(META_BLOCK, format!("{name} is {value}"))),
    }
}

/// Writes the metapage's content. Content that a later minor version may have put behind ours stays.
pub fn put_meta(page: &mut [u8], meta: &MetaPage) {
    page::content_mut(page)[..size_of::<MetaPage>()].copy_from_slice(bytemuck::bytes_of(meta));
    page::set_content_bytes(page, page::content_bytes(page).max(size_of::<MetaPage>()));
}

/// The first field with an impossible value. Block numbers are checked against the file by `Index::open`.
fn invalid_field(meta: &MetaPage) -> Option<(&'static str, String)> {
    let bad = |name, value: &dyn std::fmt::Display| Some((name, value.to_string()));
    let Some(kind) = VectorKind::from_u32(meta.vector_kind) else {
        return bad("vector_kind", &meta.vector_kind);
    };
    let Some(metric) = Metric::from_u32(meta.metric).filter(|&metric| kind.has(metric)) else {
        return bad("metric", &meta.metric);
    };
    let Some(filter) = Filter::from_u32(meta.filter) else {
        return bad("filter", &meta.filter);
    };
    if meta.dim == 0 || meta.dim > max_dim(kind) {
        bad("dim", &meta.dim)
    } else if filter != Filter::None
        && (kind != VectorKind::Half || Filter::for_index(metric, u32::MAX) == Filter::None)
    {
        bad("filter", &meta.filter)
    } else if !are_words(kind, meta) {
        bad("row_words or coarse_dim", &meta.row_words)
    } else if meta.code_dim != meta.shape().code_dim {
        bad("code_dim", &meta.code_dim)
    } else if meta.lists == 0 || meta.lists > MAX_LISTS {
        bad("lists", &meta.lists)
    } else if meta.scale_exp.abs() > MAX_SCALE_EXP
        || kind == VectorKind::Bits && meta.scale_exp != 0
    {
        bad("scale_exp", &meta.scale_exp)
    } else if !(0.0..0.5).contains(&meta.rounding) {
        bad("rounding", &meta.rounding)
    } else if meta.entries_per_page != ENTRIES_PER_PAGE as u32 {
        bad("entries_per_page", &meta.entries_per_page)
    } else if meta.directory.len != directory_pages(meta.lists) {
        bad("directory length", &meta.directory.len)
    } else if meta.root.frozen_count != meta.lists {
        bad("number of centroids", &meta.root.frozen_count)
    } else if meta.calibration_points as usize > MAX_CALIBRATION {
        bad("calibration_points", &meta.calibration_points)
    } else if let Some(recall) = recall_without_number(meta) {
        bad("recall of a calibration point", &recall)
    } else {
        None
    }
}

/// Whether [`MetaPage::row_words`] and [`MetaPage::coarse_dim`] can be.
fn are_words(kind: VectorKind, meta: &MetaPage) -> bool {
    let coarse_dim = coarse_dim(kind, meta.dim);
    match kind {
        VectorKind::Half => (meta.row_words, meta.coarse_dim) == (0, 0),
        VectorKind::Bits => {
            (meta.row_words, meta.coarse_dim) == (row_words(kind, meta.dim), coarse_dim)
        }
        VectorKind::Sparse => are_row_words(meta.row_words) && meta.coarse_dim == coarse_dim,
    }
}

/// The first recall of the calibration that is no finite number.
fn recall_without_number(meta: &MetaPage) -> Option<f32> {
    let points = &meta.calibration[..meta.calibration_points as usize];
    let mut recalls = points.iter().flat_map(|p| [p.recall_10, p.recall_100]);
    recalls.find(|recall| !recall.is_finite())
}

const _: () = assert!(size_of::<MetaPage>() <= CONTENT_BYTES);
const _: () = assert!(std::mem::offset_of!(MetaPage, version) == 4 && CONTENT_START == 64);
