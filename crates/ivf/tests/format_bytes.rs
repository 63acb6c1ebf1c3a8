//! Format version 1, read by byte offsets alone, as layout/README.md gives them: this test must never need a change.

mod store_world;

use half::f16;
use omen_ivf::index::Index;
use omen_ivf::insert::insert;
use omen_ivf::mem_store::MemStore;
use omen_ivf::store::PageStore;
use omen_ivf::stored::Scaling;
use omen_ivf::{Metric, Tid};
use rand::SeedableRng;
use rand::rngs::StdRng;
use store_world::{Model, World, build, seed, vector};

const CONTENT: usize = 64;
const TAIL: usize = 8128;
const NONE: u32 = u32::MAX;

/// The file as bytes.
struct File(Vec<Vec<u8>>);

impl File {
    fn of(store: &MemStore) -> Self {
        let n = store.n_blocks().unwrap();
        Self(
            (0..n)
                .map(|block| store.read(block, |page| page.to_vec()).unwrap())
                .collect(),
        )
    }

    fn bytes<const N: usize>(&self, block: u32, at: usize) -> [u8; N] {
        self.0[block as usize][at..at + N].try_into().unwrap()
    }

    fn u16(&self, block: u32, at: usize) -> u16 {
        u16::from_ne_bytes(self.bytes(block, at))
    }

    fn u32(&self, block: u32, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(block, at))
    }

    fn f32(&self, block: u32, at: usize) -> f32 {
        f32::from_ne_bytes(self.bytes(block, at))
    }

    /// Checks header and tail of a page: kind, list, stamp, seq; returns (next, n_records).
    fn page(
        &self,
        block: u32,
        kind: u16,
        list: u32,
        stamp: u32,
        seq: u32,
        content: usize,
    ) -> (u32, u32) {
        assert_eq!(
            self.u16(block, 12) as usize,
            CONTENT + content,
            "pd_lower of {block}"
        );
        assert_eq!(
            [14, 16].map(|at| self.u16(block, at) as usize),
            [TAIL, TAIL]
        );
        assert_eq!(self.u16(block, 18), 8192 | 4);
        let tail = [0, 4, 12].map(|at| self.u32(block, TAIL + at));
        assert_eq!(tail, [list, stamp, seq], "tail of {block}");
        assert_eq!(
            [self.u16(block, 8188), self.u16(block, 8190)],
            [kind, u16::from_le_bytes(*b"OM")]
        );
        assert!(
            (0..10).all(|i| self.u32(block, TAIL + 20 + 4 * i) == 0),
            "reserved"
        );
        (self.u32(block, TAIL + 8), self.u32(block, TAIL + 16))
    }

    /// Bytes `at..at + n` of a contiguous stream.
    fn stream(&self, start: u32, at: usize, n: usize) -> Vec<u8> {
        (at..at + n)
            .map(|i| self.0[start as usize + i / 8064][CONTENT + i % 8064])
            .collect()
    }
}

/// The frozen part of a list: its entries (tid, err, row), all of which must be live.
fn frozen(
    file: &File,
    list: u32,
    entry: &[u32; 16],
    dim: usize,
    extra_rows: usize,
) -> Vec<(Tid, f32, Vec<f16>)> {
    let [
        layout_gen,
        _,
        count,
        _,
        code_start,
        code_len,
        vector_start,
        vector_len,
        ..,
    ] = *entry;
    let count = count as usize;
    let code_lines = match file.u32(0, 88) {
        0 => 0,
        1 => dim.div_ceil(64) * 2,
        _ => dim.div_ceil(8),
    };
    let group_bytes = (6 + code_lines) * 128;
    for (start, len, kind, bytes) in [
        (code_start, code_len, 3, count.div_ceil(32) * group_bytes),
        (vector_start, vector_len, 4, (count + extra_rows) * 2 * dim),
    ] {
        assert_eq!(len as usize, bytes.div_ceil(8064));
        for seq in 0..len {
            let content = (bytes - seq as usize * 8064).min(8064);
            assert_eq!(
                file.page(start + seq, kind, list, layout_gen, seq, content),
                (NONE, 0)
            );
        }
    }
    (0..count)
        .map(|slot| {
            let group = file.stream(code_start, slot / 32 * group_bytes, 768);
            let u32_at = |at: usize| u32::from_ne_bytes(group[at..at + 4].try_into().unwrap());
            let i = slot % 32;
            assert_eq!(u32_at(5 * 128 + 64) >> i & 1, 1, "live");
            let offset = u16::from_ne_bytes(group[5 * 128 + 2 * i..][..2].try_into().unwrap());
            let tid = Tid::new(u32_at(4 * 128 + 4 * i), offset);
            let row = file.stream(vector_start, slot * 2 * dim, 2 * dim);
            let row = row
                .chunks(2)
                .map(|b| f16::from_ne_bytes([b[0], b[1]]))
                .collect();
            (tid, f32::from_bits(u32_at(3 * 128 + 4 * i)), row)
        })
        .collect()
}

fn entry_at(file: &File, block: u32, at: usize) -> [u32; 16] {
    std::array::from_fn(|i| file.u32(block, at + 4 * i))
}

