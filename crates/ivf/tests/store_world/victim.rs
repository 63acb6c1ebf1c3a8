//! An index to be damaged, byte by byte, behind the check's back.

use omen_ivf::Metric;
use omen_ivf::check::{CheckReport, check};
use omen_ivf::index::{Index, read_entry};
use omen_ivf::layout::directory::{ListEntry, entry_position, get_entry, put_entry};
use omen_ivf::layout::group::{GROUP, GroupHeader, HEADER_LINES};
use omen_ivf::layout::page::{self, CONTENT_BYTES, CONTENT_START, LINE_BYTES, PageKind};
use omen_ivf::mem_store::MemStore;
use omen_ivf::store::PageStore;
use rand::Rng;

use super::{World, seed};

/// Lists of the worlds here.
pub const LISTS: u32 = 5;
const METRICS: [Metric; 4] = [Metric::L2, Metric::NegIp, Metric::Cosine, Metric::L1];

/// An index that has been through something: lists that were folded, appended and dead entries.
pub fn worn(metric: Metric, dim: u32, seed: u64) -> World {
    let mut world = World::new(metric, dim, LISTS, 300, seed);
    for _ in 0..40 {
        world.insert();
    }
    world.fold();
    world.delete(0.1);
    for _ in 0..40 {
        world.insert();
    }
    world.delete(0.05);
    world.verify();
    world
}

/// A copy of the world's store, to be damaged, and the report on it afterwards.
pub struct Victim<'a> {
    pub world: &'a mut World,
    pub store: MemStore,
}

impl<'a> Victim<'a> {
    pub fn of(world: &'a mut World) -> Self {
        let store = world.store.snapshot();
        Self { world, store }
    }

    pub fn entry(&self, list: u32) -> ListEntry {
        read_entry(&self.store, &self.world.index, list).unwrap()
    }

    /// A list of which this holds.
    pub fn list(&mut self, holds: impl Fn(&ListEntry) -> bool) -> u32 {
        let lists: Vec<u32> = (0..LISTS).filter(|&l| holds(&self.entry(l))).collect();
        lists[self.world.rng.random_range(0..lists.len())]
    }

    /// Changes the directory entry of a list.
    pub fn change(&self, list: u32, f: impl FnOnce(&mut ListEntry)) {
        let block = self.world.index.meta.directory.start;
        self.store.damage(block, |page| {
            let offset = entry_position(list).1;
            let mut entry = get_entry(page, offset);
            f(&mut entry);
            put_entry(page, offset, &entry);
        });
    }

    /// Blocks whose tail says this.
    pub fn blocks(&self, kind: PageKind, list: u32) -> Vec<u32> {
        let stamp = self.entry(list).layout_gen;
        let is_one = |&block: &u32| {
            let tail = self.store.read(block, page::tail).unwrap();
            (tail.kind, tail.list, tail.stamp) == (kind as u16, list, stamp)
        };
        let mut blocks: Vec<u32> = (0..self.store.n_blocks().unwrap()).filter(is_one).collect();
        blocks.sort_by_key(|&block| self.store.read(block, page::tail).unwrap().seq);
        blocks
    }

    /// Changes bytes of the code stream from byte `at` on, which may span pages.
    pub fn change_codes(&self, list: u32, at: usize, bytes: &[u8]) {
        let blocks = self.blocks(PageKind::Code, list);
        for (i, &byte) in bytes.iter().enumerate() {
            let at = at + i;
            self.store.damage(blocks[at / CONTENT_BYTES], |page| {
                page[CONTENT_START + at % CONTENT_BYTES] = byte;
            });
        }
    }

    pub fn codes(&self, list: u32, at: usize, n: usize) -> Vec<u8> {
        let blocks = self.blocks(PageKind::Code, list);
        let byte = |at: usize| {
            let block = blocks[at / CONTENT_BYTES];
            let get = |page: &[u8]| page[CONTENT_START + at % CONTENT_BYTES];
            self.store.read(block, get).unwrap()
        };
        (at..at + n).map(byte).collect()
    }

    /// Changes the header of the group of `slot`; `f` gets the entry's number in it.
    pub fn change_header(&self, list: u32, slot: u32, f: impl FnOnce(&mut GroupHeader, usize)) {
        let at = slot as usize / GROUP * self.world.index.meta.shape().bytes();
        let bytes = self.codes(list, at, HEADER_LINES * LINE_BYTES);
        let mut header: GroupHeader = bytemuck::pod_read_unaligned(&bytes);
        f(&mut header, slot as usize % GROUP);
        self.change_codes(list, at, bytemuck::bytes_of(&header));
    }

    /// A list and a live slot of its frozen part.
    pub fn live_slot(&mut self) -> (u32, u32) {
        let list = self.list(|entry| entry.frozen_count > entry.frozen_dead);
        loop {
            let slot = self
                .world
                .rng
                .random_range(0..self.entry(list).frozen_count);
            let mut is_live = false;
            self.change_header(list, slot, |header, i| {
                is_live = header.live & (1 << i) != 0
            });
            if is_live {
                return (list, slot);
            }
        }
    }

    pub fn report(&self) -> CheckReport {
        check(&self.store, &Index::open(&self.store).unwrap()).unwrap()
    }

    /// The check finds this, and little else.
    pub fn expect(&self, list: Option<u32>, what: &str) {
        let report = self.report();
        let says = |list_found: Option<u32>, text: &str| {
            text.contains(what) && (list.is_none() || list_found == list)
        };
        assert!(
            report.problems.iter().any(|f| says(f.list, &f.what)),
            "not found: {what}, of list {list:?}\n{:#?}",
            report.problems
        );
    }
}

/// Runs `damage` on a fresh copy of worn indexes of all kinds, several times.
pub fn each(dims: &[u32], mut damage: impl FnMut(&mut Victim)) {
    let seed = seed();
    for (i, &dim) in dims.iter().enumerate() {
        for (j, metric) in METRICS.into_iter().enumerate() {
            let mut world = worn(metric, dim, seed ^ (i * 3 + j) as u64);
            for _ in 0..5 {
                damage(&mut Victim::of(&mut world));
            }
        }
    }
}
