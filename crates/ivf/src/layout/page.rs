//! What all pages share: Postgres's page header, the content area, and our tail (the page's special area).

use bytemuck::{Pod, Zeroable};

use crate::store::{NO_BLOCK, PAGE_BYTES};
use crate::{IvfError, Result};

/// Content starts here, on a cache line: the 24 bytes of Postgres's header and 40 unused ones lie before it.
pub const CONTENT_START: usize = 64;
/// The special area (our [`PageTail`]) starts here and ends with the page.
pub const TAIL_START: usize = PAGE_BYTES - 64;
/// Bytes of content in a page: 63 lines.
pub const CONTENT_BYTES: usize = TAIL_START - CONTENT_START;
/// Unit of the code stream: 32 entries x 32 dimensions of sign bits, or 32 numbers of 4 bytes.
pub const LINE_BYTES: usize = 128;
/// Lines in a page.
pub const LINES_PER_PAGE: usize = CONTENT_BYTES / LINE_BYTES;
/// Last two bytes of every page of ours, for tools that dump pages of unknown files ("OM").
pub const PAGE_ID: u16 = 0x4D4F;
/// List number of pages that belong to no list (metapage, directory, free pages).
pub const NO_LIST: u32 = u32::MAX;
/// List number of the centroids' own list (see the README).
pub const ROOT_LIST: u32 = u32::MAX - 1;

/// What a page is. The numbers are on disk: never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum PageKind {
    /// Block 0.
    Meta = 1,
    /// List directory.
    Directory = 2,
    /// Code stream of a list's frozen part.
    Code = 3,
    /// Vector stream of a list's frozen part.
    Vector = 4,
    /// Appendable part of a list.
    Append = 5,
    /// Vector of an appended entry that does not fit its page.
    Overflow = 6,
    /// Further runs of a list whose streams are not contiguous.
    Map = 7,
    /// Not in use.
    Free = 8,
}

impl PageKind {
    /// The kind of an on-disk number.
    pub fn from_u16(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Meta,
            2 => Self::Directory,
            3 => Self::Code,
            4 => Self::Vector,
            5 => Self::Append,
            6 => Self::Overflow,
            7 => Self::Map,
            8 => Self::Free,
            _ => return None,
        })
    }
}

/// The special area: says whose page this is. Scans take no lock on a list: they read its directory entry, then its
/// pages, and compare `list` and `stamp` of each page with the entry; a mismatch means that the list was rewritten
/// meanwhile, and the scan starts that list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PageTail {
    /// Owning list, `ROOT_LIST` or `NO_LIST`.
    pub list: u32,
    /// `ListEntry::layout_gen` of the list when the page was written.
    pub stamp: u32,
    /// Next page of the chain (append, map), or `NO_BLOCK`.
    pub next: u32,
    /// Index of the page within its stream or chain.
    pub seq: u32,
    /// Records in the page (append, map) or 0.
    pub n_records: u32,
    /// Zero; for later versions.
    pub reserved: [u32; 10],
    /// A [`PageKind`].
    pub kind: u16,
    /// `PAGE_ID`.
    pub page_id: u16,
}

impl PageTail {
    /// Whether the page is page `seq` of the stream or chain `kind` of `list` in its layout `stamp`.
    pub fn is(&self, kind: PageKind, list: u32, stamp: u32, seq: u32) -> bool {
        self.page_id == PAGE_ID
            && self.kind == kind as u16
            && self.list == list
            && self.stamp == stamp
            && self.seq == seq
    }
}

/// Bytes of Postgres's page header.
const HEADER_BYTES: usize = 24;
// Offsets of the fields of Postgres's page header (`PageHeaderData`) that we set. LSN, checksum, flags and prune_xid
// belong to the host.
const PD_LOWER: usize = 12;
const PD_UPPER: usize = 14;
const PD_SPECIAL: usize = 16;
const PD_PAGESIZE_VERSION: usize = 18;
/// Page size and page layout version of Postgres (4 since 8.3), as one number.
const PAGESIZE_VERSION: u16 = PAGE_BYTES as u16 | 4;

