//! Where the time of loading goes.

use std::time::Duration;

/// What the calling thread waited for while lists were loaded; the rest of its time went into pinning pages, saying what goes
/// where, and looking at pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadTimes {
    /// For copies of the threads, or copied along.
    pub copies: Duration,
    /// For the device to take what was in the next area.
    pub device: Duration,
    /// For areas to be made (page-locked): in the first load of a context.
    pub areas: Duration,
    /// Sending areas: calls of the driver.
    pub sending: Duration,
    /// Time spent copying: all threads together, the calling thread too.
    pub copying: Duration,
    /// Number of threads besides the calling one.
    pub n_threads: usize,
}
