//! The devices there are, and opening one.

use crate::buffers::DeviceBuffer;
use crate::context::{Context, Scans};
use crate::driver::run;
use crate::engine::{AreaPool, CudaEngine, Engine};
use crate::error::GpuError;
use crate::export::MemoryHandle;
use crate::memory::{Parts, TierPlan};
use crate::module::{Image, image_for, scans_of};
use crate::tier::TierSpec;
use cudarc::driver::{result, sys};
use omen_ivf::Metric;
use std::sync::Arc;

/// A device as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Number to open it by.
    pub ordinal: i32,
    /// Marketing name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Newest CUDA version the driver supports, as 1000 * major + 10 * minor.
    pub driver_version: i32,
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// The embedded image it would run (`sm_90a`, or `compute_90` for PTX); None if it is too old.
    pub arch: Option<String>,
}

/// All devices. Initialises the driver (so never call it before forking workers) but creates no context.
#[allow(unsafe_code)]
pub fn devices() -> Result<Vec<DeviceInfo>, GpuError> {
    crate::driver::init()?;
    let n = run("cuDeviceGetCount", result::device::get_count)?;
    let mut driver_version = 0;
    // SAFETY: writes one int.
    run("cuDriverGetVersion", || unsafe {
        sys::cuDriverGetVersion(&raw mut driver_version).result()
    })?;
    (0..n)
        .map(|ordinal| describe(ordinal, driver_version))
        .collect()
}

#[allow(unsafe_code)]
fn describe(ordinal: i32, driver_version: i32) -> Result<DeviceInfo, GpuError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    };
    let device = run("cuDeviceGet", || result::device::get(ordinal))?;
    let attribute = |which| {
        // SAFETY: `device` came from the driver.
        run("cuDeviceGetAttribute", || unsafe {
            result::device::get_attribute(device, which)
        })
    };
    // SAFETY: as above.
    let memory_bytes = run("cuDeviceTotalMem", || unsafe {
        result::device::total_mem(device)
    })? as u64;
    let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(DeviceInfo {
        ordinal,
        name: run("cuDeviceGetName", || result::device::get_name(device))?,
        capability: (major, minor),
        driver_version,
        memory_bytes,
        arch: image_for(major, minor).map(|image| image.arch),
    })
}

/// An open device. Cheap to clone; the context goes with the last clone and tier.
#[derive(Clone)]
pub struct Gpu {
    pub(crate) backend: Backend,
}

#[derive(Clone)]
pub(crate) enum Backend {
    /// With what loading keeps of page-locked memory.
    Cuda(Arc<Context>, Arc<AreaPool>),
    #[cfg(feature = "simulated")]
    Simulated(crate::engine::simulated::Held),
}

impl Gpu {
    /// Opens a device: creates the context (hundreds of milliseconds, about 0.5 GB of device memory) and loads the kernels.
    /// Errors: `NoDriver`, `NoDevice`, `Unsupported` below compute capability 7.0, `OutOfMemory`, `Lost` after a fork.
    pub fn open(ordinal: i32) -> Result<Self, GpuError> {
        let info = devices()?
            .into_iter()
            .find(|d| d.ordinal == ordinal)
            .ok_or(GpuError::NoDevice)?;
        let (major, minor) = info.capability;
        let image = image_for(major, minor).ok_or_else(|| {
            GpuError::Unsupported(format!(
                "{} has compute capability {major}.{minor}, below 7.0",
                info.name
            ))
        })?;
        let scans = scans_of(&image, major);
        Self::open_image(ordinal, &image, scans)
    }

    /// As [`Gpu::open`], with an image other than the best one or fewer scan kernels (to test them), which the device must be
    /// able to run.
    pub fn open_image(ordinal: i32, image: &Image, scans: Scans) -> Result<Self, GpuError> {
        let ctx = Context::new(ordinal, image, scans)?;
        Ok(Self {
            backend: Backend::Cuda(ctx, Arc::default()),
        })
    }

