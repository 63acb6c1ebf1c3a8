//! A tier's memory on the simulated device: pages that another process can map, as it can a device's.

#![allow(unsafe_code)]

use crate::error::GpuError;
use crate::export::MemoryHandle;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// What memory holds that was exported and freed: who has it mapped still must see that it is not the tier's any more.
const FREED: u64 = 0xA5A5_A5A5_A5A5_A5A5;

/// Words that are there as long as this is.
pub(crate) struct SimulatedMemory {
    file: File,
    start: *mut u64,
    n_words: usize,
    is_mapped: bool,
    is_exported: AtomicBool,
}

// SAFETY: plain memory owned by this value, or another process's that does not write to it while it is mapped.
unsafe impl Send for SimulatedMemory {}
// SAFETY: as above; writing takes `&mut`.
unsafe impl Sync for SimulatedMemory {}

fn other(error: std::io::Error) -> GpuError {
    GpuError::Other(format!("memory of the simulated device: {error}"))
}

impl SimulatedMemory {
    /// So many words, zeroed. Errors: `Other` of the system.
    pub(crate) fn new(n_words: usize) -> Result<Self, GpuError> {
        // SAFETY: a name that ends in a zero; the descriptor is nobody else's.
        let file = unsafe {
            let fd = libc::memfd_create(c"omen tier".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(other(std::io::Error::last_os_error()));
            }
            File::from_raw_fd(fd)
        };
        file.set_len(n_words as u64 * 8).map_err(other)?;
        Self::over(file, n_words, false)
    }

    /// The memory of another process.
    pub(crate) fn map(handle: &MemoryHandle, n_words: usize) -> Result<Self, GpuError> {
        let [process, fd, ..] = handle.0;
        let path = format!("/proc/{process}/fd/{fd}");
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(other)?;
        if file.metadata().map_err(other)?.len() != n_words as u64 * 8 {
            return Err(GpuError::Other("memory of another tier".into()));
        }
        Self::over(file, n_words, true)
    }

    fn over(file: File, n_words: usize, is_mapped: bool) -> Result<Self, GpuError> {
        // SAFETY: a new mapping of the file's bytes, at least one of them.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                n_words.max(1) * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(other(std::io::Error::last_os_error()));
        }
        Ok(Self {
            file,
            start: start.cast(),
            n_words,
            is_mapped,
            is_exported: AtomicBool::new(false),
        })
    }

    /// What another process maps it by.
    pub(crate) fn export(&self) -> MemoryHandle {
        self.is_exported.store(true, Ordering::Relaxed);
        let mut handle = MemoryHandle::default();
        handle.0[0] = u64::from(std::process::id());
        handle.0[1] = self.file.as_raw_fd() as u64;
        handle
    }

    /// The words.
    pub(crate) fn words(&self) -> &[u64] {
        // SAFETY: mapped with this length, until drop.
        unsafe { std::slice::from_raw_parts(self.start, self.n_words) }
    }

    /// The words, to be written to by their owner.
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        assert!(!self.is_mapped, "a write to another process's memory");
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.n_words) }
    }
}

impl Drop for SimulatedMemory {
    fn drop(&mut self) {
        if self.is_exported.load(Ordering::Relaxed) {
            self.words_mut().fill(FREED);
        }
        // SAFETY: mapped once, unmapped once; no slice of it is left.
        unsafe { libc::munmap(self.start.cast(), self.n_words.max(1) * 8) };
    }
}
