//! The pages of a new index are those that a plain reading of the format gives, whatever threads make them, in whatever chunks the entries
//! come, and a build that fails ends.

mod store_world;

use half::f16;
use omen_ivf::build_entries::{Chunk, EntriesInMemory, EntryBlock, EntrySource, sorted_keys};
use omen_ivf::index::{Index, read_entry};
use omen_ivf::layout::group::{Filter, GROUP, GroupShape};
use omen_ivf::layout::page::{self, CONTENT_BYTES, PageKind, ROOT_LIST};
use omen_ivf::mem_store::MemStore;
use omen_ivf::rabitq::Encoder;
use omen_ivf::rotation::Rotation;
use omen_ivf::row_batch::RowBatch;
use omen_ivf::store::{BulkWriter, PAGE_BYTES, PageStore};
use omen_ivf::write_index::{
    BuildEntry, Follower, IndexSpec, Piece, write_index, write_index_from,
};
use omen_ivf::{IvfError, Metric, Result};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::io::Read;
use store_world::{seed, tid};

fn pool(n_threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build()
        .unwrap()
}

fn row(rng: &mut StdRng, dim: usize) -> Vec<f16> {
    (0..dim)
        .map(|_| f16::from_f32(rng.random_range(-9.0..9.0)))
        .collect()
}

fn spec(rng: &mut StdRng, dim: usize, lists: usize) -> IndexSpec {
    IndexSpec {
        kind: omen_ivf::VectorKind::Half,
        entries: 0,
        metric: [Metric::L2, Metric::Cosine, Metric::NegIp][rng.random_range(0..3)],
        dim: dim as u32,
        lists: lists as u32,
        filter: Filter::from_u32(rng.random_range(0..3)).unwrap(),
        lists_option: 0,
        scale_exp: 0,
        rotation_seed: rng.random(),
        centroids: row(rng, lists * dim),
        built_at: 1,
    }
}

/// Entries of lists of these sizes, in order.
fn entries(rng: &mut StdRng, dim: usize, sizes: &[usize]) -> Vec<BuildEntry> {
    let lists = sizes.iter().enumerate();
    let lists = lists.flat_map(|(list, &n)| std::iter::repeat_n(list as u32, n));
    lists
        .enumerate()
        .map(|(i, list)| BuildEntry {
            list,
            tid: tid(i as u32),
            err: rng.random(),
            row: row(rng, dim),
        })
        .collect()
}

/// The entries in random order, in chunks of random sizes.
fn chunks(rng: &mut StdRng, dim: usize, entries: &[BuildEntry]) -> Vec<Chunk> {
    let mut shuffled: Vec<&BuildEntry> = entries.iter().collect();
    shuffled.shuffle(rng);
    let mut rest = &shuffled[..];
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rng.random_range(1..=rest.len().min(700)));
        let mut rows = RowBatch::new(dim);
        for entry in now {
            rows.push_row(entry.tid, entry.err, &entry.row);
        }
        let lists = now.iter().map(|entry| entry.list).collect();
        chunks.push(Chunk { rows, lists });
        rest = later;
    }
    chunks
}

/// Pages with these bytes as their stream.
fn pages(kind: PageKind, list: u32, bytes: &[u8]) -> Vec<Vec<u8>> {
    let page = |(seq, content): (usize, &[u8])| {
        let mut image = vec![0; PAGE_BYTES];
        page::init_page(&mut image, kind, list, 1, seq as u32);
        page::content_mut(&mut image)[..content.len()].copy_from_slice(content);
        page::set_content_bytes(&mut image, content.len());
        image
    };
    bytes.chunks(CONTENT_BYTES).enumerate().map(page).collect()
}

/// Pages of a list: its vectors, then its codes.
fn list_pages(
    spec: &IndexSpec,
    list: u32,
    centroid: &[f16],
    entries: &[BuildEntry],
) -> Vec<Vec<u8>> {
    let shape = GroupShape::new(spec.filter, spec.dim);
    let rotation = Rotation::new(
        spec.rotation_seed,
        spec.dim as usize,
        shape.code_dim as usize,
    );
    let encoder = Encoder::new(spec.metric, spec.filter, &rotation, centroid);
    let (mut vectors, mut codes) = (Vec::new(), Vec::new());
    for group in entries.chunks(GROUP) {
        let rows: Vec<&[f16]> = group.iter().map(|entry| &entry.row[..]).collect();
        let errs: Vec<f32> = group.iter().map(|entry| entry.err).collect();
        let tids: Vec<_> = group.iter().map(|entry| entry.tid).collect();
        let mut bytes = vec![0; shape.bytes()];
        encoder.encode_group(&rows, &errs, &tids, &mut bytes);
        codes.extend(bytes);
        rows.iter()
            .for_each(|row| vectors.extend_from_slice(bytemuck::cast_slice(row)));
    }
    if list == ROOT_LIST {
        vectors.extend_from_slice(bytemuck::cast_slice(centroid));
    }
    let vectors = pages(PageKind::Vector, list, &vectors);
    [vectors, pages(PageKind::Code, list, &codes)].concat()
}

