//! Figures of indexes: nothing is lost while there is room, and what is of least use makes way.

#![allow(unsafe_code)]

mod common;

use common::rng;
use omen_service::indexes::{By, Figures, Hot, Indexes, MAX_INDEXES, Searched};
use rand::Rng;
use std::alloc::{Layout, alloc_zeroed};
use std::collections::HashMap;
use std::sync::Barrier;

/// A table as shared memory has it: zeros.
fn table() -> Box<Indexes> {
    // SAFETY: of the type's layout, and zeros are a table.
    unsafe { Box::from_raw(alloc_zeroed(Layout::new::<Indexes>()).cast()) }
}

fn one(at: i64) -> Searched {
    Searched {
        n: 1,
        by: By::Cpu,
        is_call: false,
        fell_back: false,
        rows: 10,
        candidates: 500,
        at,
    }
}

#[test]
fn figures_are_those_that_were_noted() {
    let mut rng = rng("figures_are_those_that_were_noted");
    let table = table();
    assert_eq!(table.read(5), Figures::default());
    let mut wanted: HashMap<u64, Figures> = HashMap::new();
    for at in 1..20_000 {
        // Ids of one database are often consecutive, those of another differ in the upper half.
        let id = rng.random_range(1..3u64) << 32 | rng.random_range(16_000..16_400);
        let figures = wanted.entry(id).or_default();
        match rng.random_range(0..20) {
            0 => {
                table.note_load(id, at);
                figures.loads += 1;
                figures.loaded_at = at;
            }
            1 => {
                table.note_refresh(id, 7);
                figures.refreshes += 7;
            }
            _ => {
                let (n, is_call) = (rng.random_range(1..4), rng.random());
                let by = [By::Cpu, By::Gpu, By::Both][rng.random_range(0..3)];
                let searched = Searched {
                    n,
                    by,
                    is_call,
                    fell_back: rng.random(),
                    ..one(at)
                };
                table.note_search(id, &searched);
                match by {
                    By::Cpu => figures.by_cpu += n,
                    By::Gpu => figures.by_gpu += n,
                    By::Both => figures.by_both += n,
                }
                figures.fallbacks += if searched.fell_back { n } else { 0 };
                figures.calls += u64::from(is_call);
                figures.rows += 10;
                figures.candidates += 500;
                figures.searched_at = at;
            }
        }
    }
    for (id, figures) in &wanted {
        assert_eq!(table.read(*id), *figures, "{id:x}");
    }
    let id = *wanted.keys().next().unwrap();
    let hot = Hot {
        bytes: 1000,
        lists: 24,
        stale_lists: 3,
    };
    table.set_hot(&[(id, hot)]);
    table.reset();
    let reset = Figures {
        hot,
        ..Figures::default()
    };
    for other in wanted.keys() {
        let expected = if *other == id {
            reset
        } else {
            Figures::default()
        };
        assert_eq!(table.read(*other), expected);
    }
}

#[test]
fn what_is_hot_follows_the_server() {
    let table = table();
    let hot = |bytes| Hot {
        bytes,
        lists: bytes / 10,
        stale_lists: 1,
    };
    // Two files of one index, after REINDEX.
    table.set_hot(&[(7, hot(100)), (8, hot(50)), (7, hot(20))]);
    let both = Hot {
        bytes: 120,
        lists: 12,
        stale_lists: 2,
    };
    assert_eq!((table.read(7).hot, table.read(8).hot), (both, hot(50)));
    table.note_goes_last(7, true);
    table.note_goes_last(9, true);
    assert!(table.goes_last(7) && table.goes_last(9) && !table.goes_last(8));
    assert_eq!(table.last_bytes_beside(8), 120);
    assert_eq!(table.last_bytes_beside(7), 0);
    table.set_hot(&[(8, hot(50)), (9, hot(30))]);
    assert_eq!(table.read(7).hot, Hot::default());
    assert_eq!(table.last_bytes_beside(8), 30);
    table.note_goes_last(9, false);
    table.note_goes_last(10, false);
    assert!(!table.goes_last(9) && table.goes_last(7));
    assert_eq!(table.last_bytes_beside(8), 0);
}

#[test]
fn the_one_used_longest_ago_makes_way() {
    let table = table();
    let n = MAX_INDEXES as u64;
    for id in 1..=n {
        table.note_search(id, &one(id as i64));
    }
    assert!((1..=n).all(|id| table.read(id).by_cpu == 1));
    table.note_goes_last(2, true);
    // The oldest is hot, the next was loaded lately.
    table.set_hot(&[(
        1,
        Hot {
            bytes: 9,
            ..Hot::default()
        },
    )]);
    table.note_load(2, 5000);
    table.note_search(n + 1, &one(6000));
    assert_eq!(table.read(3), Figures::default());
    for id in [1, 2, 4, n + 1] {
        assert_eq!(table.read(id).by_cpu, 1, "{id}");
    }
    // It comes back in the place of the next, with nothing of what that had.
    table.note_refresh(4, 1);
    table.note_goes_last(4, true);
    table.note_search(3, &one(6001));
    assert_eq!(table.read(4), Figures::default());
    assert!(!table.goes_last(4) && !table.goes_last(3));
    let again = Figures {
        by_cpu: 1,
        rows: 10,
        candidates: 500,
        searched_at: 6001,
        ..Figures::default()
    };
    assert_eq!(table.read(3), again);
    // What the server has gets a place in any case.
    table.set_hot(&[(
        n + 2,
        Hot {
            bytes: 3,
            ..Hot::default()
        },
    )]);
    assert_eq!(table.read(n + 2).hot.bytes, 3);
    // Neither of these is an index.
    table.note_search(0, &one(1));
    table.note_search(u64::MAX, &one(1));
    assert_eq!(table.read(0), Figures::default());
}

#[test]
fn nothing_is_lost_among_many_writers() {
    let table = table();
    let (n_threads, n_searches, n_indexes) = (8, 2000, 40);
    let start = Barrier::new(n_threads);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                start.wait();
                for i in 0..n_searches {
                    // All threads meet at the same new index again and again.
                    table.note_search(1 + i % n_indexes, &one(1 + i as i64));
                }
            });
        }
    });
    for id in 1..=n_indexes {
        let wanted = n_threads as u64 * n_searches / n_indexes;
        assert_eq!(table.read(id).by_cpu, wanted, "index {id}");
    }
}

#[test]
fn a_full_table_under_many_writers_stays_one() {
    let table = table();
    let n = 2 * MAX_INDEXES as u64;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let table = &table;
            scope.spawn(move || {
                for i in 0..4 * n {
                    let id = 1 + (i * (2 * thread + 1)) % n;
                    table.note_search(id, &one(1 + i as i64));
                }
            });
        }
    });
    // No index has two places: what each has goes when it makes way.
    let known: Vec<u64> = (1..=n).filter(|&id| table.read(id).rows > 0).collect();
    assert!(known.len() <= MAX_INDEXES && known.len() > MAX_INDEXES / 2);
    for id in n + 1..=n + MAX_INDEXES as u64 {
        table.note_search(id, &one(1_000_000 + id as i64));
    }
    assert!((1..=n).all(|id| table.read(id) == Figures::default()));
}