/// Metapage, directory, root list and lists of a new index.
fn check_built(file: &File, metric: Metric, dim: u32, lists: u32, model: &Model) {
    let n_directory = lists.div_ceil(126);
    file.page(0, 1, NONE, 0, 0, 1440);
    assert_eq!(file.bytes::<4>(0, 64), *b"OMEN");
    let filter = file.u32(0, 88);
    assert!(filter <= 2);
    let code_dim = dim.next_multiple_of(if filter == 2 { 8 } else { 64 });
    let words: [u32; 8] = std::array::from_fn(|i| file.u32(0, 64 + 4 * i));
    assert_eq!(
        words[1..],
        [1, metric as u32, dim, code_dim, lists, filter, 1]
    );
    assert_eq!(
        (file.u32(0, 96), file.u32(0, 112), file.u32(0, 116)),
        (7, 0, 126)
    );
    assert!(file.f32(0, 100) > 0.0);
    assert_eq!((file.u32(0, 120), file.u32(0, 124)), (1, n_directory));
    assert_eq!(u64::from_ne_bytes(file.bytes(0, 192)), model.len() as u64);
    assert_eq!(u64::from_ne_bytes(file.bytes(0, 200)), 1);
    assert_eq!((file.u32(0, 208), file.u32(0, 212)), (0, 0));
    let root = entry_at(file, 0, 128);
    for (list, (tid, err, _)) in frozen(file, NONE - 1, &root, dim as usize, 1)
        .into_iter()
        .enumerate()
    {
        assert_eq!((tid, err), (Tid::new(list as u32, 1), 0.0));
    }
    let mut n_found = 0;
    for list in 0..lists {
        let block = 1 + list / 126;
        let in_page = (lists - list / 126 * 126).min(126) as usize;
        file.page(block, 2, NONE, 0, list / 126, in_page * 64);
        let entry = entry_at(file, block, 64 + (list % 126) as usize * 64);
        assert_eq!((entry[0], entry[1], entry[3]), (1, 0, 0));
        assert_eq!(
            (entry[8], entry[9], entry[10], entry[11]),
            (NONE, NONE, NONE, 0)
        );
        assert_eq!(entry[13..], [0, 0, 0]);
        for (tid, err, row) in frozen(file, list, &entry, dim as usize, 0) {
            assert_eq!((err, &row), (model[&tid].err, &model[&tid].row));
            n_found += 1;
        }
    }
    assert_eq!(n_found, model.len());
}

#[test]
fn a_new_index() {
    let seed = seed();
    for (dim, lists, n) in [
        (1, 1, 0),
        (3, 2, 100),
        (100, 130, 500),
        (768, 3, 200),
        (4096, 2, 40),
    ] {
        let (mut store, mut rng) = (MemStore::new(), StdRng::seed_from_u64(seed));
        let model = build(&mut store, Metric::NegIp, dim, lists, n, &mut rng);
        check_built(&File::of(&store), Metric::NegIp, dim, lists, &model);
    }
}

#[test]
fn appended_entries() {
    let seed = seed();
    for dim in [3, 100, 4024, 4025, 16_000] {
        let world = World::on(MemStore::new(), Metric::L2, dim, 1, 0, seed);
        let (store, index) = (&world.store, &world.index);
        let mut rng = StdRng::seed_from_u64(seed);
        let scaling = Scaling {
            metric: Metric::L2,
            dim,
            scale_exp: 7,
        };
        let n = 10;
        let stored: Vec<_> = (0..n)
            .map(|i| {
                let v = vector(&mut rng, dim);
                insert(store, index, &v, Tid::new(i, 9)).unwrap();
                scaling.to_stored(&v).unwrap().unwrap()
            })
            .collect();
        let file = File::of(store);
        let entry = entry_at(&file, 1, 64);
        let dim = dim as usize;
        let n_overflow = if 16 + 2 * dim <= 8064 {
            0
        } else {
            (2 * dim).div_ceil(8064)
        };
        let record = if n_overflow == 0 {
            (16 + 2 * dim).next_multiple_of(4)
        } else {
            16 + 4 * n_overflow
        };
        let (mut block, mut seq, mut i) = (entry[9], 0, 0);
        while block != NONE {
            let in_page = (n as usize - i).min(8064 / record);
            let (next, n_records) = file.page(block, 5, 0, 1, seq, in_page * record);
            assert_eq!(n_records as usize, in_page);
            for at in (0..in_page).map(|j| CONTENT + j * record) {
                assert_eq!(
                    (
                        file.u32(block, at),
                        file.u16(block, at + 4),
                        file.u16(block, at + 6)
                    ),
                    (i as u32, 9, 1)
                );
                assert_eq!(
                    (file.f32(block, at + 8), file.u32(block, at + 12)),
                    (stored[i].err, n_overflow as u32)
                );
                let row: &[u8] = bytemuck::cast_slice(&stored[i].row);
                if n_overflow == 0 {
                    assert_eq!(file.0[block as usize][at + 16..at + 16 + 2 * dim], *row);
                }
                for j in 0..n_overflow {
                    let part = &row[j * 8064..row.len().min((j + 1) * 8064)];
                    let overflow = file.u32(block, at + 16 + 4 * j);
                    assert_eq!(
                        file.page(overflow, 6, 0, 1, j as u32, part.len()),
                        (NONE, 0)
                    );
                    assert_eq!(file.stream(overflow, 0, part.len()), part);
                }
                i += 1;
            }
            assert!(next != NONE || block == entry[10]);
            block = next;
            seq += 1;
        }
        assert_eq!((i, seq), (n as usize, entry[11]));
        assert_eq!(Index::open(store).unwrap().n_lists(), 1);
    }
}
