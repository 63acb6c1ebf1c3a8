//! A CUDA context and its streams: launches, copies, bounded waits.
//!
//! Nothing here waits without a deadline. Once a wait times out or the driver reports a sticky error, the context is marked
//! lost: every later call returns [`GpuError::Lost`] at once, and destructors leave the driver alone (they leak, the
//! process's end frees). The same holds in a forked child.

use crate::buffers::{DeviceBuffer, PinnedBuffer};
use crate::driver::{call, run};
use crate::error::GpuError;
use crate::launch::KERNELS;
use crate::module::Image;
use bytemuck::Pod;
use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How a wait ends early: a point in time, and a closure asked every now and then.
pub struct Wait<'a> {
    /// When to give up.
    pub until: Instant,
    /// An error ends the wait with that error.
    pub poll: &'a mut dyn FnMut() -> Result<(), GpuError>,
}

/// So long a wait keeps its core, then so long it lets others have it between looks, and only then it sleeps: the shortest sleep takes some
/// 70 us, a fifth of what a batch takes.
const SPIN: Duration = Duration::from_micros(300);
const YIELD: Duration = Duration::from_millis(10);
/// Dynamic shared memory that every kernel can have without asking.
const DEFAULT_SHARED_BYTES: usize = 48 << 10;
/// `select_probes` has at most so much besides its dynamic shared memory.
pub(crate) const STATIC_SHARED_BYTES: usize = 2048;

/// A number that describes a device.
#[allow(unsafe_code)]
fn attribute(device: sys::CUdevice, which: sys::CUdevice_attribute) -> Result<usize, GpuError> {
    // SAFETY: `device` came from the driver.
    let value = run("cuDeviceGetAttribute", || unsafe {
        result::device::get_attribute(device, which)
    })?;
    Ok(value.max(0) as usize)
}

/// The context of one device in this process, with the kernels loaded.
pub struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
    functions: Vec<sys::CUfunction>,
    pid: u32,
    lost: OnceLock<String>,
    pub(crate) allocated: AtomicU64,
    /// Which scan kernels the device runs.
    pub scans: Scans,
    multiprocessors: usize,
    shared_limit: usize,
}

/// Which scan kernels a device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scans {
    /// `scan_fma` alone.
    Fma,
    /// `scan_mma_*` too (compute capability 8.0 and up).
    Mma,
    /// `scan_wgmma` too (code for 9.0a).
    Wgmma,
}

// SAFETY: contexts, functions and devices are driver handles valid in all threads of the process; each method makes the
// context current in the calling thread first.
#[allow(unsafe_code)]
unsafe impl Send for Context {}
// SAFETY: as above; the driver serialises calls on one context.
#[allow(unsafe_code)]
unsafe impl Sync for Context {}

