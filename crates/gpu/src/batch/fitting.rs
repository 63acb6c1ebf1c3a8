//! How many queries a batch may have: as many as the scratch has room for, and as the device can count the tiles of.

use super::plan::{BatchPlan, TierShape, Wanted};
use super::tuning::Tuning;
use crate::error::GpuError;
use crate::launch::scan::{MAX_DENSE_ITEMS, dense_items};

impl BatchPlan {
    /// Whether the device can take it: its scratch fits into `limit` bytes, and the tiles of a scan of everything can be counted.
    pub(super) fn fits(&self, limit: u64) -> bool {
        let n_items = match self.is_exact() {
            true => dense_items(self.width, self.tier.n_slots, self.wanted.n_queries),
            false => 0,
        };
        self.bytes as u64 <= limit && n_items <= MAX_DENSE_ITEMS
    }
}

/// The largest batch of at most `wanted.n_queries` queries that `fits` into `limit` bytes. Errors: `OutOfMemory` if not even one
/// query fits, and those of [`BatchPlan::new`].
pub fn fitting(
    tier: TierShape,
    wanted: Wanted,
    tuning: Tuning,
    limit: u64,
) -> Result<BatchPlan, GpuError> {
    let whole = BatchPlan::new(tier, wanted, tuning)?;
    if whole.fits(limit) {
        return Ok(whole);
    }
    let needed = |n_queries| {
        BatchPlan::new(
            tier,
            Wanted {
                n_queries,
                ..wanted
            },
            tuning,
        )
    };
    let (mut fits, mut too_many) = (0, wanted.n_queries);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if needed(middle)?.fits(limit) {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    if fits == 0 {
        return Err(GpuError::OutOfMemory {
            needed: needed(1)?.bytes as u64,
            available: limit,
        });
    }
    // Batches of equal size.
    let n_batches = wanted.n_queries.div_ceil(fits);
    needed(wanted.n_queries.div_ceil(n_batches))
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{tier, wanted};
    use super::*;
    use crate::context::Scans;
    use omen_ivf::Metric;

    #[test]
    fn batches_are_cut_to_what_fits() {
        for scans in [Scans::Fma, Scans::Mma, Scans::Wgmma] {
            for probes in [Some(1), Some(128), None] {
                let whole =
                    BatchPlan::new(tier(scans), wanted(5000, probes), Tuning::default()).unwrap();
                for share in [1, 2, 3, 10, 100] {
                    let limit = (whole.bytes / share) as u64;
                    let plan = fitting(tier(scans), wanted(5000, probes), Tuning::default(), limit)
                        .unwrap();
                    assert!(plan.bytes as u64 <= limit && plan.wanted.n_queries >= 1);
                }
                let none = fitting(tier(scans), wanted(5, probes), Tuning::default(), 1000);
                assert!(matches!(none, Err(GpuError::OutOfMemory { .. })));
            }
        }
    }

    #[test]
    fn tiles_of_a_scan_of_everything_can_be_counted() {
        // As many slots as a tier can have, and kernels of which each tile takes few queries.
        for metric in [Metric::L1, Metric::Hamming, Metric::Jaccard, Metric::L2] {
            let large = TierShape {
                metric,
                n_slots: 1 << 31,
                ..tier(Scans::Fma)
            };
            let plan = fitting(large, wanted(10_000, None), Tuning::default(), 1 << 40).unwrap();
            let n_items = dense_items(plan.width, large.n_slots, plan.wanted.n_queries);
            assert!(n_items <= MAX_DENSE_ITEMS && plan.wanted.n_queries < 10_000);
            assert!(plan.wanted.n_queries >= 100, "{}", plan.wanted.n_queries);
            assert!(
                !BatchPlan::new(large, wanted(10_000, None), Tuning::default())
                    .unwrap()
                    .fits(1 << 40)
            );
            // Of fewer, all together.
            let smaller = TierShape {
                n_slots: 1 << 20,
                ..large
            };
            let plan = fitting(smaller, wanted(10_000, None), Tuning::default(), 1 << 40).unwrap();
            assert_eq!(plan.wanted.n_queries, 10_000);
        }
    }
}
