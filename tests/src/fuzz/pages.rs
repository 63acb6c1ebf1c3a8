//! Damaged pages: every verb of an index ends with a result or says that the index is damaged.

#[path = "../../../crates/ivf/tests/store_world/mod.rs"]
mod store_world;

mod damage;
mod kinds;
mod verbs;

use omen_ivf::Metric;
use omen_ivf::fold::fold_list;
use omen_ivf::layout::group::Filter;
use omen_ivf::layout::page::{self, PageKind};
use omen_ivf::mem_store::MemStore;
use omen_ivf::store::PageStore;
use std::sync::OnceLock;
use store_world::World;

use super::Bytes;

/// What became of an input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Changes made to pages.
    pub damages: u32,
    /// Verbs called.
    pub calls: u32,
    /// Of these, those that said that the index is damaged.
    pub noticed: u32,
    /// Pages read.
    pub reads: u64,
}

/// An undamaged index, and the blocks of each kind of page.
struct Sound {
    store: MemStore,
    blocks: Vec<(PageKind, Vec<u32>)>,
}

/// All kinds of pages.
pub const KINDS: [PageKind; 8] = [
    PageKind::Meta,
    PageKind::Directory,
    PageKind::Code,
    PageKind::Vector,
    PageKind::Append,
    PageKind::Overflow,
    PageKind::Map,
    PageKind::Free,
];

/// Of each index: dimension, codes, metric, lists, rows.
const INDEXES: [(u32, Filter, Metric, u32, u32); 5] = [
    (3, Filter::None, Metric::L2, 4, 300),
    (100, Filter::FourBit, Metric::NegIp, 4, 300),
    (700, Filter::OneBit, Metric::Cosine, 4, 80),
    // Rows that do not fit an Append page.
    (4096, Filter::OneBit, Metric::L2, 3, 12),
    // A directory of two pages.
    (8, Filter::None, Metric::L2, 140, 400),
];

impl Sound {
    fn new((dim, filter, metric, lists, n): (u32, Filter, Metric, u32, u32)) -> Self {
        // The kind of codes is drawn.
        let mut worlds = (1..).map(|seed| World::new(metric, dim, lists, n, seed));
        let mut world = worlds
            .find(|world| world.index.meta.shape().filter == filter)
            .expect("one of some seeds");
        fold_list(&world.store, &world.index, 1).expect("sound");
        for _ in 0..n {
            world.insert();
        }
        world.delete(0.1);
        fold_list(&world.store, &world.index, 2).expect("sound");
        world.verify();
        Self::of(world.store)
    }

    fn of(store: MemStore) -> Self {
        let kind_of = |block: &u32| {
            let tail = store.read(*block, page::tail).expect("it is there");
            PageKind::from_u16(tail.kind)
        };
        let all = 0..store.n_blocks().expect("it has pages");
        let blocks_of =
            |kind| -> Vec<u32> { all.clone().filter(|b| kind_of(b) == Some(kind)).collect() };
        let blocks = KINDS.map(|kind| (kind, blocks_of(kind)));
        Self {
            blocks: blocks.into_iter().filter(|(_, b)| !b.is_empty()).collect(),
            store,
        }
    }
}

fn indexes() -> &'static [Sound] {
    static INDEXES_MADE: OnceLock<Vec<Sound>> = OnceLock::new();
    INDEXES_MADE.get_or_init(|| {
        let others = kinds::INDEXES
            .into_iter()
            .map(|index| Sound::of(kinds::build(index)));
        INDEXES.into_iter().map(Sound::new).chain(others).collect()
    })
}

/// The kinds of pages that the indexes have between them.
pub fn kinds() -> Vec<PageKind> {
    let all = indexes().iter().flat_map(|index| &index.blocks);
    let mut kinds: Vec<PageKind> = all.map(|(kind, _)| *kind).collect();
    kinds.sort_unstable_by_key(|kind| *kind as u16);
    kinds.dedup();
    kinds
}

/// Damages one of the indexes as the input says, and uses it as the input says.
pub fn damaged(input: &[u8]) -> Outcome {
    let mut input = Bytes::new(input);
    let sound = &indexes()[input.below(indexes().len())];
    let store = sound.store.snapshot();
    let mut outcome = Outcome::default();
    for _ in 0..=input.u8() % 6 {
        damage::damage(&store, &sound.blocks, &mut input);
        outcome.damages += 1;
    }
    verbs::use_index(&store, &mut input, &mut outcome);
    outcome.reads = store.n_reads();
    outcome
}
