//! Rounds of a batch: every row meets every query that asks for it, once, and rounds fit the room.

use omen_gpu::launch::scan::Width;
use omen_gpu::memory::{cap_for, keep_for};
use omen_gpu::plan::{Piece, Room, Walk, pieces_of, plan_rounds};
use omen_ivf::Metric;

/// Every (slot, query) pair asked for comes exactly once; returns the rows of each query's rounds.
fn check(pieces: &[Piece], walks: &[Walk], room: Room, tensor_cores: bool) -> Vec<Vec<usize>> {
    let planned = plan_rounds(pieces, walks, room, Width::all(Metric::L2, tensor_cores));
    let mut met = std::collections::HashMap::new();
    let mut rows = vec![vec![0; planned.rounds.len()]; walks.len()];
    for (r, round) in planned.rounds.iter().enumerate() {
        for launch in round {
            for item in &planned.items[launch.first_item..launch.first_item + launch.n_items] {
                assert!(item.n_rows >= 1 && item.n_rows as usize <= launch.width.rows());
                assert!(item.n_queries >= 1 && item.n_queries as usize <= launch.width.queries());
                for i in item.first_query..item.first_query + u32::from(item.n_queries) {
                    let q = planned.group[i as usize];
                    rows[q as usize][r] += item.n_rows as usize;
                    for slot in item.first_slot..item.first_slot + u32::from(item.n_rows) {
                        *met.entry((q, slot)).or_insert(0) += 1;
                    }
                }
            }
        }
    }
    let mut asked = 0;
    for (q, walk) in walks.iter().enumerate() {
        for &p in &walk.pieces {
            let piece = pieces[p as usize];
            asked += piece.n_rows as usize;
            for slot in piece.first_slot..piece.first_slot + piece.n_rows {
                assert_eq!(
                    met.get(&(q as u32, slot)),
                    Some(&1),
                    "query {q} slot {slot}"
                );
            }
        }
    }
    assert_eq!(met.len(), asked);
    rows
}

#[test]
fn every_row_meets_every_query_once_and_rounds_fit() {
    let mut pieces = Vec::new();
    let mut slot = 0;
    for n in [1, 300, 5000, 128, 129, 20_000, 4096] {
        pieces.extend(pieces_of(slot, n));
        slot += n;
    }
    let all: Vec<u32> = (0..pieces.len() as u32).collect();
    for n_queries in [1, 5, 41] {
        let walks: Vec<Walk> = (0..n_queries)
            .map(|q| {
                let walk: Vec<u32> = all
                    .iter()
                    .map(|&p| (p + q) % pieces.len() as u32)
                    .filter(|p| (p + q) % 3 != 0 && (n_queries < 40 || q % 8 == 0 || *p < 2))
                    .collect();
                let n_rows = walk
                    .iter()
                    .map(|&p| pieces[p as usize].n_rows as usize)
                    .sum();
                Walk {
                    pieces: walk,
                    n_rows,
                }
            })
            .collect();
        for (k, guaranteed) in [(1, false), (1000, false), (1, true), (1000, true)] {
            let keep = keep_for(k);
            let room = Room {
                keep,
                cap: cap_for(keep),
                guaranteed,
            };
            for tensor_cores in [true, false] {
                for rounds in check(&pieces, &walks, room, tensor_cores) {
                    assert!(rounds[0] <= room.cap, "the first round has no threshold");
                    assert!(!guaranteed || rounds.iter().all(|&n| n <= room.cap - keep));
                }
            }
        }
    }
}

#[test]
fn rounds_grow() {
    let pieces: Vec<Piece> = pieces_of(0, 1_000_000).collect();
    let walks = vec![Walk {
        pieces: (0..pieces.len() as u32).collect(),
        n_rows: 1_000_000,
    }];
    let room = Room {
        keep: 74,
        cap: cap_for(74),
        guaranteed: false,
    };
    let planned = plan_rounds(&pieces, &walks, room, Width::all(Metric::L2, true));
    assert!(planned.rounds.len() <= 4, "{} rounds", planned.rounds.len());
    assert!(
        plan_rounds(
            &pieces,
            &[Walk::default(), Walk::default()],
            room,
            Width::all(Metric::L1, true)
        )
        .rounds
        .is_empty()
    );
}