fn all_pages(store: &MemStore) -> Vec<Vec<u8>> {
    let page = |block| store.read(block, |page| page.to_vec()).unwrap();
    (0..store.n_blocks().unwrap()).map(page).collect()
}

fn assert_as_read(spec: &IndexSpec, sizes: &[usize], entries: &[BuildEntry], store: &MemStore) {
    let dim = spec.dim as usize;
    let index = Index::open(store).unwrap();
    let root: Vec<BuildEntry> = (0..)
        .zip(spec.centroids.chunks_exact(dim))
        .map(|(list, centroid)| BuildEntry {
            list: ROOT_LIST,
            tid: omen_ivf::Tid::new(list, 1),
            err: 0.0,
            row: centroid.to_vec(),
        })
        .collect();
    let mean: Vec<f16> = (0..dim)
        .map(|i| {
            let sum: f64 = root.iter().map(|entry| entry.row[i].to_f64()).sum();
            f16::from_f64(sum / root.len() as f64)
        })
        .collect();
    let mut wanted = list_pages(spec, ROOT_LIST, &mean, &root);
    let mut rest = entries;
    let first = 1 + index.meta.directory.len as usize;
    for (list, &n) in sizes.iter().enumerate() {
        let (mine, later) = rest.split_at(n);
        rest = later;
        let entry = read_entry(store, &index, list as u32).unwrap();
        assert_eq!(entry.frozen_count as usize, n);
        if n > 0 {
            assert_eq!(entry.vector_run.start as usize, first + wanted.len());
            let centroid = &root[list].row;
            wanted.extend(list_pages(spec, list as u32, centroid, mine));
            let sum: f64 = mine
                .iter()
                .map(|entry| {
                    let differs = entry.row.iter().zip(centroid);
                    differs
                        .map(|(a, b)| (a.to_f64() - b.to_f64()).powi(2))
                        .sum::<f64>()
                })
                .sum();
            let radius = (sum / n as f64).sqrt() as f32;
            assert!((entry.radius - radius).abs() <= 1e-5 * radius);
        }
        let end = entry.code_run.start + entry.code_run.len;
        assert!(n == 0 || end as usize == first + wanted.len());
    }
    let found = all_pages(store);
    assert_eq!(found.len(), first + wanted.len());
    for (i, page) in wanted.iter().enumerate() {
        assert!(found[first + i] == *page, "block {}", first + i);
    }
    assert_eq!(index.meta.built_rows as usize, entries.len());
}

/// What a follower was shown: of each list the bytes of its rows and of its groups.
struct Seen {
    told: Vec<u64>,
    shape: GroupShape,
    lists: Vec<[Vec<u8>; 2]>,
    n: Vec<u64>,
}

impl Seen {
    fn new(spec: &IndexSpec) -> Self {
        Self {
            told: vec![],
            shape: GroupShape::new(spec.filter, spec.dim),
            lists: vec![Default::default(); spec.lists as usize],
            n: vec![0; spec.lists as usize],
        }
    }

    /// As the streams of the lists are on pages.
    fn check(&self, store: &MemStore) {
        let index = Index::open(store).unwrap();
        for (list, seen) in (0..).zip(&self.lists) {
            let entry = read_entry(store, &index, list).unwrap();
            let n = entry.frozen_count as usize;
            assert_eq!(self.n[list as usize], n as u64);
            let sizes = [n * 2 * index.dim(), n.div_ceil(GROUP) * self.shape.bytes()];
            for ((run, n_bytes), seen) in [entry.vector_run, entry.code_run]
                .iter()
                .zip(sizes)
                .zip(seen)
            {
                let mut stream = vec![];
                for block in run.start..run.start + run.len {
                    store
                        .read(block, |image| {
                            stream.extend_from_slice(page::content(image))
                        })
                        .unwrap();
                }
                assert!(stream[..n_bytes] == seen[..], "list {list} of {n}");
            }
        }
    }
}

impl Follower for Seen {
    fn written(&mut self, n_entries: u64) {
        self.told.push(n_entries);
    }

