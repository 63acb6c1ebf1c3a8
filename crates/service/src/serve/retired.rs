//! Tiers that were given up while other processes may have them mapped: their memory must stay until those have let go.

use super::hosted::Hosted;
use crate::message::TierKey;
use omen_gpu::Tier;

/// Tiers that are not searched any more.
#[derive(Default)]
pub(super) struct Retired {
    /// With the key and number that each had.
    tiers: Vec<(TierKey, u64, Tier)>,
}

impl Retired {
    /// A tier that was given up; it is freed at once if it never was exported.
    pub(super) fn take(&mut self, key: TierKey, hosted: Hosted) {
        if hosted.is_exported {
            self.tiers.push((key, hosted.number, hosted.tier));
        }
    }

    /// Frees those that are not mapped.
    pub(super) fn free(&mut self, is_mapped: impl Fn(&TierKey, u64) -> bool) {
        self.tiers
            .retain(|(key, number, _)| is_mapped(key, *number));
    }

    /// Bytes of device memory.
    pub(super) fn bytes(&self) -> u64 {
        self.tiers.iter().map(|(_, _, tier)| tier.bytes()).sum()
    }
}
