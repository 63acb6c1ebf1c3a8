//! Indexes whose rows are not vectors, and values for them.

use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::fold::fold_list;
use omen_ivf::form::{RowForm, bits, sparse};
use omen_ivf::index::Index;
use omen_ivf::insert::insert;
use omen_ivf::layout::group::Filter;
use omen_ivf::mem_store::MemStore;
use omen_ivf::write_index::{IndexSpec, write_index};
use omen_ivf::{Metric, VectorKind};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::store_world::{tid, vector};

/// Of each index: kind, metric, dimension, entries of a row, rows.
pub(super) const INDEXES: [(VectorKind, Metric, u32, u32, u32); 4] = [
    (VectorKind::Bits, Metric::Hamming, 100, 0, 300),
    // Sketches.
    (VectorKind::Bits, Metric::Jaccard, 3000, 0, 80),
    (VectorKind::Sparse, Metric::L1, 1000, 12, 200),
    // Rows that do not fit an Append page.
    (VectorKind::Sparse, Metric::NegIp, 1 << 29, 1024, 20),
];

const LISTS: u32 = 4;

/// The input of a random value.
pub(super) fn input(rng: &mut StdRng, kind: VectorKind, dim: u32) -> Vec<f32> {
    match kind {
        VectorKind::Half => vector(rng, dim),
        VectorKind::Bits => {
            let bytes: Vec<u8> = (0..dim.div_ceil(8)).map(|_| rng.random()).collect();
            bits::input_of(dim, &bytes)
        }
        VectorKind::Sparse => {
            let mut indices: Vec<i32> = (0..rng.random_range(0..20))
                .map(|_| rng.random_range(0..dim as i32))
                .collect();
            indices.sort_unstable();
            indices.dedup();
            let x = vector(rng, indices.len() as u32);
            sparse::input_of(dim, &indices, &x)
        }
    }
}

/// Builds an index, and does to it what is done to indexes.
pub(super) fn build(
    (kind, metric, dim, entries, n): (VectorKind, Metric, u32, u32, u32),
) -> MemStore {
    let mut rng = StdRng::seed_from_u64(1);
    let form = RowForm::new(kind, metric, dim, 0, 1).with_entries(entries);
    let mut centroids = Vec::new();
    for _ in 0..LISTS {
        let stored = form.to_stored(&input(&mut rng, kind, dim)).expect("fits");
        let row = stored.expect("it is indexed").row;
        centroids.extend_from_slice(&form.coarse_row(&row));
    }
    let spec = IndexSpec {
        kind,
        metric,
        dim,
        entries,
        lists: LISTS,
        filter: Filter::None,
        lists_option: 0,
        scale_exp: 0,
        rotation_seed: 1,
        centroids,
        built_at: 1,
    };
    let mut store = MemStore::fragmented(1);
    write_index(&mut store, &spec, &mut || Ok(None), &mut |_| {}).expect("sound");
    let index = Index::open(&store).expect("sound");
    let mut next = 0..;
    let mut add = || {
        for i in next.by_ref().take(n as usize) {
            insert(&store, &index, &input(&mut rng, kind, dim), tid(i)).expect("sound");
        }
    };
    add();
    for list in 0..LISTS {
        fold_list(&store, &index, list).expect("sound");
    }
    add();
    bulk_delete(&store, &index, &mut |tid| tid.offset % 9 == 0).expect("sound");
    fold_list(&store, &index, 2).expect("sound");
    assert!(
        omen_ivf::check::check(&store, &index)
            .expect("sound")
            .is_sound()
    );
    store
}