#[allow(unsafe_code)]
impl Context {
    /// Retains the device's primary context and loads the kernels of `image`.
    pub fn new(ordinal: i32, image: &Image, scans: Scans) -> Result<Arc<Self>, GpuError> {
        crate::driver::init()?;
        let device = run("cuDeviceGet", || result::device::get(ordinal))?;
        // SAFETY: `device` came from the driver just now. Released in drop.
        let raw = run("cuDevicePrimaryCtxRetain", || unsafe {
            result::primary_ctx::retain(device)
        })?;
        let mut ctx = Self {
            device,
            raw,
            functions: Vec::new(),
            pid: std::process::id(),
            lost: OnceLock::new(),
            allocated: AtomicU64::new(0),
            scans,
            multiprocessors: attribute(
                device,
                sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )?,
            shared_limit: attribute(
                device,
                sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
        };
        ctx.enter()?;
        let bytes = image.bytes()?;
        // SAFETY: `bytes` is a whole CUBIN, or PTX with its closing zero, and outlives the call.
        let module = run("cuModuleLoadData", || unsafe {
            result::module::load_data(bytes.as_ptr().cast())
        })?;
        for kernel in KERNELS {
            let name = CString::new(kernel.symbol).map_err(|e| GpuError::Other(e.to_string()))?;
            // SAFETY: `module` was loaded just now, and is never unloaded while the context lives.
            let function = run("cuModuleGetFunction", || unsafe {
                result::module::get_function(module, name)
            })?;
            // SAFETY: `function` belongs to the module just loaded.
            let fixed = run("cuFuncGetAttribute", || unsafe {
                result::function::get_function_attribute(
                    function,
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
                )
            })?
            .max(0) as usize;
            let shared = kernel
                .shared_bytes
                .min(ctx.shared_limit.saturating_sub(fixed));
            if shared + fixed > DEFAULT_SHARED_BYTES {
                // SAFETY: `function` belongs to the module just loaded.
                run("cuFuncSetAttribute", || unsafe {
                    result::function::set_function_attribute(
                        function,
                        sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                        shared as i32,
                    )
                })?;
            }
            ctx.functions.push(function);
        }
        Ok(Arc::new(ctx))
    }

    /// Multiprocessors of the device.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Most shared memory a block can have, in bytes.
    pub fn shared_limit(&self) -> usize {
        self.shared_limit
    }

    /// Checks that the context is usable here and now, and makes it current.
    pub fn enter(&self) -> Result<(), GpuError> {
        if let Some(why) = self.lost.get() {
            return Err(GpuError::Lost(why.clone()));
        }
        if self.pid != std::process::id() {
            return Err(GpuError::Lost(
                "the process was forked after the context was created".into(),
            ));
        }
        // SAFETY: `raw` is retained until drop.
        self.note(run("cuCtxSetCurrent", || unsafe {
            result::ctx::set_current(self.raw)
        }))
    }

    /// Marks the context lost.
    pub fn mark_lost(&self, why: &str) {
        let _ = self.lost.set(why.to_string());
    }

    /// Passes a result on; an error that the context does not survive marks it lost.
    pub(crate) fn note<T>(&self, outcome: Result<T, GpuError>) -> Result<T, GpuError> {
        if let Err(GpuError::Lost(why)) = &outcome {
            self.mark_lost(why);
        }
        outcome
    }

    /// (free, total) bytes of device memory.
    pub fn memory(&self) -> Result<(u64, u64), GpuError> {
        self.enter()?;
        let (free, total) = self.note(run("cuMemGetInfo", result::mem_get_info))?;
        Ok((free as u64, total as u64))
    }

    /// Bytes of device memory held through this context.
    pub fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// Launches [`KERNELS`]`[kernel]`, whose only parameter is `params`. Called by the launchers alone.
    pub(crate) fn launch<P: Pod>(
        &self,
        stream: &Stream,
        kernel: usize,
        grid: (u32, u32, u32),
        block: u32,
        shared: usize,
        params: &mut P,
    ) -> Result<(), GpuError> {
        assert!(shared <= KERNELS[kernel].shared_bytes);
        assert_eq!(
            KERNELS[kernel].param_bytes,
            [size_of::<P>()],
            "argument of {}",
            KERNELS[kernel].symbol
        );
        self.enter()?;
        let mut arguments = [std::ptr::from_mut(params).cast::<c_void>()];
        // SAFETY: the kernel has this one parameter of this size (asserted above; the kernel table test compares it with
        // the compiled code), copied by the driver during the call; the launcher vouches for what the parameter points to.
        self.note(run(KERNELS[kernel].symbol, || unsafe {
            result::launch_kernel(
                self.functions[kernel],
                grid,
                (block, 1, 1),
                shared as u32,
                stream.raw,
                &mut arguments,
            )
        }))
    }

    /// Whether destructors may call the driver.
    pub(crate) fn usable_in_drop(&self) -> bool {
        self.enter().is_ok()
    }
}

#[allow(unsafe_code)]
impl Drop for Context {
    fn drop(&mut self) {
        if self.usable_in_drop() {
            // SAFETY: retained once in `new`; streams, buffers and events hold an Arc, so none is left.
            let _ = run("cuDevicePrimaryCtxRelease", || unsafe {
                result::primary_ctx::release(self.device)
            });
        }
    }
}

/// A stream of its own (not synchronising with the default stream), and the event that tells when its work is done.
pub struct Stream {
    ctx: Arc<Context>,
    raw: sys::CUstream,
    event: sys::CUevent,
}

// SAFETY: driver handles, valid in all threads; see Context.
#[allow(unsafe_code)]
unsafe impl Send for Stream {}

#[allow(unsafe_code)]
impl Stream {
    /// A new stream.
    pub fn new(ctx: &Arc<Context>) -> Result<Self, GpuError> {
        ctx.enter()?;
        let raw = run("cuStreamCreate", || {
            result::stream::create(result::stream::StreamKind::NonBlocking)
        })?;
        let event = run("cuEventCreate", || {
            result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
        })?;
        Ok(Self {
            ctx: ctx.clone(),
            raw,
            event,
        })
    }

