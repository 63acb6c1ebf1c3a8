//! Lists of a server's tiers are refreshed, and sessions tell what they know of them, late or not.

#[path = "../../gpu/tests/common/mod.rs"]
mod gpu;
#[path = "common/mod.rs"]
mod region;
mod serving;

use gpu::{Fixture, Flavour, check_answers};
use omen_gpu::memory::Parts;
use omen_gpu::{Copiers, Gpu, Refresh, Tier, TierBuilder, TierList};
use omen_ivf::Metric;
use omen_service::message::{STALE, StaleList};
use region::rng;
use serving::{Reply, World, key, request_of};
use std::time::Duration;

/// Writes a list again as it is, at these generations.
fn write(
    refresh: Refresh,
    fixture: &Fixture,
    list: u32,
    (layout_gen, delete_gen): (u32, u32),
) -> Vec<Option<TierList>> {
    let mut builder = TierBuilder::refresh(refresh, Copiers::none()).unwrap();
    let entries = &fixture.lists[list as usize];
    builder.begin_list(list);
    for (slot, e) in entries.iter().enumerate() {
        builder.push(slot as u32, e.tid, e.live, e.err, &e.row);
    }
    let n = entries.len() as u32;
    builder.end_list(n, layout_gen, delete_gen).unwrap();
    builder.end().unwrap().lists
}

#[test]
fn the_first_of_two_refreshes_counts_and_old_news_do_not() {
    let mut rng = rng("the_first_of_two_refreshes_counts_and_old_news_do_not");
    let gpu = Gpu::open_simulated();
    let fixture = Fixture::random(&mut rng, Metric::L2, 20, &[60; 8], Flavour::Plain);
    let tier = fixture.load_into(&gpu, Parts::Rows, 1000, 1 << 32).unwrap();
    let mut world = World::new(4, 64 << 10, gpu.clone());
    assert!(world.server.begin_refresh(&key(1)).is_none());
    world.server.insert(key(1), tier);

    // Both take the same slots.
    let (number, first) = world.server.begin_refresh(&key(1)).unwrap();
    let (again, second) = world.server.begin_refresh(&key(1)).unwrap();
    let lists = write(first, &fixture, 2, (5, 7));
    let late = write(second, &fixture, 3, (5, 7));
    let server = &mut world.server;
    assert_eq!(server.end_refresh(&key(2), number, lists.clone()), None);
    assert_eq!(server.end_refresh(&key(1), number, lists), Some(1));
    assert_eq!(server.end_refresh(&key(1), again, late), None);
    let here = server.tier(&key(1)).unwrap().lists()[2].unwrap();
    assert_eq!((here.layout_gen, here.delete_gen), (5, 7));

    let query = &fixture.queries(&mut rng, 1, 1).items[0];
    let request = request_of(key(1), query);
    for (layout_gen, delete_gen, is_stale) in [
        (4, u32::MAX, false),
        (5, 6, false),
        (5, 7, false),
        (5, 8, true),
        (5, 7, true),
    ] {
        let told = StaleList {
            list: 2,
            layout_gen,
            delete_gen,
            // Of a list without appended entries this says nothing.
            append_delete_gen: 9,
        };
        let waiting = world.ask(0, &request, query, &[told]);
        let served = world
            .server
            .serve(Duration::from_secs(60), &mut || (), &mut |_| ());
        assert_eq!(served.n_requests, 1);
        let reply = Reply::of(waiting);
        let of_list = reply.lists.iter().find(|l| l.list == 2).unwrap();
        let expected = if is_stale { (0, STALE) } else { (5, 7) };
        assert_eq!((of_list.layout_gen, of_list.delete_gen), expected);
        assert_eq!(world.server.uses()[0].n_stale, usize::from(is_stale));
    }
    // Written again it counts again.
    let (number, refresh) = world.server.begin_refresh(&key(1)).unwrap();
    let lists = write(refresh, &fixture, 2, (5, 8));
    assert_eq!(world.server.end_refresh(&key(1), number, lists), Some(1));
    assert_eq!(world.server.uses()[0].n_stale, 0);
    world.end();
}

#[test]
fn what_is_mapped_is_not_freed() {
    let mut rng = rng("what_is_mapped_is_not_freed");
    let gpu = Gpu::open_simulated();
    let mut fixture = Fixture::random(&mut rng, Metric::L2, 20, &[60; 8], Flavour::Plain);
    fixture.keep_centroids();
    let load = || fixture.load_into(&gpu, Parts::Rows, 1000, 1 << 32).unwrap();
    let mut world = World::new(4, 64 << 10, gpu.clone());
    let server = &mut world.server;
    assert!(server.export(&key(1)).is_none());
    server.insert(key(1), load());
    let (first, export) = server.export(&key(1)).unwrap();
    assert_eq!(server.uses()[0].number, first);
    let other = Gpu::open_simulated();
    let mapped = Tier::map(&other, export, None, 1 << 32).unwrap();
    let one = server.bytes();
    // Replaced, then given up: both may be mapped still.
    server.insert(key(1), load());
    let (second, _) = server.export(&key(1)).unwrap();
    assert!(second != first && server.retired_bytes() == one && server.bytes() == 2 * one);
    server.remove_where(|_| true);
    assert_eq!(
        (server.retired_bytes(), server.keys().count()),
        (2 * one, 0)
    );
    server.free_unmapped(|k, number| *k == key(1) && number == first);
    assert_eq!((server.retired_bytes(), gpu.allocated()), (one, one));
    check_answers(
        &mut rng,
        &fixture,
        &mapped,
        &[2],
        "of a tier that was given up",
    );
    drop(mapped);
    server.free_unmapped(|_, _| false);
    assert_eq!((server.bytes(), gpu.allocated()), (0, 0));
    // What never was exported is freed at once.
    server.insert(key(1), load());
    server.insert(key(1), load());
    assert_eq!(gpu.allocated(), one);
    server.remove_where(|_| true);
    assert_eq!(gpu.allocated(), 0);
    world.end();
}
