//! Which GPU this process uses.

use omen_gpu::{DeviceInfo, Gpu, GpuError};

use crate::guc::GpuDevices;
use crate::threads;

/// Number of the simulated device.
pub(crate) const SIMULATED: i32 = 0;

/// Creates a context on one of the devices that `allowed` names; its number too. `simulated`: on the simulated one, which normal builds lack.
pub(crate) fn open(allowed: &GpuDevices, simulated: bool) -> Result<(Gpu, i32), GpuError> {
    // The driver starts threads.
    threads::with_signals_blocked(|| {
        #[cfg(feature = "simulated-gpu")]
        if simulated {
            let device = choose(allowed, &[SIMULATED])?;
            return Ok((Gpu::open_simulated(), device));
        }
        let _ = simulated;
        let device = chosen_device(allowed, &omen_gpu::devices()?)?;
        Ok((Gpu::open(device)?, device))
    })
}

/// The device that [`open`] would open, without a context on it. Errors: as [`open`], but for those of the device itself.
pub(crate) fn find(allowed: &GpuDevices, simulated: bool) -> Result<i32, GpuError> {
    if simulated && cfg!(feature = "simulated-gpu") {
        return choose(allowed, &[SIMULATED]);
    }
    // The driver starts threads.
    threads::with_signals_blocked(|| chosen_device(allowed, &omen_gpu::devices()?))
}

/// Which of `devices` this session uses. Errors: as [`choose`].
pub(crate) fn chosen_device(allowed: &GpuDevices, devices: &[DeviceInfo]) -> Result<i32, GpuError> {
    let ordinals = |usable: bool| -> Vec<i32> {
        let right = devices.iter().filter(|d| d.arch.is_some() || !usable);
        right.map(|device| device.ordinal).collect()
    };
    // If none can be used, opening one says why.
    choose(allowed, &ordinals(true)).or_else(|_| choose(allowed, &ordinals(false)))
}

/// Which of these devices this session uses: sessions spread over those that are allowed. Errors: `NoDevice`, `Unsupported` if
/// none is allowed.
pub(crate) fn choose(allowed: &GpuDevices, ordinals: &[i32]) -> Result<i32, GpuError> {
    if ordinals.is_empty() {
        return Err(GpuError::NoDevice);
    }
    let usable: Vec<i32> = ordinals
        .iter()
        .copied()
        .filter(|&ordinal| allowed.contains(ordinal))
        .collect();
    match usable.len() {
        0 => Err(GpuError::Unsupported(format!(
            "omen.gpu_devices = '{allowed}' names none of its devices"
        ))),
        n => Ok(usable[std::process::id() as usize % n]),
    }
}
