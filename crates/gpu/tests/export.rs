//! A tier is mapped by another process, here by another simulated device.

mod common;

use common::{Fixture, Flavour, METRICS, check_answers, rng, sizes, tier_with_room};
use omen_gpu::memory::Parts;
use omen_gpu::{Export, Gpu, MemoryHandle, Tier};
use omen_ivf::Metric;
use omen_ivf::layout::group::{Filter, GroupShape};
use omen_ivf::rotation::Rotation;

const NO_LIMIT: u64 = 1 << 32;
/// As the fixture's.
const SEED: u64 = 17;

fn map(gpu: &Gpu, export: Export) -> Tier {
    let dim = export.spec.dim;
    let code_dim = GroupShape::new(Filter::OneBit, dim as u32).code_dim as usize;
    let rotation = Rotation::new(SEED, dim, code_dim);
    Tier::map(gpu, export, Some(&rotation), NO_LIMIT).unwrap()
}

#[test]
fn mapped_tiers_answer_as_their_own_do() {
    let mut rng = rng("mapped_tiers_answer_as_their_own_do");
    let (owner, other) = (Gpu::open_simulated(), Gpu::open_simulated());
    for metric in METRICS {
        for parts in [Parts::Rows, Parts::RowsAndCodes, Parts::Codes] {
            if metric == Metric::L1 && parts.codes() {
                continue; // which has none
            }
            let sizes = sizes(&mut rng, 30, 900);
            let fixture = Fixture::random(&mut rng, metric, 530, &sizes, Flavour::Plain);
            let tier = tier_with_room(&owner, &fixture, parts);
            let mapped = map(&other, tier.export().unwrap());
            assert_eq!(mapped.parts(), parts);
            assert_eq!(mapped.lists(), tier.lists());
            for (tier, what) in [(&mapped, "mapped"), (&tier, "its own"), (&mapped, "again")] {
                check_answers(&mut rng, &fixture, tier, &[3, 7], what);
            }
            assert_eq!(other.allocated(), 0, "the memory is not this one's");
            assert!(mapped.begin_refresh().is_err() && mapped.export().is_err());
        }
    }
    assert_eq!(owner.allocated(), 0);
}

#[test]
fn what_is_freed_is_not_taken_for_a_tier() {
    let mut rng = rng("what_is_freed_is_not_taken_for_a_tier");
    let (owner, other) = (Gpu::open_simulated(), Gpu::open_simulated());
    let fixture = Fixture::random(&mut rng, Metric::L2, 520, &[100, 80], Flavour::Plain);
    let tier = tier_with_room(&owner, &fixture, Parts::Rows);
    let export = tier.export().unwrap();
    let mapped = map(&other, export.clone());
    let before = mapped.read_back().unwrap();
    drop(tier);
    // The test's own means to see that somebody has freed too early.
    let after = mapped.read_back().unwrap();
    assert_ne!(before.bytes(), after.bytes());
    assert!(Tier::map(&other, export.clone(), None, NO_LIMIT).is_err());
    let handle = MemoryHandle::default();
    assert!(Tier::map(&other, Export { handle, ..export }, None, NO_LIMIT).is_err());
}
