//! Which tiers make room: the one unused for longest first, those that go last after all others, none in vain.

mod common;

use common::rng;
use omen_service::message::TierKey;
use omen_service::serve::{RoomWanted, TierUse, make_way};
use rand::Rng;
use std::time::{Duration, Instant};

fn key(number: u32) -> TierKey {
    TierKey {
        tablespace: 1,
        database: 2,
        number,
        index: number,
        seed: 3,
        built_at: 4,
    }
}

/// Tiers 0, 1, ... of so many bytes, the first unused for longest.
fn tiers(bytes: &[u64]) -> Vec<TierUse> {
    let start = Instant::now();
    let tier = |(i, bytes): (usize, &u64)| TierUse {
        key: key(i as u32),
        number: i as u64,
        bytes: *bytes,
        last_used: start + Duration::from_secs(i as u64),
        n_requests: 1,
        n_lists: 1,
        n_stale: 0,
        bytes_with_rows: None,
    };
    bytes.iter().enumerate().map(tier).collect()
}

fn wanted(number: u32, bytes: u64, displaces_last: bool) -> RoomWanted {
    RoomWanted {
        key: key(number),
        bytes,
        displaces_last,
        limit: 100,
        max_tiers: 5,
    }
}

#[test]
fn what_goes_last_goes_only_where_it_is_told_to() {
    let uses = tiers(&[30, 20, 30, 10]);
    let is_last = |key: &TierKey| matches!(key.number, 0 | 2);
    let way = |number, bytes, displaces| {
        let going = make_way(&uses, &wanted(number, bytes, displaces), is_last);
        going.map(|keys| keys.iter().map(|key| key.number).collect::<Vec<u32>>())
    };
    assert_eq!(way(9, 10, false), Some(vec![]));
    assert_eq!(way(9, 11, false), Some(vec![1]));
    assert_eq!(way(9, 40, false), Some(vec![1, 3]));
    assert_eq!(way(9, 41, false), None);
    assert_eq!(way(9, 41, true), Some(vec![1, 3, 0]));
    assert_eq!(way(9, 100, true), Some(vec![1, 3, 0, 2]));
    assert_eq!(way(9, 101, true), None);
    // A tier that is replaced stays if there is room for both; else it goes first, and only if there will be room.
    assert_eq!(way(2, 10, false), Some(vec![]));
    assert_eq!(way(2, 11, false), Some(vec![2]));
    assert_eq!(way(2, 40, false), Some(vec![2]));
    assert_eq!(way(2, 70, false), Some(vec![2, 1, 3]));
    assert_eq!(way(2, 71, false), None);
    assert_eq!(way(2, 71, true), Some(vec![2, 1, 3, 0]));
}

#[test]
fn no_more_tiers_than_there_may_be() {
    let uses = tiers(&[1, 1, 1, 1, 1]);
    let way = |number, is_last: fn(&TierKey) -> bool| {
        make_way(&uses, &wanted(number, 1, false), is_last).map(|keys| keys.len())
    };
    assert_eq!(way(9, |_| false), Some(1));
    assert_eq!(way(3, |_| true), Some(0));
    assert_eq!(way(9, |_| true), None);
}

#[test]
fn there_is_room_afterwards_and_no_tier_goes_for_nothing() {
    let mut rng = rng("there_is_room_afterwards_and_no_tier_goes_for_nothing");
    for _ in 0..3000 {
        let n = rng.random_range(0..6);
        let bytes: Vec<u64> = (0..n).map(|_| rng.random_range(1..40)).collect();
        let last: Vec<bool> = (0..n).map(|_| rng.random()).collect();
        let uses = tiers(&bytes);
        let asked = wanted(
            rng.random_range(0..8),
            rng.random_range(1..120),
            rng.random(),
        );
        let is_last = |key: &TierKey| last[key.number as usize];
        let stays = |going: &[TierKey]| {
            let here = uses.iter().filter(|tier| !going.contains(&tier.key));
            let n_other = |tier: &TierUse| usize::from(tier.key != asked.key);
            here.fold((0, 0), |(bytes, n), tier| {
                (bytes + tier.bytes, n + n_other(tier))
            })
        };
        let fits = |(bytes, n)| bytes + asked.bytes <= asked.limit && n < asked.max_tiers;
        match make_way(&uses, &asked, is_last) {
            Some(going) => {
                assert!(fits(stays(&going)));
                let others: Vec<&TierKey> = going.iter().filter(|k| **k != asked.key).collect();
                assert!(
                    going[..going.len() - others.len()]
                        .iter()
                        .all(|key| *key == asked.key)
                );
                assert!(asked.displaces_last || !others.iter().any(|key| is_last(key)));
                let order = |key: &TierKey| (is_last(key), key.number);
                assert!(others.windows(2).all(|k| order(k[0]) < order(k[1])));
                if !going.is_empty() {
                    assert!(!fits(stays(&going[..going.len() - 1])), "one too many");
                }
            }
            None => {
                let may_go =
                    |key: &TierKey| *key == asked.key || asked.displaces_last || !is_last(key);
                let going: Vec<TierKey> = uses.iter().map(|t| t.key).filter(may_go).collect();
                assert!(!fits(stays(&going)));
            }
        }
    }
}
