//! SQL functions that say what is going on, for which a missing GPU is an answer, never an error; two that load and evict
//! hot tiers; two that check an index; and one that compares indexes.

mod check;
mod cpu_status;
mod estimate_build;
mod gpu_status;
mod hot_tier;
mod index_status;
mod last_scan;
mod service_status;
mod shadow_compare;
mod stat_index;

pub(crate) use shadow_compare::only_index::define;
