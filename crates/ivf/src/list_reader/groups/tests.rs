//! What a visitor sees of groups in parts is what lies in the stream.

use half::f16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::index::read_entry;
use crate::layout::group::{Filter, LIVE_LINE, LIVE_OFFSET};
use crate::layout::page::{CONTENT_START, LINE_BYTES};
use crate::mem_store::MemStore;
use crate::rabitq::QueryCode;
use crate::testing::seed;
use crate::write_index::{BuildEntry, IndexSpec, write_index};
use crate::{Metric, Tid};

/// An index with one list of `n` random entries.
fn build(dim: u32, filter: Filter, n: u32, rng: &mut StdRng) -> MemStore {
    let mut row = || -> Vec<f16> {
        (0..dim)
            .map(|_| f16::from_f32(rng.random_range(-1.0..1.0)))
            .collect()
    };
    let spec = IndexSpec {
        kind: crate::VectorKind::Half,
        entries: 0,
        metric: Metric::L2,
        dim,
        lists: 1,
        filter,
        lists_option: 0,
        scale_exp: 0,
        rotation_seed: 1,
        centroids: row(),
        built_at: 1,
    };
    let mut entries = (0..n).map(|i| BuildEntry {
        list: 0,
        tid: Tid::new(i, 1),
        err: i as f32,
        row: row(),
    });
    let mut store = MemStore::new();
    write_index(&mut store, &spec, &mut || Ok(entries.next()), &mut |_| ()).unwrap();
    store
}

/// Compares what it is shown with the groups of `stream`.
struct Comparer<'a> {
    stream: &'a [u8],
    group_bytes: usize,
    code: Option<&'a QueryCode>,
    /// The group being seen, the bytes and the parts of its codes so far.
    group: u32,
    seen: usize,
    parts: usize,
    sums: [i32; GROUP],
    /// Groups whose codes came in several parts.
    split: usize,
}

impl<'a> Comparer<'a> {
    fn new(stream: &'a [u8], group_bytes: usize, code: Option<&'a QueryCode>, first: u32) -> Self {
        Self {
            stream,
            group_bytes,
            code,
            group: first,
            seen: 0,
            parts: 0,
            sums: [0; GROUP],
            split: 0,
        }
    }

    fn staged(&self) -> (&'a [u8], &'a [u8]) {
        self.stream[self.group as usize * self.group_bytes..][..self.group_bytes]
            .split_at(HEADER_BYTES)
    }
}

impl GroupVisitor for Comparer<'_> {
    fn codes(&mut self, first: usize, bytes: &[u8]) {
        assert_eq!(first, self.seen, "in order, without gaps");
        assert!(!bytes.is_empty() && bytes.len().is_multiple_of(LINE_BYTES));
        assert!(
            bytes == &self.staged().1[first..][..bytes.len()],
            "codes of group {}",
            self.group
        );
        self.seen += bytes.len();
        self.parts += 1;
        let code = self.code.expect("codes only where there are some");
        code.add(first, bytes, &mut self.sums);
    }

    fn group(&mut self, group: u32, header: &GroupHeader) -> ControlFlow<()> {
        let (head, codes) = self.staged();
        assert_eq!((group, self.seen), (self.group, codes.len()));
        assert_eq!(bytemuck::bytes_of(header), head, "header of group {group}");
        let mut sums = [0; GROUP];
        if let Some(code) = self.code {
            code.add(0, codes, &mut sums);
        }
        assert_eq!(self.sums, sums, "sums of group {group}");
        self.split += usize::from(self.parts > 1);
        (self.sums, self.seen, self.parts) = ([0; GROUP], 0, 0);
        self.group += 1;
        ControlFlow::Continue(())
    }
}

#[test]
fn parts_are_the_whole() {
    let mut rng = StdRng::seed_from_u64(seed());
    for dim in [40, 100, 300, 384, 768, 1536, 4100] {
        for filter in [Filter::None, Filter::OneBit, Filter::FourBit] {
            // Enough for a page border at each line of a group, but for the largest; a short last group.
            let n = (300_000 / dim).clamp(300, 2100) / 32 * 32 + rng.random_range(1..32);
            let mut store = build(dim, filter, n, &mut rng);
            let index = Index::open(&store).unwrap();
            let entry = read_entry(&store, &index, 0).unwrap();
            let run = entry.code_run;
            let mut stream = Vec::new();
            for block in run.start..run.start + run.len {
                let copy = |page: &[u8]| stream.extend_from_slice(page::content(page));
                store.read(block, copy).unwrap();
            }
            let vector: Vec<f32> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
            let code = QueryCode::new(filter, &index.rotation, &vector);
            let group_bytes = index.meta.shape().bytes();
            let n_groups = streams::n_groups(n);
            let borders_in_codes = (0..n_groups as usize)
                .map(|g| (g * group_bytes + HEADER_BYTES, (g + 1) * group_bytes))
                .filter(|(from, to)| from / CONTENT_BYTES < (to - 1) / CONTENT_BYTES && from < to)
                .count();
            let mut reader = ListReader::new();
            for misaligned in [0, 1, 4] {
                store.misalign(misaligned);
                let mut all = Comparer::new(&stream, group_bytes, code.as_ref(), 0);
                let visit = reader.visit_groups(&store, &index, 0, &entry, &mut all);
                assert_eq!((visit, all.group), (Ok(Visit::Done), n_groups));
                assert_eq!(all.split, borders_in_codes, "dim {dim}, {filter:?}");
                let first = rng.random_range(0..n_groups);
                let end = rng.random_range(first..=n_groups);
                let mut some = Comparer::new(&stream, group_bytes, code.as_ref(), first);
                let visit = reader.groups(&store, &index, 0, &entry, first..end, &mut some);
                assert_eq!((visit, some.group), (Ok(Visit::Done), end));
            }
            // A live bit past the end is noticed before anything of its group is shown.
            let live = (n_groups as usize - 1) * group_bytes + LIVE_LINE * LINE_BYTES + LIVE_OFFSET;
            let block = run.start + (live / CONTENT_BYTES) as u32;
            store.damage(block, |page| {
                page[CONTENT_START + live % CONTENT_BYTES..][..4].fill(0xFF);
            });
            let mut damaged = Comparer::new(&stream, group_bytes, code.as_ref(), 0);
            let visit = reader.visit_groups(&store, &index, 0, &entry, &mut damaged);
            assert!(matches!(visit, Err(IvfError::Corrupt { block: at, .. }) if at == block));
            assert_eq!((damaged.group, damaged.seen), (n_groups - 1, 0));
        }
    }
}
