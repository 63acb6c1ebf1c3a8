//! Each kind of damage to pages and chains, at a random place, is found by the check and named.

mod store_world;

use half::f16;
use omen_ivf::Metric;
use omen_ivf::index::Index;
use omen_ivf::layout::append;
use omen_ivf::layout::group::Filter;
use omen_ivf::layout::meta::{CalibrationPoint, get_meta, put_meta};
use omen_ivf::layout::page::{self, CONTENT_START, PageKind, TAIL_START};
use omen_ivf::store::{NO_BLOCK, PAGE_BYTES, PageStore};
use rand::Rng;
use store_world::victim::{LISTS, Victim, each};
use store_world::{World, seed};

#[test]
fn owners_of_pages() {
    each(&[3, 700, 4096], |v| {
        let list = v.list(|entry| entry.frozen_count > 0);
        let kind = [PageKind::Code, PageKind::Vector][v.world.rng.random_range(0..2)];
        let blocks = v.blocks(kind, list);
        let block = blocks[v.world.rng.random_range(0..blocks.len())];
        let field = v.world.rng.random_range(0..5);
        v.store.damage(block, |page| {
            let mut tail = page::tail(page);
            match field {
                0 => tail.list = (tail.list + 1) % LISTS,
                1 => tail.stamp += 1,
                2 => tail.seq += 1,
                3 => tail.kind = PageKind::Append as u16,
                _ => tail.page_id ^= 0x100,
            }
            page::set_tail(page, &tail);
        });
        v.expect(Some(list), "of kind");
        assert!(v.report().unread_lists == 1);
    });
}

#[test]
fn headers_of_pages() {
    each(&[3, 700], |v| {
        let list = v.list(|entry| entry.frozen_count > 0);
        let block = v.blocks(PageKind::Vector, list)[0];
        let kept = v.store.read(block, |page| page.to_vec()).unwrap();
        let n_bytes = page::content_bytes(&kept);
        let less = v.world.rng.random_range(1..=n_bytes);
        v.store
            .damage(block, |page| page::set_content_bytes(page, n_bytes - less));
        v.expect(Some(list), "bytes of content");
        v.store.damage(block, |page| {
            page.copy_from_slice(&kept);
            page[16] ^= 8;
        });
        v.expect(Some(list), "header");
        v.store.damage(block, |page| {
            page.copy_from_slice(&kept);
            let tail = page::PageTail {
                next: 1,
                ..page::tail(page)
            };
            page::set_tail(page, &tail);
        });
        v.expect(Some(list), "a page that follows");
    });
}

#[test]
fn generations() {
    each(&[3, 100], |v| {
        let list = v.list(|entry| entry.frozen_count > 0);
        let has_map = v.entry(list).map_head != NO_BLOCK;
        v.change(list, |entry| entry.layout_gen += 1);
        let what = if has_map {
            "the map pages"
        } else {
            "with stamp"
        };
        v.expect(Some(list), what);
    });
    each(&[3], |v| {
        let list = v.list(|entry| entry.frozen_dead > 0);
        v.change(list, |entry| entry.delete_gen = 0);
        v.expect(Some(list), "deletion generation is 0");
    });
}

#[test]
fn pages_of_nobody() {
    each(&[3], |v| {
        let list = v.list(|entry| entry.frozen_count > 0);
        let block = v.blocks(PageKind::Vector, list)[0];
        let image = v.store.read(block, |page| page.to_vec()).unwrap();
        let is_free = |&block: &u32| v.store.read(block, page::is_free).unwrap();
        let free = (0..v.store.n_blocks().unwrap()).find(is_free).unwrap();
        // As a crash leaves it.
        v.store.damage(free, |page| page.copy_from_slice(&image));
        let report = v.report();
        assert!(report.is_sound() && report.leaked_pages == 1, "{report:?}");
        let put = |what: &str, change: &dyn Fn(&mut page::PageTail)| {
            v.store.damage(free, |page| {
                let mut tail = page::tail(&image);
                change(&mut tail);
                page::set_tail(page, &tail);
            });
            v.expect(None, what);
        };
        put("whose layout is", &|tail| tail.stamp += 2);
        put("nothing refers to it", &|tail| tail.kind = 77);
        put("nothing refers to it", &|tail| {
            tail.kind = PageKind::Directory as u16
        });
        put("nothing refers to it", &|tail| tail.list = LISTS);
        v.store.damage(free, |page| page.fill(0));
        assert!(v.report().is_sound());
        v.store.damage(free, |page| page[PAGE_BYTES / 2] = 1);
        v.expect(None, "yet is not empty");
    });
}

