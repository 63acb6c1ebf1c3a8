//! The session's GPU and tiers as the status functions see them. Creates nothing.

use omen_ivf::index::Index;

use super::tiers;
use crate::compat::FileId;
use crate::guc::GpuDevices;

/// Bytes and state of an index's tier in this session, for the status functions: loaded bytes, lists.
pub(crate) fn status_of(file: FileId, index: &Index) -> Option<TierStatus> {
    tiers::with(|device| {
        let loaded = device.tier(file, index)?;
        Some(TierStatus {
            bytes: loaded.tier.bytes(),
            kind: loaded.kind(),
            lists: loaded
                .tier
                .lists()
                .iter()
                .map(|list| list.map(|l| (l.layout_gen, l.delete_gen)))
                .collect(),
        })
    })
}

/// A tier as the status functions see it.
pub(crate) struct TierStatus {
    /// Bytes of device memory.
    pub bytes: u64,
    /// What it holds, in a word or two; empty: all of the index.
    pub kind: &'static str,
    /// Of each list, layout and delete generation; `None` if it is not there.
    pub lists: Vec<Option<(u32, u32)>>,
}

/// The session's GPU as the status functions see it.
pub(crate) struct DeviceStatus {
    /// Whether the device is simulated in host memory.
    pub simulated: bool,
    /// Devices it may be.
    pub allowed: GpuDevices,
    /// (free, total) bytes, if a context exists.
    pub memory: Option<(u64, u64)>,
    /// Bytes of device memory held by hot tiers.
    pub tier_bytes: u64,
    /// Number of hot tiers.
    pub n_tiers: usize,
    /// Why the GPU is not used now.
    pub paused: Option<String>,
}

/// The session's GPU; creates nothing.
pub(crate) fn device_status() -> DeviceStatus {
    tiers::with(|device| {
        let paused = device.device_pause().map(|why| why.to_string());
        device.drop_orphans();
        DeviceStatus {
            simulated: device.simulated,
            allowed: device.allowed.clone(),
            memory: device.gpu.as_ref().and_then(|gpu| gpu.memory().ok()),
            tier_bytes: device.tier_bytes(),
            n_tiers: device.tiers.len(),
            paused,
        }
    })
}