    fn piece(&mut self, piece: &Piece) {
        let list = piece.list as usize;
        assert_eq!(self.n[list], piece.first);
        assert!(
            piece.first.is_multiple_of(GROUP as u64) && self.n[list + 1..].iter().all(|&n| n == 0)
        );
        self.n[list] += u64::from(piece.n_entries);
        let [rows, groups] = &mut self.lists[list];
        piece.rows().read_to_end(rows).unwrap();
        // Now and then a part of it is left out, and read again.
        let (mut all, at) = (piece.groups(), groups.len());
        let n_skipped = self.shape.bytes() * (piece.n_entries as usize / GROUP / 2);
        let mut first = vec![0; n_skipped];
        all.read_exact(&mut first).unwrap();
        groups.extend_from_slice(&first);
        let mut rest = piece.groups();
        rest.skip(n_skipped);
        rest.read_to_end(groups).unwrap();
        let n_groups = (piece.n_entries as usize).div_ceil(GROUP);
        assert_eq!(groups.len() - at, n_groups * self.shape.bytes());
    }
}

#[test]
fn pages_are_those_of_the_format() {
    let mut rng = StdRng::seed_from_u64(seed());
    let cases: [(usize, &[usize]); 9] = [
        (1, &[0, 5000, 0, 1, 33]),
        (3, &[20_000]),
        (17, &[0, 0, 64, 4097, 0]),
        (64, &[1; 300]),
        (100, &[4000, 1, 0, 700]),
        (768, &[3000, 320, 640, 31]),
        (4032, &[65, 32, 0]),
        (4100, &[40, 0, 3]),
        (16_000, &[70, 1]),
    ];
    for (dim, sizes) in cases {
        let spec = spec(&mut rng, dim, sizes.len());
        let entries = entries(&mut rng, dim, sizes);
        let mut store = MemStore::new();
        let mut one_by_one = entries.iter().cloned();
        let mut next = || Ok(one_by_one.next());
        write_index(&mut store, &spec, &mut next, &mut |_| ()).unwrap();
        assert_as_read(&spec, sizes, &entries, &store);
        let wanted = all_pages(&store);
        for (n_threads, max_bytes) in [(1, 1), (2, 2 << 20), (5, 64 << 20)] {
            let pool = pool(n_threads);
            let chunks = chunks(&mut rng, dim, &entries);
            let keys = pool.install(|| sorted_keys(&chunks));
            let mut source = EntriesInMemory::new(chunks, keys);
            let (mut store, mut seen) = (MemStore::new(), Seen::new(&spec));
            let threads = Some((&pool, max_bytes));
            write_index_from(&mut store, &spec, threads, &mut source, &mut seen).unwrap();
            assert!(
                all_pages(&store) == wanted,
                "dim {dim}, {n_threads} threads"
            );
            let told = &seen.told;
            assert!(told.is_sorted() && told.last() == Some(&(entries.len() as u64)));
            seen.check(&store);
        }
    }
}

/// Rows that no thread can encode.
struct WrongRows;

impl EntrySource for WrongRows {
    fn next(&mut self, most: usize) -> Result<Option<EntryBlock>> {
        let mut rows = RowBatch::new(5);
        (0..most).for_each(|i| rows.push_row(tid(i as u32), 0.0, &[f16::ONE; 5]));
        Ok(Some(EntryBlock::of_list(0, rows)))
    }
}

/// Fails at the n-th look for interrupts.
struct Interrupted(MemStore, usize);

impl BulkWriter for Interrupted {
    fn reserve(&mut self, n: u32) -> Result<u32> {
        self.0.reserve(n)
    }

    fn append(&mut self, page: &[u8]) -> Result<u32> {
        self.0.append(page)
    }

    fn write_at(&mut self, block: u32, page: &[u8]) -> Result<()> {
        self.0.write_at(block, page)
    }

    fn check_interrupts(&mut self) -> Result<()> {
        self.1 = self
            .1
            .checked_sub(1)
            .ok_or(IvfError::Store("stop".into()))?;
        Ok(())
    }
}

#[test]
fn failing_builds_end() {
    let mut rng = StdRng::seed_from_u64(seed());
    let pool = pool(3);
    let threads = Some((&pool, 8 << 20));
    let four = spec(&mut rng, 4, 2);
    let outcome = write_index_from(
        &mut MemStore::new(),
        &four,
        threads,
        &mut WrongRows,
        &mut |_: u64| (),
    );
    let text = outcome.map(drop).unwrap_err().to_string();
    assert!(text.contains("a thread panicked"), "{text}");

    let spec = spec(&mut rng, 100, 4);
    let entries = entries(&mut rng, 100, &[3000, 4000, 0, 5000]);
    for looks in [0, 1, 3, 7] {
        let chunks = chunks(&mut rng, 100, &entries);
        let keys = sorted_keys(&chunks);
        let mut source = EntriesInMemory::new(chunks, keys);
        let mut store = Interrupted(MemStore::new(), looks);
        let outcome = write_index_from(&mut store, &spec, threads, &mut source, &mut |_: u64| ());
        assert_eq!(outcome.map(drop), Err(IvfError::Store("stop".into())));
    }
}