fn put_u16(page: &mut [u8], at: usize, value: u16) {
    page[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}

fn get_u16(page: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([page[at], page[at + 1]])
}

/// Makes `page` (`PAGE_BYTES` bytes) an empty page of the given kind: header, zeroed content, tail.
pub fn init_page(page: &mut [u8], kind: PageKind, list: u32, stamp: u32, seq: u32) {
    put_u16(page, PD_UPPER, TAIL_START as u16);
    put_u16(page, PD_SPECIAL, TAIL_START as u16);
    put_u16(page, PD_PAGESIZE_VERSION, PAGESIZE_VERSION);
    page[HEADER_BYTES..].fill(0);
    set_content_bytes(page, 0);
    let tail = PageTail {
        list,
        stamp,
        next: NO_BLOCK,
        seq,
        n_records: 0,
        reserved: [0; 10],
        kind: kind as u16,
        page_id: PAGE_ID,
    };
    set_tail(page, &tail);
}

/// Makes `page` a free page. What `PageStoreMut::free` does to it.
pub fn init_free(page: &mut [u8]) {
    init_page(page, PageKind::Free, NO_LIST, 0, 0);
}

/// Whether the store may hand out this page: a free page of ours, or one that was added to the file but never written
/// (crash between extension and WAL record).
pub fn is_free(page: &[u8]) -> bool {
    let tail = tail(page);
    (tail.page_id == PAGE_ID && tail.kind == PageKind::Free as u16) || is_new(page)
}

/// Whether the page was added to the file and never written.
pub fn is_new(page: &[u8]) -> bool {
    get_u16(page, PD_UPPER) == 0
}

/// Whether the fields of Postgres's page header that are ours have the values that [`init_page`] gives them, but for the end of the content,
/// which must be a possible one.
pub fn has_our_header(page: &[u8]) -> bool {
    let lower = usize::from(get_u16(page, PD_LOWER));
    usize::from(get_u16(page, PD_UPPER)) == TAIL_START
        && usize::from(get_u16(page, PD_SPECIAL)) == TAIL_START
        && get_u16(page, PD_PAGESIZE_VERSION) == PAGESIZE_VERSION
        && (CONTENT_START..=TAIL_START).contains(&lower)
}

/// The special area of a page.
pub fn tail(page: &[u8]) -> PageTail {
    bytemuck::pod_read_unaligned(&page[TAIL_START..PAGE_BYTES])
}

/// Writes the special area of a page.
pub fn set_tail(page: &mut [u8], tail: &PageTail) {
    page[TAIL_START..PAGE_BYTES].copy_from_slice(bytemuck::bytes_of(tail));
}

/// Content area of a page.
pub fn content(page: &[u8]) -> &[u8] {
    &page[CONTENT_START..TAIL_START]
}

/// Content area of a page, to be changed. Whoever writes past the end set so far calls [`set_content_bytes`].
pub fn content_mut(page: &mut [u8]) -> &mut [u8] {
    &mut page[CONTENT_START..TAIL_START]
}

/// Says how many bytes of content are in use (pd_lower). Everything after them is lost when the page is logged:
/// GenericXLog zeroes the hole between pd_lower and pd_upper.
pub fn set_content_bytes(page: &mut [u8], n_bytes: usize) {
    debug_assert!(n_bytes <= CONTENT_BYTES);
    put_u16(page, PD_LOWER, (CONTENT_START + n_bytes) as u16);
}

/// Bytes of content in use; 0 if the header says nonsense.
pub fn content_bytes(page: &[u8]) -> usize {
    let lower = usize::from(get_u16(page, PD_LOWER));
    if (CONTENT_START..=TAIL_START).contains(&lower) {
        lower - CONTENT_START
    } else {
        0
    }
}

/// Errors: the header is not as [`init_page`] and [`set_content_bytes`] leave one. Stores look before they change a page: what lies between
/// pd_lower and pd_upper is cleared when a change is logged, which must be neither content nor, where the one is above the other, all of memory.
pub fn check_header(page: &[u8], block: u32) -> Result<()> {
    let [lower, upper, special] = [PD_LOWER, PD_UPPER, PD_SPECIAL].map(|at| get_u16(page, at));
    let tail_start = TAIL_START as u16;
    let is_sound = (CONTENT_START as u16..=tail_start).contains(&lower)
        && (upper, special) == (tail_start, tail_start);
    if is_sound {
        return Ok(());
    }
    Err(IvfError::corrupt(
        block,
        format!("its header says lower {lower}, upper {upper}, special {special}"),
    ))
}

const _: () = assert!(size_of::<PageTail>() == PAGE_BYTES - TAIL_START);
const _: () = assert!(CONTENT_BYTES.is_multiple_of(LINE_BYTES) && LINES_PER_PAGE == 63);
