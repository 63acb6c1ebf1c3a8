//! SQL functions that say what is going on. They read only, and a missing GPU is an answer, never an error.

mod cpu_status;
mod gpu_status;
mod index_status;
mod last_scan;