    /// Waits until all work queued so far is done. Errors: `TimedOut` (the context is lost then), what `poll` says, and
    /// errors of the work itself.
    pub fn wait(&self, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        self.ctx.enter()?;
        // SAFETY: event and stream are ours and live.
        self.ctx.note(run("cuEventRecord", || unsafe {
            result::event::record(self.event, self.raw)
        }))?;
        let start = Instant::now();
        loop {
            (wait.poll)()?;
            // SAFETY: the event is ours and live.
            let done = self.ctx.note(call("cuEventQuery", || unsafe {
                result::event::query(self.event)
            }))?;
            if done.is_some() {
                return Ok(());
            }
            let now = Instant::now();
            if now >= wait.until {
                self.ctx.mark_lost("the device did not answer in time");
                return Err(GpuError::TimedOut);
            }
            let waited = now - start;
            if waited < SPIN {
                std::hint::spin_loop();
            } else if waited < YIELD {
                std::thread::yield_now();
            } else {
                std::thread::sleep((waited / 16).min(Duration::from_millis(1)));
            }
        }
    }

    /// Queues zeroes for `bytes` bytes at device address `at`, which must belong to a live buffer.
    pub(crate) fn zero(&self, at: u64, bytes: usize) -> Result<(), GpuError> {
        self.ctx.enter()?;
        // SAFETY: the caller vouches for the address; the owner of the buffer waits for the stream before freeing it.
        self.ctx.note(run("cuMemsetD8Async", || unsafe {
            result::memset_d8_async(at, 0, bytes, self.raw)
        }))
    }

    /// Queues a copy of `bytes` bytes between device addresses, which must belong to live buffers.
    pub(crate) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), GpuError> {
        self.ctx.enter()?;
        // SAFETY: as in `zero`.
        self.ctx.note(run("cuMemcpyDtoDAsync", || unsafe {
            result::memcpy_dtod_async(to, from, bytes, self.raw)
        }))
    }

