//! Refreshing single lists of a tier, on the simulated device.

mod common;

use common::{
    Fixture, Flavour, check_answers, check_refresh_beside_searches, check_refreshes, rng,
    tier_with_room,
};
use omen_gpu::memory::Parts;
use omen_gpu::{Gpu, TierList};
use omen_ivf::Metric;

#[test]
fn refreshed_tiers_answer_as_tiers_loaded_anew() {
    let mut rng = rng("refreshed_tiers_answer_as_tiers_loaded_anew");
    check_refreshes(&mut rng, &Gpu::open_simulated(), 900);
}

#[test]
fn searches_go_on_while_lists_are_written() {
    let mut rng = rng("searches_go_on_while_lists_are_written");
    check_refresh_beside_searches(&mut rng, &Gpu::open_simulated());
}

#[test]
fn lists_that_do_not_fit_are_not_taken_over() {
    let mut rng = rng("lists_that_do_not_fit_are_not_taken_over");
    let gpu = Gpu::open_simulated();
    let fixture = Fixture::random(&mut rng, Metric::L2, 520, &[100, 80, 0], Flavour::Plain);
    let mut tier = tier_with_room(&gpu, &fixture, Parts::Rows);
    let before = tier.lists().to_vec();
    for (list, first_slot, n_slots) in [(0, 90, 100), (1, 0, 1), (2, 269, 2), (2, u32::MAX, 1)] {
        let mut lists = before.clone();
        lists[list] = Some(TierList {
            first_slot,
            n_slots,
            n_live: n_slots,
            n_room: n_slots,
            layout_gen: 2,
            delete_gen: 2,
            last_live: 0,
            appended: Default::default(),
        });
        assert!(tier.end_refresh(lists).is_err(), "list {list}");
        assert_eq!(tier.lists(), before);
    }
    assert!(tier.end_refresh(vec![None; 2]).is_err());
    check_answers(&mut rng, &fixture, &tier, &[], "as before");
    let held = gpu.allocated();
    let refresh = tier.begin_refresh().unwrap();
    assert_eq!(gpu.allocated(), held);
    drop(tier);
    assert_eq!(gpu.allocated(), held, "what is written to is there");
    drop(refresh);
    assert_eq!(gpu.allocated(), 0);
}
