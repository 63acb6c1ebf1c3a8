//! Each kind of damage to entries and counts, at a random place, is found by the check and named.

mod store_world;

use half::f16;
use omen_ivf::append::append_entry;
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::coarse::nearest_list;
use omen_ivf::layout::group::{Filter, GROUP, HEADER_LINES};
use omen_ivf::layout::page::{CONTENT_START, LINE_BYTES, PageKind, ROOT_LIST};
use omen_ivf::list_reader::{ListReader, Visit};
use omen_ivf::{Metric, Tid};
use rand::Rng;
use store_world::victim::{LISTS, Victim, each, worn};
use store_world::{World, seed};

#[test]
fn counts() {
    each(&[3, 100], |v| {
        let list = v.list(|entry| entry.frozen_dead + 1 < entry.frozen_count);
        v.change(list, |entry| {
            entry.frozen_dead += 1;
            entry.delete_gen += 1;
        });
        v.expect(Some(list), "live entries, but");
    });
}

#[test]
fn live_bits() {
    each(&[3, 700], |v| {
        let (list, slot) = v.live_slot();
        v.change_header(list, slot, |header, i| header.live &= !(1 << i));
        v.expect(Some(list), "live entries, but");
    });
}

#[test]
fn bits_of_codes() {
    each(&[1, 64, 100, 700], |v| {
        let (list, slot) = v.live_slot();
        let shape = v.world.index.meta.shape();
        let first = slot as usize / GROUP * shape.bytes();
        let at = if shape.filter == Filter::None {
            // The factors, which are zero.
            v.world.rng.random_range(0..3 * LINE_BYTES)
        } else {
            v.world
                .rng
                .random_range(HEADER_LINES * LINE_BYTES..shape.bytes())
        };
        let byte = v.codes(list, first + at, 1)[0] ^ 1 << v.world.rng.random_range(0..8);
        v.change_codes(list, first + at, &[byte]);
        v.expect(Some(list), "the codes of group");
    });
}

#[test]
fn numbers_of_vectors() {
    each(&[3, 100], |v| {
        // Of these dimensions rows lie on one page.
        let list = v.list(|entry| entry.frozen_count > 0);
        let block = v.blocks(PageKind::Vector, list)[0];
        let at = CONTENT_START + 2 * v.world.rng.random_range(0..v.world.index.dim());
        v.store.damage(block, |page| {
            page[at..at + 2].copy_from_slice(&f16::NAN.to_ne_bytes());
        });
        v.expect(Some(list), "not finite");
        v.store.damage(block, |page| {
            page[at..at + 2].copy_from_slice(&f16::from_f32(3000.0).to_ne_bytes());
        });
        v.expect(Some(list), "radius");
    });
}

#[test]
fn radii_of_lists() {
    each(&[3, 100], |v| {
        let list = v.list(|entry| entry.radius > 0.0);
        let factor = v.world.rng.random_range(1.001..3.0f32);
        v.change(list, |entry| entry.radius *= factor);
        v.expect(Some(list), "radius");
        v.change(list, |entry| entry.radius = f32::NAN);
        v.expect(Some(list), "radius");
    });
}

#[test]
fn radii_of_entries() {
    each(&[3, 100, 700], |v| {
        let (list, slot) = v.live_slot();
        let good = v.report();
        assert!(good.is_sound(), "{:#?}", good.problems);
        let bad: &[f32] = match v.world.index.metric() {
            // Infinite ones are those of vectors that are very long or short.
            Metric::Cosine => &[-1.0, f32::NAN, 0.0, 1e12],
            Metric::L2 | Metric::L1 | Metric::Hamming | Metric::Jaccard => {
                &[-1.0, f32::NAN, 1e6, f32::INFINITY]
            }
            Metric::NegIp => &[-1.0, f32::NAN, 1e6, f32::INFINITY, 0.0],
        };
        for &err in bad {
            v.change_header(list, slot, |header, i| header.err[i] = err);
            v.expect(Some(list), "an error radius");
        }
    });
}

#[test]
fn heap_rows_twice() {
    each(&[3, 100], |v| {
        let (a, b) = loop {
            let pair = (v.live_slot(), v.live_slot());
            if pair.0 != pair.1 {
                break pair;
            }
        };
        let mut tid = Tid::default();
        v.change_header(a.0, a.1, |header, i| {
            tid = Tid::new(header.tid_block[i], header.tid_offset[i]);
        });
        v.change_header(b.0, b.1, |header, i| {
            (header.tid_block[i], header.tid_offset[i]) = (tid.block, tid.offset as u16);
        });
        v.expect(
            None,
            &format!("heap row ({},{}) occurs twice", tid.block, tid.offset),
        );
    });
}

/// The list with the farthest centroid.
fn farthest(v: &Victim, row: &[f16]) -> u32 {
    let row: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
    let lists: Vec<u32> = (0..LISTS).collect();
    let (index, mut far) = (&v.world.index, (f32::NEG_INFINITY, 0));
    let visit = ListReader::new()
        .read_rows(
            &v.store,
            index,
            ROOT_LIST,
            &index.meta.root,
            &lists,
            |list, centroid| {
                let l2sq = omen_distance::l2sq_f16(&row, centroid);
                if l2sq > far.0 {
                    far = (l2sq, list);
                }
            },
        )
        .unwrap();
    assert_eq!(visit, Visit::Done);
    far.1
}

#[test]
fn entries_in_a_wrong_list() {
    each(&[3, 100, 700], |v| {
        let i = v.world.rng.random_range(0..v.world.model.len());
        let stored = v.world.model.values().nth(i).unwrap().clone();
        let right = nearest_list(&v.store, &v.world.index, &stored.row).unwrap();
        // The farthest: of two that are as good as equally far both are right.
        let wrong = farthest(v, &stored.row);
        assert_ne!(right, wrong);
        let tid = Tid::new(4000, 1);
        append_entry(&v.store, &v.world.index, wrong, tid, &stored).unwrap();
        v.expect(Some(wrong), &format!("belongs to list {right}"));
    });
}

#[test]
fn a_hundred_findings_are_kept_and_all_counted() {
    let mut world = World::new(Metric::L2, 3, LISTS, 2000, seed());
    let v = Victim::of(&mut world);
    for list in 0..LISTS {
        for slot in 0..v.entry(list).frozen_count {
            v.change_header(list, slot, |header, i| header.err[i] = -1.0);
        }
    }
    let report = v.report();
    assert_eq!((report.problems.len(), report.n_findings), (100, 2000));
}

/// What was lost with all marks of a deletion shows only against the table.
#[test]
fn a_deleted_entry_is_sound() {
    let mut world = worn(Metric::L2, 3, seed());
    let v = Victim::of(&mut world);
    let tid = *v.world.model.keys().next().unwrap();
    bulk_delete(&v.store, &v.world.index, &mut |t| t == tid).unwrap();
    let report = v.report();
    assert!(report.is_sound());
    assert_eq!(
        report.frozen + report.appended,
        v.world.model.len() as u64 - 1
    );
}