    /// A device in host memory that runs the CPU twins of the kernels.
    #[cfg(feature = "simulated")]
    pub fn open_simulated() -> Self {
        Self {
            backend: Backend::Simulated(Default::default()),
        }
    }

    /// (free, total) bytes of device memory.
    pub fn memory(&self) -> Result<(u64, u64), GpuError> {
        match &self.backend {
            Backend::Cuda(ctx, _) => ctx.memory(),
            #[cfg(feature = "simulated")]
            Backend::Simulated(_) => Ok((
                crate::engine::simulated::MEMORY_BYTES,
                crate::engine::simulated::MEMORY_BYTES,
            )),
        }
    }

    /// Bytes of device memory held by tiers of this context.
    pub fn allocated(&self) -> u64 {
        match &self.backend {
            Backend::Cuda(ctx, _) => ctx.allocated(),
            #[cfg(feature = "simulated")]
            Backend::Simulated(held) => held.bytes(),
        }
    }

    /// Whether the context can no longer be used.
    pub fn is_lost(&self) -> bool {
        match &self.backend {
            Backend::Cuda(ctx, _) => ctx.enter().is_err(),
            #[cfg(feature = "simulated")]
            Backend::Simulated(_) => false,
        }
    }

    /// The CUDA context, if this is a real device.
    pub fn context(&self) -> Option<&Arc<Context>> {
        match &self.backend {
            Backend::Cuda(ctx, _) => Some(ctx),
            #[cfg(feature = "simulated")]
            Backend::Simulated(_) => None,
        }
    }

    /// Errors: `OutOfMemory` if `needed` bytes are more than `byte_limit`, or than what is free.
    pub(crate) fn check_room(&self, needed: u64, byte_limit: u64) -> Result<(), GpuError> {
        let available = byte_limit.min(self.memory()?.0);
        if needed > available {
            return Err(GpuError::OutOfMemory { needed, available });
        }
        Ok(())
    }

    /// Plans a tier of `n_slots` entries and allocates its memory, if tier and least scratch take no more than `byte_limit`.
    /// Errors: `OutOfMemory` with what is needed and there, `Unsupported` for more than 2^31 entries.
    pub fn tier_engine(
        &self,
        spec: &TierSpec,
        parts: Parts,
        n_slots: u64,
        byte_limit: u64,
    ) -> Result<(TierPlan, Box<dyn Engine>), GpuError> {
        let plan = TierPlan::new(spec, parts, n_slots)?;
        self.check_room(plan.bytes_needed(), byte_limit)?;
        let engine = self.engine(&plan, spec.metric, None)?;
        Ok((plan, engine))
    }

    /// An engine with memory for a tier, or over that of one that another process has on this device (`mapped`). Errors: also where it cannot
    /// be mapped.
    pub(crate) fn engine(
        &self,
        plan: &TierPlan,
        metric: Metric,
        mapped: Option<&MemoryHandle>,
    ) -> Result<Box<dyn Engine>, GpuError> {
        match &self.backend {
            Backend::Cuda(ctx, pool) => {
                let memory = match mapped {
                    None => DeviceBuffer::new(ctx, plan.bytes)?,
                    Some(handle) => DeviceBuffer::map(ctx, handle, plan.bytes)?,
                };
                let (pool, plan) = (pool.clone(), plan.clone());
                Ok(Box::new(CudaEngine::new(ctx, pool, memory, plan, metric)?))
            }
            #[cfg(feature = "simulated")]
            Backend::Simulated(held) => {
                use crate::engine::simulated::SimulatedEngine;
                let engine = match mapped {
                    None => SimulatedEngine::new(plan.clone(), metric, held.clone())?,
                    Some(handle) => SimulatedEngine::map(handle, plan, metric)?,
                };
                Ok(Box::new(engine))
            }
        }
    }
}
