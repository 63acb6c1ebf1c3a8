//! Damaged pages: every verb ends, without panic, without absurd allocations, with a result or `Corrupt`.

mod store_world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::check::check;
use omen_ivf::count::count;
use omen_ivf::export::export_list;
use omen_ivf::fold::{fold_list, vacuum_fold};
use omen_ivf::index::Index;
use omen_ivf::insert::insert;
use omen_ivf::layout::directory::entry_position;
use omen_ivf::mem_store::MemStore;
use omen_ivf::reclaim::reclaim;
use omen_ivf::scan_list::SearchStats;
use omen_ivf::search::search;
use omen_ivf::store::{PAGE_BYTES, PageStore};
use omen_ivf::{IvfError, Metric, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store_world::{World, read_all, seed, tid, vector};

/// Remembers the largest allocation.
struct Watch;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static WATCH: Watch = Watch;

/// Largest allocation that any verb may need for an index as small as the test's.
const MOST_BYTES: usize = 16 << 20;

fn acceptable<T>(result: Result<T>, what: &str) -> bool {
    match result {
        Ok(_) => true,
        Err(IvfError::Corrupt { .. } | IvfError::Version { .. }) => false,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Every verb once, in random order.
fn use_index(store: &MemStore, rng: &mut StdRng) -> u32 {
    let index = match Index::open(store) {
        Ok(index) => index,
        error => {
            acceptable(error, "open");
            return 1;
        }
    };
    let (mut n_errors, dim) = (0, index.meta.dim);
    for _ in 0..10 {
        let list = rng.random_range(0..index.n_lists().min(4));
        let ok = match rng.random_range(0..10) {
            0 => acceptable(read_all(store, &index), "read"),
            1 => acceptable(
                bulk_delete(store, &index, &mut |tid| tid.offset % 5 == 0),
                "bulk_delete",
            ),
            2 => acceptable(fold_list(store, &index, list), "fold_list"),
            3 => acceptable(vacuum_fold(store, &index), "vacuum_fold"),
            4 => acceptable(check(store, &index), "check"),
            5 => acceptable(count(store, &index), "count"),
            6 => acceptable(reclaim(store, &index, &mut |_| ()), "reclaim"),
            7 => acceptable(
                export_list(store, &index, list, &mut |_, _, _, _, _| ()),
                "export",
            ),
            8 => {
                let query = index.prepare(&vector(rng, dim)).unwrap();
                let (probes, k) = (rng.random_range(1..5), rng.random_range(1..300));
                acceptable(
                    search(
                        store,
                        &index,
                        &query,
                        probes,
                        k,
                        &mut SearchStats::default(),
                    ),
                    "search",
                )
            }
            _ => (0..rng.random_range(1..30u32)).all(|i| {
                acceptable(
                    insert(store, &index, &vector(rng, dim), tid(90_000 + i)),
                    "insert",
                )
            }),
        };
        n_errors += u32::from(!ok);
        assert_eq!(store.n_locks(), 0);
    }
    n_errors
}

/// A random byte offset, more often where structure is. Postgres's page header is left alone: the host checks it.
fn place(rng: &mut StdRng) -> usize {
    match rng.random_range(0..10) {
        0..4 => rng.random_range(PAGE_BYTES - 64..PAGE_BYTES),
        4..6 => entry_position(rng.random_range(0..4)).1 + rng.random_range(0..64),
        6 => rng.random_range(64..64 + 232),
        7 => rng.random_range(64..1024),
        _ => rng.random_range(64..PAGE_BYTES),
    }
}

#[test]
fn damaged_pages() {
    let seed = seed();
    for (dim, n) in [(3, 300), (100, 300), (700, 80), (4096, 12)] {
        let mut world = World::new(Metric::L2, dim, 4, n, seed);
        fold_list(&world.store, &world.index, 1).unwrap();
        for _ in 0..n {
            world.insert();
        }
        world.delete(0.1);
        fold_list(&world.store, &world.index, 2).unwrap();
        LARGEST.store(0, Ordering::Relaxed);
        let (mut n_errors, n_blocks) = (0, world.store.n_blocks().unwrap());
        for round in 0..500 {
            let mut rng = StdRng::seed_from_u64(seed ^ round);
            let store = world.store.snapshot();
            for _ in 0..rng.random_range(1..6) {
                // The metapage and the directory are two pages of many, but matter most.
                let block = if rng.random_bool(0.3) {
                    rng.random_range(0..2)
                } else {
                    rng.random_range(0..n_blocks)
                };
                let at = place(&mut rng);
                let value = match rng.random_range(0..4) {
                    0 => 0,
                    1 => 0xFF,
                    _ => rng.random(),
                };
                store.damage(block, |page| page[at] = value);
            }
            n_errors += u32::from(use_index(&store, &mut rng) > 0);
            assert!(store.n_reads() < 400_000, "{} reads", store.n_reads());
        }
        let largest = LARGEST.load(Ordering::Relaxed);
        println!(
            "dim {dim}: {n_errors} of 500 damages noticed, largest allocation {largest} bytes"
        );
        println!("figures: 500 bad inputs tried");
        assert!(n_errors > 50);
        assert!(largest < MOST_BYTES, "an allocation of {largest} bytes");
    }
}

#[test]
fn wrong_magic_and_version() {
    let world = World::new(Metric::L2, 8, 2, 10, seed());
    let open_with = |at: usize, value: u32| {
        let store = world.store.snapshot();
        store.damage(0, |page| {
            page[at..at + 4].copy_from_slice(&value.to_ne_bytes())
        });
        Index::open(&store).map(drop)
    };
    assert!(matches!(
        open_with(64, 0x1234),
        Err(IvfError::Corrupt { block: 0, .. })
    ));
    assert_eq!(
        open_with(68, 2),
        Err(IvfError::Version {
            found: 2,
            supported: 1
        })
    );
    assert_eq!(
        open_with(68, 0),
        Err(IvfError::Version {
            found: 0,
            supported: 1
        })
    );
    assert!(matches!(
        Index::open(&MemStore::new()),
        Err(IvfError::Corrupt { block: 0, .. })
    ));
}

/// Pages swapped or copied as a whole keep a valid look, but are not where they belong.
#[test]
fn misplaced_pages() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new(Metric::L2, 100, 4, 400, seed);
    for _ in 0..100 {
        world.insert();
    }
    for _ in 0..400 {
        let store = world.store.snapshot();
        let n_blocks = store.n_blocks().unwrap();
        let (from, to) = (rng.random_range(0..n_blocks), rng.random_range(0..n_blocks));
        let image = store.read(from, |page| page.to_vec()).unwrap();
        store.damage(to, |page| page.copy_from_slice(&image));
        use_index(&store, &mut rng);
        assert!(store.n_reads() < 400_000);
    }
}