    /// Queues a copy of `rows` rows of `row_bytes` bytes, `pitch` bytes from each to the next, back to back to `to`: addresses of live
    /// buffers, on the device or page-locked on the host.
    pub(crate) fn copy_rows(
        &self,
        to: u64,
        from: u64,
        row_bytes: usize,
        pitch: usize,
        rows: usize,
    ) -> Result<(), GpuError> {
        self.ctx.enter()?;
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED,
            srcHost: std::ptr::null(),
            srcDevice: from,
            srcArray: std::ptr::null_mut(),
            srcPitch: pitch,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED,
            dstHost: std::ptr::null_mut(),
            dstDevice: to,
            dstArray: std::ptr::null_mut(),
            dstPitch: row_bytes,
            WidthInBytes: row_bytes,
            Height: rows,
        };
        // SAFETY: as in `zero`; the driver copies the description during the call.
        self.ctx.note(run("cuMemcpy2DAsync", || unsafe {
            sys::cuMemcpy2DAsync_v2(&copy, self.raw).result()
        }))
    }

    /// Records what `f` queues on this stream instead of running it.
    pub(crate) fn record(
        &self,
        f: impl FnOnce() -> Result<(), GpuError>,
    ) -> Result<Graph, GpuError> {
        self.ctx.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours and live.
        self.ctx.note(run("cuStreamBeginCapture", || unsafe {
            result::stream::begin_capture(self.raw, mode)
        }))?;
        let outcome = f();
        // Ends the recording also when `f` failed: the stream is of no use before that.
        // SAFETY: as above.
        let graph = self.ctx.note(run("cuStreamEndCapture", || unsafe {
            result::stream::end_capture(self.raw)
        }));
        outcome?;
        let graph = graph?;
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        // SAFETY: `graph` was made just now and is destroyed once, below.
        let exec = self.ctx.note(run("cuGraphInstantiate", || unsafe {
            result::graph::instantiate(graph, flags)
        }));
        // SAFETY: as above; the instance does not need it any more.
        let _ = run("cuGraphDestroy", || unsafe {
            result::graph::destroy(graph)
        });
        Ok(Graph {
            ctx: self.ctx.clone(),
            exec: exec?,
        })
    }

    /// Queues a recorded graph, whose buffers must all be live still.
    pub(crate) fn replay(&self, graph: &Graph) -> Result<(), GpuError> {
        self.ctx.enter()?;
        // SAFETY: the instance is live as long as `graph`, the stream as long as we are.
        self.ctx.note(run("cuGraphLaunch", || unsafe {
            result::graph::launch(graph.exec, self.raw)
        }))
    }

    /// Queues a copy of `bytes` of `from` to `to`.
    pub fn upload(
        &self,
        to: &DeviceBuffer,
        at: usize,
        from: &PinnedBuffer,
        range: std::ops::Range<usize>,
    ) -> Result<(), GpuError> {
        self.ctx.enter()?;
        let source = &from.bytes()[range];
        assert!(at + source.len() <= to.len(), "copy beyond the buffer");
        // SAFETY: the range lies in the device buffer (asserted), the source in pinned memory; the owner of both waits for
        // the stream before changing or freeing either.
        self.ctx.note(run("cuMemcpyHtoDAsync", || unsafe {
            result::memcpy_htod_async(to.address() + at as u64, source, self.raw)
        }))
    }

    /// Queues a copy of `range` of the device buffer to the start of `to`.
    pub fn download(
        &self,
        to: &mut PinnedBuffer,
        from: &DeviceBuffer,
        range: std::ops::Range<usize>,
    ) -> Result<(), GpuError> {
        self.ctx.enter()?;
        assert!(range.end <= from.len(), "copy beyond the buffer");
        let target = &mut to.bytes_mut()[..range.len()];
        // SAFETY: as in upload.
        self.ctx.note(run("cuMemcpyDtoHAsync", || unsafe {
            result::memcpy_dtoh_async(target, from.address() + range.start as u64, self.raw)
        }))
    }
}

/// Launches recorded once, to be queued with one call.
pub(crate) struct Graph {
    ctx: Arc<Context>,
    exec: sys::CUgraphExec,
}

// SAFETY: a driver handle, valid in all threads; see Context.
#[allow(unsafe_code)]
unsafe impl Send for Graph {}

#[allow(unsafe_code)]
impl Drop for Graph {
    fn drop(&mut self) {
        if self.ctx.usable_in_drop() {
            // SAFETY: ours, destroyed once; its owner has waited for the stream it ran in.
            let _ = run("cuGraphExecDestroy", || unsafe {
                result::graph::exec_destroy(self.exec)
            });
        }
    }
}

#[allow(unsafe_code)]
impl Drop for Stream {
    fn drop(&mut self) {
        // Whoever drops buffers of this stream next must not free what a kernel still uses, nor hang on one that never ends.
        let mut wait = Wait {
            until: Instant::now() + Duration::from_secs(5),
            poll: &mut || Ok(()),
        };
        if self.ctx.usable_in_drop() && self.wait(&mut wait).is_ok() {
            // SAFETY: ours, idle, and not used again.
            let _ = run("cuEventDestroy", || unsafe {
                result::event::destroy(self.event)
            });
            // SAFETY: as above.
            let _ = run("cuStreamDestroy", || unsafe {
                result::stream::destroy(self.raw)
            });
        }
    }
}
