//! The shared GPU service in PostgreSQL: with `shared_preload_libraries = 'pg_omen'` one background worker owns a GPU context and the hot
//! tiers, and sessions of all databases search through it. What is passed between them, and how the worker forms batches, is
//! `crates/service`; here are the memory, the worker process and the sessions' side.
//!
//! | file | content |
//! |---|---|
//! | `memory.rs` | the shared memory: asked for at start, attached by each process |
//! | `control.rs` | state and figures of the service that everyone reads |
//! | `figures.rs` | what is counted for each index, and whether its tier goes last |
//! | `breaker.rs` | sessions leave a service alone that does not answer |
//! | `worker.rs` | the worker process |
//! | `session.rs` | a session asks for the nearest entries, waits, or gives up |
//! | `loading.rs` | a process that reads an index has the service load its tier |
//! | `loader.rs` | a process for one load, so that no query waits for it |
//! | `claim.rs`, `turn.rs` | who loads, what rests after a load that failed, and whose turn it is next |
//! | `hosting.rs` | the tiers of the worker come and go |
//! | `mappings.rs` | which sessions have tiers of the worker mapped into contexts of their own |
//! | `autoload.rs`, `hot_file.rs` | which indexes were hot, and loading them again after a restart |
//! | `faults.rs` | mistakes that the worker makes on demand, in test builds |
//! | `watchdog.rs` | ends the worker when the driver does not come back |
#![allow(unsafe_code)]

mod autoload;
pub(crate) mod breaker;
pub(crate) mod claim;
pub(crate) mod control;
mod faults;
mod figures;
mod hosting;
mod hot_file;
pub(crate) mod loader;
pub(crate) mod loading;
pub(crate) mod mappings;
mod memory;
pub(crate) mod session;
mod turn;
mod watchdog;
mod worker;

pub(crate) use memory::{Service, service};

use pgrx::pg_sys;

/// Whether the postmaster is loading the library.
pub(crate) fn is_preloading() -> bool {
    // SAFETY: a variable of the process, on its main thread.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Asks for shared memory and registers the worker, if the library is being preloaded. Touches no GPU.
pub(crate) fn define() {
    if is_preloading() {
        memory::request();
        worker::register();
    }
}
