//! Phases of CREATE INDEX in `pg_stat_progress_create_index`.
#![allow(unsafe_code)]

use core::ffi::c_char;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::threads;

/// A phase; the numbers are what the view gets. 1 is set by Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub(super) enum Phase {
    /// Reading some blocks of the table.
    Sampling = 2,
    /// Training the centroids.
    KMeans = 3,
    /// Reading the table and finding each row's list.
    Assigning = 4,
    /// Writing lists, and WAL of them.
    Writing = 5,
    /// Measuring recall against probes.
    Calibrating = 6,
    /// Waiting for workers that still log.
    Logging = 7,
}

impl Phase {
    /// As told when the build is done.
    fn name(self) -> &'static str {
        match self {
            Self::Sampling => "sampling",
            Self::KMeans => "k-means",
            Self::Assigning => "reading and assigning",
            Self::Writing => "writing",
            Self::Calibrating => "calibrating",
            Self::Logging => "logging",
        }
    }
}

/// Reports phases, and knows how long each took.
#[derive(Default)]
pub(super) struct Clock {
    begun: Vec<(Phase, Instant)>,
}

impl Clock {
    /// Reports that a phase begins, for which there is all memory.
    pub(super) fn begin(&mut self, phase: Phase) {
        threads::give_back_memory();
        self.begun.push((phase, Instant::now()));
        report(pg_sys::PROGRESS_CREATEIDX_SUBPHASE, phase as i64);
    }

    /// Time since the first phase began.
    pub(super) fn elapsed(&self) -> Duration {
        let first = self.begun.first();
        first.map_or(Duration::ZERO, |(_, begun)| begun.elapsed())
    }

    /// The phases and their seconds.
    pub(super) fn summary(&self) -> String {
        let ends = self.begun.iter().skip(1).map(|&(_, begun)| begun);
        let ends = ends.chain([Instant::now()]);
        let phases = self.begun.iter().zip(ends);
        let told = phases.map(|(&(phase, begun), end)| {
            format!("{} {:.2} s", phase.name(), (end - begun).as_secs_f64())
        });
        told.collect::<Vec<String>>().join(", ")
    }
}

/// Reports the number of entries the phase will handle, if known.
pub(super) fn total(n: u64) {
    report(pg_sys::PROGRESS_CREATEIDX_TUPLES_TOTAL, n as i64);
}

/// Reports the number of the table's blocks that the phase will read.
pub(super) fn blocks_total(n: u64) {
    report(pg_sys::PROGRESS_SCAN_BLOCKS_TOTAL, n as i64);
}

/// Reports the number of the table's blocks read.
pub(super) fn blocks_done(n: u64) {
    report(pg_sys::PROGRESS_SCAN_BLOCKS_DONE, n as i64);
}

/// Reports the number of entries handled.
pub(super) fn done(n: u64) {
    report(pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE, n as i64);
}

fn report(parameter: u32, value: i64) {
    // SAFETY: main thread; the parameters are within the view's array.
    unsafe { pg_sys::pgstat_progress_update_param(parameter as i32, value) }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambuildphasename(phase: i64) -> *mut c_char {
    let name = match phase {
        1 => c"initializing",
        2 => c"sampling table",
        3 => c"performing k-means",
        4 => c"assigning tuples",
        5 => c"writing lists",
        6 => c"calibrating probes",
        7 => c"logging lists",
        _ => return core::ptr::null_mut(),
    };
    // Postgres does not write to it.
    name.as_ptr().cast_mut()
}
