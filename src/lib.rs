//! pg_omen: vector search on GPU and CPU for PostgreSQL.
//!
//! This crate is the only place that knows Postgres. `datatype` is the SQL surface of the types, `am` the index access
//! method, `batch` the search of many queries at once, `storage` pages and locks, `engine` the choice between CPU and
//! GPU, `gpu_service` the GPU that sessions share, `planner` what is left out of plans, `admin` the status functions. The index itself is `omen_ivf`, the GPU `omen_gpu`; neither knows Postgres.
//!
//! Postgres is called on the main thread alone. Its errors unwind as Rust panics (pgrx's guards); destructors that run
//! meanwhile leave everything of Postgres to the abort of the transaction.

#[cfg(not(panic = "unwind"))]
compile_error!("pg_omen needs panic = \"unwind\": Postgres errors unwind the Rust stack");

use pgrx::prelude::*;

::pgrx::pg_module_magic!();

mod admin;
mod am;
mod batch;
mod compat;
mod datatype;
mod engine;
mod error;
mod gpu_service;
mod guc;
mod named_index;
mod options;
mod planner;
mod privilege;
mod storage;
mod threads;
mod wake;

/// Runs when the library is loaded, in the postmaster too: defines settings and options, touches no GPU.
#[allow(unsafe_code, non_snake_case)]
#[pg_guard]
extern "C-unwind" fn _PG_init() {
    guc::define();
    options::define();
    gpu_service::define();
    admin::define();
    planner::define();
}
