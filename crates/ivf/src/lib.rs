//! The `omen` index without Postgres: page layout, build, insert, search and vacuum over a trait of pages.
//!
//! An index is an inverted file (IVF): k-means centroids, and for each centroid a posting list of entries.
//! Everything that touches bytes goes through [`store::PageStore`], so that the same code runs over Postgres
//! buffers and, in tests, over [`mem_store::MemStore`]. `layout/README.md` describes every page.

mod announce;
pub mod append;
pub mod assign;
pub mod bound;
pub mod build_entries;
pub mod bulk_delete;
pub mod calibrate;
mod centroids;
pub mod check;
pub mod coarse;
pub mod count;
pub mod error;
pub mod export;
pub mod fold;
pub mod form;
mod frozen_writer;
pub mod index;
pub mod insert;
pub mod kmeans;
mod lanes;
pub mod layout;
mod list_lock;
mod list_piece;
pub mod list_reader;
mod list_writer;
pub mod mem_store;
pub mod order;
pub mod params;
pub mod probes;
pub mod query;
pub mod rabitq;
pub mod reclaim;
pub mod rerank;
pub mod rotation;
pub mod row_batch;
mod runs;
pub mod scan_list;
pub mod scan_lists;
pub mod search;
pub mod settle;
pub mod spilled;
pub mod store;
pub mod stored;
mod stream_writer;
mod survivors;
pub mod topk;
pub mod write_index;
mod write_lists;

pub use error::{IvfError, Result};
pub use params::{Metric, Tid, VectorKind};

#[cfg(test)]
mod testing;
