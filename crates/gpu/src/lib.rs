//! The GPU engine: a hot tier of an index in device memory, searched by CUDA kernels. No Postgres here.
//!
//! Use: [`Gpu::open`], [`TierBuilder`] (from an index's pages, while they are written, or row by row), then [`Tier::search_batch`], for which the device chooses the
//! lists, or [`Tier::search`] with the lists that the CPU chose.
//! At run time only the NVIDIA driver is needed; without it everything returns [`GpuError::NoDriver`]. Nothing here panics,
//! waits without a deadline, or survives a fork; every error means "answer on the CPU".
//!
//! Layers: `kernels/*.cu` -> `launch` (one launcher per kernel) -> `engine` (a tier's memory, a batch's launches) ->
//! `batch` (batches that the device plans) and `search` (rounds that the host plans, also for what a batch could not answer) -> `tier`.
//! `export`: a tier is mapped by another process.
//! `memory` (what a tier holds and what fits), `free_slots` (where lists go that are written again), `batch::plan`, `plan` and `query`
//! are pure functions. `twin` holds the CPU twins of the kernels; with the feature `simulated`, `Gpu::open_simulated` gives a device that runs them in host memory.

pub mod assign;
pub mod batch;
pub mod buffers;
mod catalog;
pub mod context;
pub mod copiers;
pub mod device;
mod directory;
mod driver;
pub mod engine;
pub mod error;
pub mod export;
pub mod free_slots;
pub mod launch;
pub mod load;
pub mod memory;
pub mod module;
pub mod params;
pub mod plan;
pub mod query;
mod search;
mod staging;
mod tensor_map;
pub mod tier;
pub mod tier_builder;
pub mod tier_image;
pub mod twin;

pub use assign::GpuAssigner;
pub use batch::codes::NearSlot;
pub use batch::{Batch, BatchFound, Lists, LockedQueries, Source};
pub use copiers::Copiers;
pub use device::{DeviceInfo, Gpu, devices};
pub use error::GpuError;
pub use export::{Export, MemoryHandle};
pub use load::{LoadError, LoadTimes, WrittenLists};
pub use query::TierQuery;
pub use search::{FoundList, SearchTimes, candidates_from};
pub use tier::{Refresh, Tier, TierList, TierSpec};
pub use tier_builder::{TierBuilder, Written};
