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
                n_queries: 1,
            })
            .collect();
        ready.shuffle(&mut rng);
        let (max, last) = (rng.random_range(1..70), rng.random_range(0..50));
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

#[test]
fn a_request_of_many_queries_counts_as_many_turns() {
    let mut rng = rng("a_request_of_many_queries_counts_as_many_turns");
    for _ in 0..2000 {
        let (n_roles, n) = (rng.random_range(1..6), rng.random_range(0..60));
        let (most, max) = (rng.random_range(1..130), rng.random_range(1..260));
        let mut ready: Vec<Ready> = (0..n)
            .map(|i| Ready {
                slot: i,
                ticket: u64::from(i) * 3 + 1,
                role: rng.random_range(0..n_roles),
                n_queries: rng.random_range(1..=most),
            })
            .collect();
        ready.shuffle(&mut rng);
        let last = rng.random_range(0..6);
        let chosen = choose(ready.clone(), max, last);
        let n_queries = |of: &[Ready]| of.iter().map(|r| r.n_queries).sum::<usize>();
        assert_eq!(chosen.is_empty(), ready.is_empty());
        assert!(n_queries(&chosen) <= max || chosen.len() == 1);
        let of_role = |from: &[Ready], role: u32| -> Vec<Ready> {
            from.iter().filter(|r| r.role == role).copied().collect()
        };
        let total = n_queries(&chosen);
        // Of each role: what it had, its last request, what it would have had next.
        let roles: Vec<(usize, usize, Option<usize>)> = (0..n_roles)
            .map(|role| {
                let (mine, mut all) = (of_role(&chosen, role), of_role(&ready, role));
                all.sort_unstable_by_key(|r| r.ticket);
                assert_eq!(mine, all[..mine.len()], "the oldest first");
                let last = mine.last().map_or(0, |r| r.n_queries);
                let next = all.get(mine.len()).map(|r| r.n_queries);
                (n_queries(&mine), last, next)
            })
            .collect();
        let fits = |next: usize| total + next <= max;
        let begins_with = |&(had, _, next): &(usize, usize, Option<usize>)| {
            had == 0 && next.is_some_and(|next| !fits(next))
        };
        let is_next_time = roles.iter().any(begins_with);
        for &(had, _, next) in &roles {
            let Some(next) = next else { continue };
            assert!(is_next_time || !fits(next), "what fits is taken");
            let is_turn_of = |&(other, last, _): &(usize, usize, _)| other - last <= had;
            assert!(!fits(next) || roles.iter().all(is_turn_of), "in turns");
        }
    }
}

#[test]
fn no_role_waits_for_requests_of_many_queries() {
    // Role 10 never lacks large requests; the others ask for one query, or for as many as fit.
    for (role, n_queries) in [(5, 1), (11, 1), (11, 128), (5, 128)] {
        let region = Region::with_queue(100, 64);
        let queue = region.queue(0);
        queue.set_server_up(true);
        let ask = |owner: u32, role: u32, n_queries: u32| {
            let mut claim = claim(&queue, owner, role).unwrap();
            claim.set_queries(n_queries);
            let _ = claim.submit(|| ());
        };
        for _ in 0..30 {
            ask(1, 10, 100);
        }
        let _ = queue
            .take_ready(200)
            .into_iter()
            .map(|t| queue.answer(t, |_| 0, |_| ()))
            .count();
        ask(2, role, n_queries);
        let mut n_rounds = 0;
        loop {
            n_rounds += 1;
            ask(1, 10, 100);
            ask(1, 10, 100);
            let taken = queue.take_ready(256);
            assert!(taken.iter().map(|t| t.n_queries()).sum::<usize>() <= 256);
            let mine = taken.iter().find(|t| t.role() == role);
            assert!(mine.is_none_or(|t| (t.owner(), t.n_queries()) == (2, n_queries as usize)));
            let is_there = mine.is_some();
            for taken in taken {
                queue.answer(taken, |_| 0, |_| ());
            }
            if is_there {
                break;
            }
        }
        assert!(
            n_rounds <= 2,
            "role {role}, {n_queries} queries: {n_rounds} rounds"
        );
    }
}

#[test]
fn what_a_client_says_of_its_queries_has_limits() {
    let region = Region::with_queue(8, 64);
    let queue = region.queue(0);
    queue.set_server_up(true);
    for (says, counts) in [(0, 1), (1, 1), (128, 128), (129, 128), (u32::MAX, 128)] {
        let mut claim = claim(&queue, 1, 0).unwrap();
        claim.set_queries(says);
        let _ = claim.submit(|| ());
        let taken = queue.take_ready(1).pop().unwrap();
        assert_eq!(taken.n_queries(), counts);
        queue.answer(taken, |_| 0, |_| ());
        queue.release_all_of(1);
        // The next one counts for itself.
        let _ = omen_service::client::claim(&queue, 1, 0)
            .unwrap()
            .submit(|| ());
        let taken = queue.take_ready(1).pop().unwrap();
        assert_eq!(taken.n_queries(), 1);
        queue.answer(taken, |_| 0, |_| ());
        queue.release_all_of(1);
    }
    assert_eq!(queue.n_free(), 8);
}
