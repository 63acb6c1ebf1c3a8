//! Waking a process, and waiting to be woken: latches of Postgres. A process is named by its place in the array of processes.
#![allow(unsafe_code)]

use std::time::Duration;

use pgrx::pg_sys;

/// This process's number.
pub(crate) fn my_number() -> u32 {
    // SAFETY: both are set before a process runs any query or worker code; the array does not move.
    unsafe { pg_sys::MyProc.offset_from((*pg_sys::ProcGlobal).allProcs) as u32 }
}

/// Wakes the process of a number; one that does not exist any more, or is not waiting, takes no harm. Main thread only.
pub(crate) fn wake(number: u32) {
    // SAFETY: the number, which was read from shared memory, is checked against the array, whose latches live as long as the server.
    unsafe {
        let procs = &*pg_sys::ProcGlobal;
        if number < procs.allProcCount {
            let proc = procs.allProcs.add(number as usize);
            pg_sys::SetLatch(&raw mut (*proc).procLatch);
        }
    }
}

/// Waits until this process is woken, at most so long. The caller looks again at what it waits for. Ends the process if the postmaster has died.
pub(crate) fn wait(most: Duration, event: u32) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let millis = most.as_millis().clamp(1, 1000) as core::ffi::c_long;
    // SAFETY: this process's own latch, on the main thread, with no lock held.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, millis, event);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// What a wait is shown as in `pg_stat_activity`.
#[derive(Clone, Copy)]
pub(crate) enum Event {
    /// A session waits for the answer to a search.
    Search,
    /// The GPU service's worker waits for searches.
    Idle,
}

impl Event {
    /// The number of the event.
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    pub(crate) fn number(self) -> u32 {
        use std::sync::OnceLock;
        static NUMBERS: OnceLock<[u32; 2]> = OnceLock::new();
        let numbers = NUMBERS.get_or_init(|| {
            // SAFETY: names that live for ever; on the main thread.
            [c"OmenGpuSearch", c"OmenGpuServiceMain"]
                .map(|name| unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) })
        });
        numbers[self as usize]
    }

    /// The number of the event: before PostgreSQL 17 extensions have no names of their own.
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    pub(crate) fn number(self) -> u32 {
        pg_sys::PG_WAIT_EXTENSION
    }
}
