//! Pages of an index as Postgres keeps them: implements `omen_ivf::store` over buffers, generic WAL and the free space map.
//!
//! | file | content |
//! |---|---|
//! | `relation.rs` | [`IndexPages`]: read, update, allocate, free |
//! | `buffer.rs` | pin, lock, bytes of a page |
//! | `recent.rs` | where blocks were found last: pins without a look-up |
//! | `pins.rs` | pages pinned while other threads copy them |
//! | `probed.rs` | [`ProbedPages`]: a bad page is told, not raised |
//! | `ahead.rs` | reading ahead of a scan that told its pages |
//! | `lock.rs` | locks of lists |
//! | `bulk.rs` | [`BulkPages`]: a new index, logged as it is written |
//! | `page_ring.rs` | [`PageRing`]: pages on their way to parallel workers, which write and log them |
//! | `ring_pages.rs` | [`RingPages`]: a new index, through them |
//! | `temp.rs` | [`TempFile`]: what a build cannot keep in memory |
//! | `catalog.rs` | what the catalog says of an index |
//! | `cache.rs` | metapages already read by this session |
//! | `stop.rs` | stops between two changes, in test builds |
//!
//! There are no guards that unlock on drop. A page is locked and unlocked within one function; if an error is raised
//! between, the stack unwinds without calling Postgres, and the abort of the transaction releases locks and pins.
//! Lock order: list lock, then directory page, then data pages in the order the caller gives.

mod ahead;
mod buffer;
mod bulk;
mod cache;
mod catalog;
pub(crate) mod changes;
mod lock;
mod page_ring;
mod pins;
mod probed;
mod recent;
mod relation;
mod ring_pages;
#[cfg(feature = "simulated-gpu")]
mod stop;
mod temp;

pub(crate) use bulk::BulkPages;
pub(crate) use cache::{forget_index, open_index, relation_changes};
pub(crate) use catalog::{SUPPORT_PROC, UNITS, column_typmod, opclass_code};
pub(crate) use page_ring::{PageRing, empty_ring};
pub(crate) use probed::ProbedPages;
pub(crate) use relation::{IndexPages, misses};
pub(crate) use ring_pages::RingPages;
pub(crate) use temp::TempFile;

#[allow(clippy::assertions_on_constants)]
const _: () = assert!(
    pgrx::pg_sys::BLCKSZ as usize == omen_ivf::store::PAGE_BYTES,
    "pg_omen needs a server with 8 kB pages (BLCKSZ = 8192), as built by default"
);
