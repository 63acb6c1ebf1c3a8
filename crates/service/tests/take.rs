//! Which of the ready requests are taken: by turns between roles, the oldest first, nobody forgotten.

mod common;

use common::{Region, rng};
use omen_service::client::claim;
use omen_service::take::{Ready, choose};
use rand::Rng;
use rand::seq::SliceRandom;
use std::collections::HashMap;

#[test]
fn roles_get_equal_shares_oldest_first() {
    let mut rng = rng("roles_get_equal_shares_oldest_first");
    for _ in 0..2000 {
        let n_roles = rng.random_range(1..6);
        let n = rng.random_range(0..60);
        let mut ready: Vec<Ready> = (0..n)
            .map(|i| Ready {
                slot: i,
                ticket: u64::from(i) * 3 + 1,
                role: rng.random_range(0..n_roles) * 7,
            })
            .collect();
        ready.shuffle(&mut rng);
        let (max, last) = (rng.random_range(0..70), rng.random_range(0..50));
        let chosen = choose(ready.clone(), max, last);
        assert_eq!(chosen.len(), ready.len().min(max));
        let (mut there, mut got) = (HashMap::new(), HashMap::new());
        ready
            .iter()
            .for_each(|r| *there.entry(r.role).or_insert(0) += 1);
        chosen
            .iter()
            .for_each(|r| *got.entry(r.role).or_insert(0) += 1);
        for (role, there) in &there {
            let mine = got.get(role).copied().unwrap_or(0);
            let oldest = {
                let mut all: Vec<u64> = ready
                    .iter()
                    .filter(|r| r.role == *role)
                    .map(|r| r.ticket)
                    .collect();
                all.sort_unstable();
                all.truncate(mine);
                all
            };
            let tickets: Vec<u64> = chosen
                .iter()
                .filter(|r| r.role == *role)
                .map(|r| r.ticket)
                .collect();
            assert_eq!(tickets, oldest);
            let most = got.values().max().copied().unwrap_or(0);
            assert!(
                mine == *there || mine + 1 >= most,
                "role {role} got {mine} of {there}, another {most}"
            );
        }
    }
}

#[test]
fn a_role_with_one_request_does_not_wait_for_one_with_many() {
    for max in [1, 2, 5] {
        let region = Region::with_queue(100, 64);
        let queue = region.queue(0);
        queue.set_server_up(true);
        for _ in 0..60 {
            let _ = claim(&queue, 1, 10).unwrap().submit(|| ());
        }
        let mut rounds = Vec::new();
        for role in [11, 5] {
            let _ = claim(&queue, 2, role).unwrap().submit(|| ());
            // The busy role never lacks requests.
            let mut n = 0;
            loop {
                n += 1;
                let taken = queue.take_ready(max);
                assert_eq!(taken.len(), max);
                let is_there = taken.iter().any(|t| t.role() == role);
                for taken in taken {
                    queue.answer(taken, |_| 0, |_| ());
                }
                if is_there {
                    break;
                }
            }
            rounds.push(n);
        }
        assert!(rounds.iter().all(|n| *n <= 2), "max {max}: {rounds:?}");
    }
}
