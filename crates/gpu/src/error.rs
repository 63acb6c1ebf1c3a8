//! What can go wrong with the GPU, typed by what the caller can do about it.

use thiserror::Error;

/// An error of the GPU engine. None of them concerns the query's rows: the caller answers on the CPU.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GpuError {
    /// libcuda is not there: do not try again in this process.
    #[error("the NVIDIA driver is not installed")]
    NoDriver,
    /// The driver knows no usable device: do not try again in this process.
    #[error("the NVIDIA driver finds no GPU")]
    NoDevice,
    /// Device memory or the byte limit does not suffice: load less, or try again later.
    #[error("{}", no_memory(*needed, *available))]
    OutOfMemory {
        /// Bytes asked for; 0: the driver does not say, such as for a context.
        needed: u64,
        /// Bytes there are, within the limit given.
        available: u64,
    },
    /// The tier does not hold a list asked for: search that list on the CPU, or load it.
    #[error("list {0} is not in GPU memory")]
    NotResident(u32),
    /// Another thread is searching this tier: search on the CPU, or try again.
    #[error("the GPU is busy")]
    Busy,
    /// The deadline passed; the device counts as lost from now on.
    #[error("the GPU did not answer in time")]
    TimedOut,
    /// The poll closure asked to stop. The device is fine.
    #[error("interrupted")]
    Interrupted,
    /// The context is unusable (device fell off, kernel fault, earlier timeout, or the process was forked): drop it, and
    /// open a new one later if at all.
    #[error("the GPU context is lost: {0}")]
    Lost(String),
    /// This query, index or device is outside what the kernels do; others may work.
    #[error("not supported on the GPU: {0}")]
    Unsupported(String),
    /// Anything else.
    #[error("GPU error: {0}")]
    Other(String),
}

fn no_memory(needed: u64, available: u64) -> String {
    match needed {
        0 => "the GPU has no memory left".into(),
        _ => format!("not enough GPU memory: {needed} bytes needed, {available} available"),
    }
}