#[test]
fn pages_used_twice() {
    // Its own overflow pages are another record's too.
    let seed = seed();
    let mut world = World::new(Metric::L2, 4100, 1, 5, seed);
    for _ in 0..4 {
        world.insert();
    }
    let v = Victim::of(&mut world);
    let block = v.entry(0).append_head;
    v.store.damage(block, |page| {
        let payload = append::payload(page, append::record_offset(0, 4100), 4100).to_vec();
        let header = append::get_header(page, append::record_offset(1, 4100));
        append::put_record(page, append::record_offset(1, 4100), &header, &payload);
    });
    v.expect(Some(0), "used twice");
}

#[test]
fn chains() {
    each(&[3, 1100], |v| {
        // A thousand dimensions: three records a page.
        for _ in 0..30 {
            v.world.insert();
        }
        v.store = v.world.store.snapshot();
        let list = v.list(|entry| entry.append_pages > 0);
        let entry = v.entry(list);
        v.change(list, |entry| entry.append_pages += 1);
        v.expect(Some(list), "append chain of");
        v.change(list, |entry| entry.append_pages = u32::MAX);
        v.expect(Some(list), "more than the file has");
        v.change(list, |now| *now = entry);
        let blocks = v.blocks(PageKind::Append, list);
        let block = blocks[v.world.rng.random_range(0..blocks.len())];
        let kept = v.store.read(block, |page| page.to_vec()).unwrap();
        let tail = page::tail(&kept);
        let put = |what: &str, tail: page::PageTail| {
            v.store.damage(block, |page| page::set_tail(page, &tail));
            v.expect(Some(list), what);
        };
        put(
            "records in",
            page::PageTail {
                n_records: tail.n_records - 1,
                ..tail
            },
        );
        put(
            "records in",
            page::PageTail {
                n_records: tail.n_records + 1,
                ..tail
            },
        );
        put(
            "of kind",
            page::PageTail {
                seq: tail.seq + 1,
                ..tail
            },
        );
        if blocks.len() > 1 && block != entry.append_tail {
            put(
                "append chain of",
                page::PageTail {
                    next: u32::MAX,
                    ..tail
                },
            );
            put(
                "of kind",
                page::PageTail {
                    next: block,
                    ..tail
                },
            );
        }
        v.store.damage(block, |page| {
            page.copy_from_slice(&kept);
            page[CONTENT_START + 6] = 7;
        });
        v.expect(Some(list), "is live 7 times");
        v.store.damage(block, |page| {
            page.copy_from_slice(&kept);
            page[CONTENT_START + 12] = 1;
        });
        v.expect(Some(list), "has 1 overflow pages");
    });
}

#[test]
fn metapage_and_centroids() {
    each(&[3, 100], |v| {
        let root = v.world.index.meta.root;
        let at = CONTENT_START + 2 * v.world.rng.random_range(0..v.world.index.dim());
        v.store.damage(root.vector_run.start, |page| {
            page[at..at + 2].copy_from_slice(&f16::from_f32(3000.0).to_ne_bytes());
        });
        v.expect(Some(page::ROOT_LIST), "radius");
        if v.world.index.meta.shape().filter != Filter::None {
            v.expect(Some(page::ROOT_LIST), "the codes of group");
        }
    });
    each(&[3], |v| {
        let point = |probes, recall_10, recall_100| CalibrationPoint {
            probes,
            recall_10,
            recall_100,
        };
        for (queries, bad) in [
            (0, point(1, 0.5, -1.0)),
            (9, point(0, 0.5, 0.5)),
            (9, point(LISTS + 1, 0.5, 0.5)),
            (9, point(1, 1.5, 0.5)),
        ] {
            v.store.damage(0, |page| {
                let mut meta = get_meta(page).unwrap();
                meta.calibration_queries = queries;
                meta.calibration_points = 1;
                meta.calibration[0] = bad;
                put_meta(page, &meta);
            });
            v.expect(None, "calibration");
        }
        v.store.damage(0, |page| {
            let mut meta = get_meta(page).unwrap();
            (meta.calibration_points, meta.rounding) = (0, 0.25);
            put_meta(page, &meta);
        });
        v.expect(None, "rounding");
        let directory = v.world.index.meta.directory.start;
        v.store.damage(directory, |page| page[TAIL_START] ^= 1);
        v.expect(None, "not page 0 of kind Directory");
        // Told to whoever opens the index, the check too.
        v.store.damage(0, |page| {
            let mut meta = get_meta(page).unwrap();
            (meta.calibration_queries, meta.calibration_points) = (9, 1);
            meta.calibration[0] = point(1, 0.5, f32::NAN);
            put_meta(page, &meta);
        });
        let error = Index::open(&v.store).unwrap_err().to_string();
        assert!(error.contains("calibration point"), "{error}");
    });
}
