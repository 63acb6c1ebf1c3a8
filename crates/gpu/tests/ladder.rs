//! The ladder of a tier's memory: whatever the index and the budget, the rung fits, and nothing better does.

mod common;

use common::rng;
use omen_gpu::TierSpec;
use omen_gpu::memory::{LadderShape, Parts, Rung, TierPlan, rung, with_spare};
use omen_ivf::Metric;
use omen_ivf::layout::group::Filter;
use rand::Rng;

#[test]
fn the_best_rung_that_fits() {
    let mut rng = rng("the_best_rung_that_fits");
    let mut seen = [0; 4];
    for _ in 0..3000 {
        let n_lists = rng.random_range(0..40);
        let largest = 1 << rng.random_range(0..24);
        let sizes: Vec<u32> = (0..n_lists)
            .map(|_| rng.random_range(0..=largest))
            .collect();
        let dim = rng.random_range(1..2000);
        let shape = LadderShape {
            spec: TierSpec::of_vectors(Metric::L2, dim, n_lists),
            filter: [Filter::None, Filter::FourBit, Filter::OneBit][rng.random_range(0..3)],
            list_sizes: &sizes,
        };
        let budget = 1u64 << rng.random_range(10..40);
        let budget = rng.random_range(0..budget);
        let fits = |parts, n: u64| {
            TierPlan::new(&shape.spec, parts, with_spare(n))
                .is_ok_and(|plan| plan.bytes_needed() <= budget)
        };
        let parts = Parts::of(shape.filter);
        let all: u64 = sizes.iter().map(|&n| u64::from(n)).sum();
        let chosen = rung(&shape, budget);
        let what = format!("{shape:?}, {budget} bytes: {chosen:?}");
        assert_eq!(chosen == Rung::CodesAndRows, fits(parts, all), "{what}");
        match chosen {
            Rung::CodesAndRows => seen[0] += 1,
            Rung::CodesOnly => {
                assert!(parts.codes() && fits(Parts::Codes, all), "{what}");
                seen[1] += 1;
            }
            Rung::HottestLists { chosen, n_slots } => {
                assert!(!(parts.codes() && fits(Parts::Codes, all)), "{what}");
                assert!(n_slots > 0 && fits(parts, n_slots), "{what}");
                // Each list is there if and only if it fits beside those before it.
                let mut sum = 0;
                for (i, &n) in sizes.iter().enumerate() {
                    let there = chosen.contains(&i);
                    assert_eq!(there, fits(parts, sum + u64::from(n)), "{what}, list {i}");
                    sum += if there { u64::from(n) } else { 0 };
                }
                assert_eq!(sum, n_slots, "{what}");
                seen[2] += 1;
            }
            Rung::Nothing => {
                let least = sizes.iter().filter(|&&n| n > 0).min();
                let least = least.map_or(0, |&n| u64::from(n));
                assert!(!fits(parts, least), "{what}");
                seen[3] += 1;
            }
        }
    }
    assert!(seen.iter().all(|&n| n > 0), "rungs seen: {seen:?}");
}
