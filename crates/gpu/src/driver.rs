//! Every call of the driver goes through [`call`]: cudarc panics where a library or symbol is missing, and errors are typed
//! once, here.

use crate::error::GpuError;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// Runs a driver call; a panic inside cudarc becomes an error. `Ok(None)`: not ready yet (event queries).
pub fn call<T>(
    what: &str,
    f: impl FnOnce() -> Result<T, DriverError>,
) -> Result<Option<T>, GpuError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(Some(value)),
        Ok(Err(DriverError(CUresult::CUDA_ERROR_NOT_READY))) => Ok(None),
        Ok(Err(DriverError(code))) => Err(typed(what, code)),
        Err(_) => Err(GpuError::Other(format!(
            "{what}: the driver lacks a function"
        ))),
    }
}

/// As [`call`], for calls that are never "not ready".
pub fn run<T>(what: &str, f: impl FnOnce() -> Result<T, DriverError>) -> Result<T, GpuError> {
    call(what, f)?.ok_or_else(|| GpuError::Other(format!("{what}: not ready")))
}

/// The error of a driver's code. `OutOfMemory` comes without numbers: the allocator fills them in.
fn typed(what: &str, code: CUresult) -> GpuError {
    use CUresult::*;
    match code {
        CUDA_ERROR_OUT_OF_MEMORY => GpuError::OutOfMemory {
            needed: 0,
            available: 0,
        },
        CUDA_ERROR_NO_DEVICE | CUDA_ERROR_INVALID_DEVICE | CUDA_ERROR_DEVICE_UNAVAILABLE => {
            GpuError::NoDevice
        }
        CUDA_ERROR_STUB_LIBRARY
        | CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
        | CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => GpuError::NoDriver,
        CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUDA_ERROR_INVALID_PTX
        | CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUDA_ERROR_JIT_COMPILER_NOT_FOUND
        | CUDA_ERROR_JIT_COMPILATION_DISABLED
        | CUDA_ERROR_NOT_SUPPORTED => GpuError::Unsupported(format!("{what}: {code:?}")),
        // Sticky: the context answers with this to everything from now on.
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_LAUNCH_FAILED
        | CUDA_ERROR_LAUNCH_TIMEOUT
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUDA_ERROR_ASSERT
        | CUDA_ERROR_ECC_UNCORRECTABLE
        | CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUDA_ERROR_INVALID_CONTEXT
        | CUDA_ERROR_DEINITIALIZED
        | CUDA_ERROR_NOT_INITIALIZED
        | CUDA_ERROR_EXTERNAL_DEVICE
        | CUDA_ERROR_MPS_RPC_FAILURE
        | CUDA_ERROR_UNKNOWN => GpuError::Lost(format!("{what}: {code:?}")),
        _ => GpuError::Other(format!("{what}: {code:?}")),
    }
}

/// Initialises the driver once per process. Errors: `NoDriver`, `NoDevice`; `Lost` in a child of a process that had
/// initialised it, where CUDA cannot work. Never call this in a process that forks workers (the postmaster).
#[allow(unsafe_code)]
pub fn init() -> Result<(), GpuError> {
    static INITIALISED: OnceLock<(u32, Result<(), GpuError>)> = OnceLock::new();
    let (pid, result) = INITIALISED.get_or_init(|| {
        // SAFETY: tries to open the library and closes it again; libcuda has no constructor that depends on us.
        let present =
            std::panic::catch_unwind(|| unsafe { cudarc::driver::sys::is_culib_present() })
                .unwrap_or(false);
        let result = if present {
            run("cuInit", cudarc::driver::result::init)
        } else {
            Err(GpuError::NoDriver)
        };
        (std::process::id(), result)
    });
    if *pid != std::process::id() && result.is_ok() {
        return Err(GpuError::Lost(
            "the process was forked after CUDA was initialised".into(),
        ));
    }
    result.clone()
}
