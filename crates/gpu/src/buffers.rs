//! Device memory and page-locked host memory of a context.

use crate::context::Context;
use crate::driver::run;
use crate::error::GpuError;
use crate::export::MemoryHandle;
use cudarc::driver::{result, sys};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Plain device memory (not from a pool, so that it can be shared with other processes).
pub struct DeviceBuffer {
    ctx: Arc<Context>,
    ptr: u64,
    bytes: usize,
    /// Whether it is another process's, mapped here.
    is_mapped: bool,
}

#[allow(unsafe_code)]
impl DeviceBuffer {
    /// `bytes` of device memory, not initialised. Errors: `OutOfMemory` with what is needed and free.
    pub fn new(ctx: &Arc<Context>, bytes: usize) -> Result<Self, GpuError> {
        ctx.enter()?;
        // SAFETY: the memory is written before it is read: by the copies and kernels of its owner.
        let ptr = match ctx.note(run("cuMemAlloc", || unsafe {
            result::malloc_sync(bytes.max(1))
        })) {
            Err(GpuError::OutOfMemory { .. }) => {
                let available = ctx.memory()?.0;
                return Err(GpuError::OutOfMemory {
                    needed: bytes as u64,
                    available,
                });
            }
            other => other?,
        };
        ctx.allocated.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(Self {
            ctx: ctx.clone(),
            ptr,
            bytes,
            is_mapped: false,
        })
    }

    /// What another process on this device maps the memory by, for as long as it is not freed.
    pub fn export(&self) -> Result<MemoryHandle, GpuError> {
        self.ctx.enter()?;
        let mut handle = sys::CUipcMemHandle { reserved: [0; 64] };
        // SAFETY: the address is that of a live allocation; writes one handle.
        self.ctx.note(run("cuIpcGetMemHandle", || unsafe {
            sys::cuIpcGetMemHandle(&raw mut handle, self.ptr).result()
        }))?;
        Ok(MemoryHandle(bytemuck::cast(handle.reserved)))
    }

    /// Maps `bytes` of memory that another process has on this device. Errors: also where the driver or the system does not allow it.
    pub fn map(ctx: &Arc<Context>, handle: &MemoryHandle, bytes: usize) -> Result<Self, GpuError> {
        ctx.enter()?;
        let handle = sys::CUipcMemHandle {
            reserved: bytemuck::cast(handle.0),
        };
        let flags = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut ptr = 0;
        // SAFETY: a handle of any bits is refused or opens what it stands for; writes one address. Closed in drop.
        ctx.note(run("cuIpcOpenMemHandle", || unsafe {
            sys::cuIpcOpenMemHandle_v2(&raw mut ptr, handle, flags).result()
        }))?;
        Ok(Self {
            ctx: ctx.clone(),
            ptr,
            bytes,
            is_mapped: true,
        })
    }

    /// Device address.
    pub fn address(&self) -> u64 {
        self.ptr
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

#[allow(unsafe_code)]
impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.is_mapped {
            if self.ctx.usable_in_drop() {
                // SAFETY: opened in `map`, closed once; the stream that used it is idle or was waited for before.
                let _ = run("cuIpcCloseMemHandle", || unsafe {
                    sys::cuIpcCloseMemHandle(self.ptr).result()
                });
            }
            return;
        }
        self.ctx
            .allocated
            .fetch_sub(self.bytes as u64, Ordering::Relaxed);
        if self.ctx.usable_in_drop() {
            // SAFETY: allocated in `new`, freed once; the stream that used it is idle or was waited for before.
            let _ = run("cuMemFree", || unsafe { result::free_sync(self.ptr) });
        }
    }
}

/// Page-locked host memory, zeroed; ordinary cached memory to the CPU (not write-combined: results are read from it).
pub struct PinnedBuffer {
    ctx: Arc<Context>,
    ptr: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory owned by this value.
#[allow(unsafe_code)]
unsafe impl Send for PinnedBuffer {}

#[allow(unsafe_code)]
impl PinnedBuffer {
    /// `bytes` of page-locked memory.
    pub fn new(ctx: &Arc<Context>, bytes: usize) -> Result<Self, GpuError> {
        ctx.enter()?;
        let bytes = bytes.max(1);
        // SAFETY: cached memory that the device reaches too. Initialised right below.
        let ptr = ctx
            .note(run("cuMemHostAlloc", || unsafe {
                result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_DEVICEMAP)
            }))?
            .cast::<u8>();
        // SAFETY: the allocation has this many bytes.
        unsafe { ptr.write_bytes(0, bytes) };
        Ok(Self {
            ctx: ctx.clone(),
            ptr,
            bytes,
        })
    }

    /// Address by which kernels reach it (unified addressing: the host's own).
    pub fn address(&self) -> u64 {
        self.ptr as u64
    }

    /// The memory.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this length and initialised in `new`; the driver writes only before the owner has waited.
        unsafe { std::slice::from_raw_parts(self.ptr, self.bytes) }
    }

    /// The memory, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.bytes) }
    }
}

#[allow(unsafe_code)]
impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        if self.ctx.usable_in_drop() {
            // SAFETY: allocated in `new`, freed once; no copy is under way (the owner waited).
            let _ = run("cuMemHostFree", || unsafe {
                result::free_host(self.ptr.cast())
            });
        }
    }
}
