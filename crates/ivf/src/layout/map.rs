//! Records of a Map page: the further runs of a list whose streams are not contiguous, in stream order, the code
//! stream's before the vector stream's.

use bytemuck::{Pod, Zeroable};

use super::directory::Run;
use super::page::{CONTENT_BYTES, CONTENT_START};

/// [`MapRecord::stream`] of the code stream.
pub const CODE_STREAM: u32 = 0;
/// [`MapRecord::stream`] of the vector stream.
pub const VECTOR_STREAM: u32 = 1;

/// One further run of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct MapRecord {
    /// [`CODE_STREAM`] or [`VECTOR_STREAM`].
    pub stream: u32,
    /// The blocks.
    pub run: Run,
}

/// Records in a page.
pub const RECORDS_PER_PAGE: usize = CONTENT_BYTES / size_of::<MapRecord>();

/// Reads record `i` of a page.
pub fn get_record(page: &[u8], i: usize) -> MapRecord {
    let at = CONTENT_START + i * size_of::<MapRecord>();
    bytemuck::pod_read_unaligned(&page[at..at + size_of::<MapRecord>()])
}

/// Writes record `i` of a page.
pub fn put_record(page: &mut [u8], i: usize, record: &MapRecord) {
    let at = CONTENT_START + i * size_of::<MapRecord>();
    page[at..at + size_of::<MapRecord>()].copy_from_slice(bytemuck::bytes_of(record));
}

const _: () = assert!(size_of::<MapRecord>() == 12);
