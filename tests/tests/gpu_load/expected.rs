//! What a tier must hold, read from the pages by other ways than the loader's.

use half::f16;
use omen_gpu::Tier;
use omen_gpu::tier_image::TierImage;
use omen_ivf::export::{for_each_centroid, read_centroid};
use omen_ivf::index::{Index, read_entry};
use omen_ivf::layout::group::{GROUP, GroupHeader};
use omen_ivf::list_reader::{GroupVisitor, ListReader, Visit};
use omen_ivf::mem_store::MemStore;
use omen_ivf::rabitq::Encoder;
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

/// What the tier must hold of an entry.
struct Expected {
    tid: u64,
    live: bool,
    err: f32,
    factors: [f32; 3],
    /// One-bit code, 64 dimensions a word.
    code: Vec<u64>,
    row: Vec<f16>,
}

/// Entries of groups, without rows: the first `n`.
fn of_groups(groups: &Groups, n: usize, words: usize) -> Vec<Expected> {
    let group_codes = groups.codes.len() / groups.headers.len().max(1);
    let mut bits = vec![0; GROUP * words];
    let mut entries = Vec::new();
    for (g, header) in groups.headers.iter().enumerate() {
        if words > 0 {
            let codes = &groups.codes[g * group_codes..][..group_codes];
            omen_distance::unpack_codes(codes, words, words * 64, &mut bits);
        }
        for j in 0..GROUP.min(n - g * GROUP) {
            entries.push(Expected {
                tid: u64::from(header.tid_block[j]) | u64::from(header.tid_offset[j]) << 32,
                live: header.live >> j & 1 == 1,
                err: header.err[j],
                factors: [header.f_add[j], header.f_rescale[j], header.f_error[j]],
                code: bits[j * words..(j + 1) * words].to_vec(),
                row: Vec::new(),
            });
        }
    }
    entries
}

/// What was appended to the list, dead entries included, encoded entry by entry.
fn appended(store: &MemStore, index: &Index, list: u32, words: usize) -> Vec<Expected> {
    let entry = read_entry(store, index, list).unwrap();
    let centroid = read_centroid(store, index, list).unwrap();
    let shape = index.meta.shape();
    let encoder = Encoder::new(index.metric(), shape.filter, &index.rotation, &centroid);
    let mut entries = Vec::new();
    let mut reader = ListReader::new();
    let all = usize::MAX;
    let known = reader.appended_up_to(
        store,
        index,
        list,
        &entry.into(),
        all,
        0,
        |tid, live, err, row| {
            let mut group = vec![0; shape.bytes()];
            encoder.encode_group(&[row], &[err], &[tid], &mut group);
            let (header, codes) = group.split_at(size_of::<GroupHeader>());
            let groups = Groups {
                headers: vec![bytemuck::pod_read_unaligned(header)],
                codes: codes.to_vec(),
            };
            let mut of_one = of_groups(&groups, 1, words);
            of_one[0].row = row.to_vec();
            of_one[0].live = live;
            entries.append(&mut of_one);
        },
    );
    assert!(known.unwrap().is_some(), "nobody rewrites the list");
    entries
}

/// The tier holds the list as the pages do now, but for what was appended since.
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
    assert!(loaded.is_current(&entry), "{what}: {loaded:?} {entry:?}");
    let n_frozen = entry.frozen_count as usize;
    let n_appended = loaded.n_slots as usize - n_frozen;
    assert!(tier.parts().rows() || n_appended == 0, "{what}");
    let arrays = image.arrays();
    let n_slots = arrays.err.len();
    let words = match tier.parts().codes() {
        true => index.meta.code_dim as usize / 64,
        false => 0,
    };
    let mut reader = ListReader::new();
    let mut groups = Groups::default();
    let visit = reader.visit_groups(store, index, list, &entry, &mut groups);
    assert_eq!(visit.unwrap(), Visit::Done);
    let mut expected = of_groups(&groups, n_frozen, words);
    assert_eq!(expected.len(), n_frozen, "{what}");
    let slots: Vec<u32> = (0..entry.frozen_count).collect();
    let visit = reader.read_rows(store, index, list, &entry, &slots, |i, row| {
        expected[i as usize].row = row.to_vec();
    });
    assert_eq!(visit.unwrap(), Visit::Done);
    let appended = appended(store, index, list, words);
    assert!(appended.len() >= n_appended, "{what}");
    expected.extend(appended.into_iter().take(n_appended));
    for (i, expected) in expected.iter().enumerate() {
        let slot = loaded.first_slot as usize + i;
        assert_eq!(arrays.err[slot], expected.err, "{what}, err {i}");
        assert_eq!(
            arrays.is_live(slot as u32),
            expected.live,
            "{what}, live {i}"
        );
        if tier.parts().rows() {
            assert_eq!(arrays.tids[slot], expected.tid, "{what}, tid {i}");
            let row = arrays.row(slot as u32);
            assert!(is_padded(row, &expected.row), "{what}, row {i}");
            let found = arrays.norm_sq[slot];
            let norm = norm_sq(&expected.row);
            assert!(same_sum(found, norm), "{what}, norm {i}: {found}");
        }
        if tier.parts().codes() {
            let factors = [0, 1, 2].map(|f| arrays.factors[f * n_slots + slot]);
            assert_eq!(factors, expected.factors, "{what}, factors of {i}");
            let code = &arrays.codes[slot * arrays.code_pitch..][..arrays.code_pitch];
            for (w, &word) in code.iter().enumerate() {
                let pair = expected.code.get(w / 2);
                let expected = pair.map_or(0, |pair| (pair >> (32 * (w % 2))) as u32);
                assert_eq!(word, expected, "{what}, word {w} of code {i}");
            }
        }
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
