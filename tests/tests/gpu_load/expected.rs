//! What a tier must hold, read from the pages by other ways than the loader's.

use half::f16;
use omen_gpu::Tier;
use omen_gpu::tier_image::TierImage;
use omen_ivf::export::for_each_centroid;
use omen_ivf::index::{Index, read_entry};
use omen_ivf::layout::group::{GROUP, GroupHeader};
use omen_ivf::list_reader::{GroupVisitor, ListReader, Visit};
use omen_ivf::mem_store::MemStore;
use std::ops::ControlFlow;

/// Groups of a list: headers, and codes one after the other.
#[derive(Default)]
struct Groups {
    headers: Vec<GroupHeader>,
    codes: Vec<u8>,
}

impl GroupVisitor for Groups {
    fn codes(&mut self, _first: usize, bytes: &[u8]) {
        self.codes.extend_from_slice(bytes);
    }

    fn group(&mut self, _group: u32, header: &GroupHeader) -> ControlFlow<()> {
        self.headers.push(*header);
        ControlFlow::Continue(())
    }
}

fn norm_sq(row: &[f16]) -> f32 {
    row.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>() as f32
}

/// Both are sums of the same numbers in f64, in another order, rounded once.
fn same_sum(a: f32, b: f32) -> bool {
    a == b || a.next_up() == b || b.next_up() == a
}

/// A row padded with zeros.
fn is_padded(found: &[f16], row: &[f16]) -> bool {
    found[..row.len()] == *row && found[row.len()..].iter().all(|x| x.to_bits() == 0)
}

/// The tier holds the list as the pages do now.
pub fn check_list(
    store: &MemStore,
    index: &Index,
    tier: &Tier,
    image: &TierImage,
    list: u32,
    what: &str,
) {
    let what = format!("{what}, list {list}");
    let loaded = tier.lists()[list as usize].expect("the list is in the tier");
    let entry = read_entry(store, index, list).unwrap();
    assert_eq!(
        (loaded.n_slots, loaded.layout_gen, loaded.delete_gen),
        (entry.frozen_count, entry.layout_gen, entry.delete_gen),
        "{what}"
    );
    let arrays = image.arrays();
    let n_slots = arrays.err.len();
    let mut reader = ListReader::new();
    let mut groups = Groups::default();
    let visit = reader.visit_groups(store, index, list, &entry, &mut groups);
    assert_eq!(visit.unwrap(), Visit::Done);
    let group_codes = groups.codes.len() / groups.headers.len().max(1);
    let words = index.meta.code_dim as usize / 64;
    let mut bits = vec![0; GROUP * words];
    for i in 0..loaded.n_slots as usize {
        let slot = loaded.first_slot as usize + i;
        let (header, j) = (&groups.headers[i / GROUP], i % GROUP);
        assert_eq!(arrays.err[slot], header.err[j], "{what}, err {i}");
        let live = header.live >> j & 1 == 1;
        assert_eq!(arrays.is_live(slot as u32), live, "{what}, live {i}");
        if tier.parts().rows() {
            let tid = u64::from(header.tid_block[j]) | u64::from(header.tid_offset[j]) << 32;
            assert_eq!(arrays.tids[slot], tid, "{what}, tid {i}");
        }
        if tier.parts().codes() {
            for (f, factors) in [header.f_add, header.f_rescale, header.f_error]
                .iter()
                .enumerate()
            {
                assert_eq!(
                    arrays.factors[f * n_slots + slot],
                    factors[j],
                    "{what}, factor {f} of {i}"
                );
            }
            if j == 0 {
                let codes = &groups.codes[i / GROUP * group_codes..][..group_codes];
                omen_distance::unpack_codes(codes, words, words * 64, &mut bits);
            }
            let code = &arrays.codes[slot * arrays.code_pitch..][..arrays.code_pitch];
            for (w, &word) in code.iter().enumerate() {
                let expected = bits[j * words..(j + 1) * words]
                    .get(w / 2)
                    .map_or(0, |pair| (pair >> (32 * (w % 2))) as u32);
                assert_eq!(word, expected, "{what}, word {w} of code {i}");
            }
        }
    }
    if tier.parts().rows() {
        let slots: Vec<u32> = (0..loaded.n_slots).collect();
        let visit = reader.read_rows(store, index, list, &entry, &slots, |i, row| {
            let slot = loaded.first_slot + i;
            assert!(is_padded(arrays.row(slot), row), "{what}, row {i}");
            let found = arrays.norm_sq[slot as usize];
            assert!(same_sum(found, norm_sq(row)), "{what}, norm {i}: {found}");
        });
        assert_eq!(visit.unwrap(), Visit::Done);
    }
}

/// The tier holds the centroids.
pub fn check_centroids(store: &MemStore, index: &Index, tier: &Tier) {
    let image = tier.read_back().unwrap();
    let (rows, norms) = image.centroids();
    let pitch = rows.len() / norms.len();
    assert_eq!(norms.len(), index.n_lists() as usize);
    for_each_centroid(store, index, |list, row| {
        let list = list as usize;
        assert!(is_padded(&rows[list * pitch..][..pitch], row));
        assert!(same_sum(norms[list], norm_sq(row)));
    })
    .unwrap();
}
