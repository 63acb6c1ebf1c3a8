//! How fast an index is loaded from pages in memory, beside one plain copy of page-locked memory.
//!
//!     cargo run --release -p omen_gpu --example load_rate [-- rows dim lists threads]     (default 1000000 768 4096, all cores)
//!
//! The pages are those of a real index of random rows, back to back in ordinary memory; pinning one costs nothing here. Rates are
//! of the bytes on the pages that are copied; "rows and codes" and "codes" as the ladder loads them.

use half::f16;
use omen_gpu::buffers::{DeviceBuffer, PinnedBuffer};
use omen_gpu::context::{Stream, Wait};
use omen_gpu::memory::{Parts, with_spare};
use omen_gpu::{Copiers, Gpu, GpuError, LoadError, TierBuilder, TierSpec};
use omen_ivf::index::Index;
use omen_ivf::layout::group::{Filter, GroupShape};
use omen_ivf::mem_store::MemStore;
use omen_ivf::store::{PAGE_BYTES, PageStore, PinStore};
use omen_ivf::write_index::{BuildEntry, IndexSpec, write_index};
use omen_ivf::{IvfError, Metric, Tid};
use std::time::{Duration, Instant};

/// Pages back to back.
struct Flat(Vec<u64>);

impl Flat {
    fn page(&self, block: u32) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.0);
        &bytes[block as usize * PAGE_BYTES..][..PAGE_BYTES]
    }
}

impl PageStore for Flat {
    fn n_blocks(&self) -> Result<u32, IvfError> {
        Ok((self.0.len() * 8 / PAGE_BYTES) as u32)
    }

    fn read<R>(&self, block: u32, f: impl FnOnce(&[u8]) -> R) -> Result<R, IvfError> {
        Ok(f(self.page(block)))
    }

    fn prefetch(&self, _block: u32) {}

    fn wants_announcements(&self) -> bool {
        false
    }

    fn announce(&self, _blocks: Vec<u32>) {}

    fn check_interrupts(&self) -> Result<(), IvfError> {
        Ok(())
    }
}

// SAFETY: the pages never change nor move.
#[allow(unsafe_code)]
unsafe impl PinStore for Flat {
    type Pin = u32;

    fn max_pins(&self) -> usize {
        512
    }

    fn pin(&self, block: u32) -> Result<u32, IvfError> {
        Ok(block)
    }

    fn address(&self, pin: &u32) -> *const u8 {
        self.page(*pin).as_ptr()
    }

    fn release<R>(&self, pin: u32, f: impl FnOnce(&[u8]) -> R) -> R {
        f(self.page(pin))
    }
}

/// An index of random rows, evenly spread over its lists.
fn build(rows: usize, dim: usize, lists: usize) -> Result<(Flat, Index), IvfError> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f16::from_f32(((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 200.0)
    };
    let spec = IndexSpec {
        metric: Metric::L2,
        dim: dim as u32,
        lists: lists as u32,
        filter: Filter::for_dim(dim as u32),
        lists_option: 0,
        scale_exp: 0,
        rotation_seed: 1,
        centroids: (0..lists * dim).map(|_| random()).collect(),
        built_at: 1,
    };
    let mut i = 0;
    let mut next = || {
        let entry = (i < rows).then(|| BuildEntry {
            list: (i * lists / rows) as u32,
            tid: Tid::new(i as u32, 1),
            err: 0.01,
            row: (0..dim).map(|_| random()).collect(),
        });
        i += 1;
        Ok(entry)
    };
    let mut store = MemStore::new();
    write_index(&mut store, &spec, &mut next, &mut |_| ())?;
    let n_blocks = store.n_blocks()?;
    let mut flat = Flat(vec![0; n_blocks as usize * PAGE_BYTES / 8]);
    for (block, page) in flat.0.chunks_exact_mut(PAGE_BYTES / 8).enumerate() {
        store.read(block as u32, |bytes| {
            bytemuck::cast_slice_mut::<u64, u8>(page).copy_from_slice(bytes);
        })?;
    }
    drop(store);
    let index = Index::open(&flat)?;
    Ok((flat, index))
}

/// Bytes a second of one copy of page-locked memory, the best of five.
fn plain_copy(gpu: &Gpu) -> Result<f64, GpuError> {
    let Some(ctx) = gpu.context() else {
        return Ok(f64::NAN);
    };
    let bytes = 256 << 20;
    let (stream, to) = (Stream::new(ctx)?, DeviceBuffer::new(ctx, bytes)?);
    let from = PinnedBuffer::new(ctx, bytes)?;
    let mut best = 0f64;
    for _ in 0..5 {
        let start = Instant::now();
        stream.upload(&to, 0, &from, 0..bytes)?;
        stream.wait(&mut Wait {
            until: Instant::now() + Duration::from_secs(10),
            poll: &mut || Ok(()),
        })?;
        best = best.max(bytes as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn load(
    gpu: &Gpu,
    store: &Flat,
    index: &Index,
    parts: Parts,
    threads: Option<usize>,
) -> Result<[f64; 3], LoadError> {
    let lists: Vec<u32> = (0..index.n_lists()).collect();
    let spec = TierSpec {
        metric: index.metric(),
        dim: index.dim(),
        n_lists: lists.len(),
    };
    let n_slots = with_spare(index.meta.built_rows);
    let mut times = [0.0; 3];
    let start = Instant::now();
    let copiers = threads.map_or_else(Copiers::start, Copiers::with_threads);
    let mut builder = TierBuilder::with_parts(gpu, spec, parts, n_slots, 1 << 38, copiers)?;
    builder.load_centroids(store, index)?;
    times[0] = start.elapsed().as_secs_f64();
    let start = Instant::now();
    builder.load_lists(store, index, &lists)?;
    times[1] = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let tier = builder.finish()?;
    times[2] = start.elapsed().as_secs_f64();
    let held = tier.lists().iter().flatten().count();
    assert_eq!(held, lists.len(), "all lists are loaded");
    Ok(times)
}

/// The first GPU; with the feature `simulated` and OMEN_TIMINGS_SIMULATED set, the simulated one.
fn open() -> Result<Gpu, GpuError> {
    #[cfg(feature = "simulated")]
    if std::env::var_os("OMEN_TIMINGS_SIMULATED").is_some() {
        return Ok(Gpu::open_simulated());
    }
    Gpu::open(0)
}

fn main() -> Result<(), LoadError> {
    let arguments: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse().ok())
        .collect();
    let argument = |i: usize, default| arguments.get(i).copied().unwrap_or(default);
    let (rows, dim, lists) = (argument(0, 1_000_000), argument(1, 768), argument(2, 4096));
    let threads = arguments.get(3).copied();
    let gpu = open()?;
    let start = Instant::now();
    let (store, index) = build(rows, dim, lists)?;
    println!(
        "{rows} x {dim} in {lists} lists: {} MB of pages, built in {:.1} s",
        (store.0.len() * 8) >> 20,
        start.elapsed().as_secs_f64()
    );
    let plain = plain_copy(&gpu)? / 1e9;
    println!("one plain copy: {plain:.1} GB/s");
    let shape = GroupShape::new(index.meta.shape().filter, dim as u32);
    let row_bytes = 2 * dim * rows;
    let groups = rows.div_ceil(32);
    let one_bit = shape.filter == Filter::OneBit;
    let mut cases = vec![("rows", Parts::Rows, row_bytes + groups * 768)];
    if one_bit {
        let bytes = row_bytes + groups * shape.bytes();
        cases.push(("rows and codes", Parts::RowsAndCodes, bytes));
        cases.push(("codes", Parts::Codes, groups * shape.bytes()));
    }
    for (name, parts, bytes) in cases {
        for _ in 0..3 {
            let [begin, lists, finish] = load(&gpu, &store, &index, parts, threads)?;
            let rate = bytes as f64 / (lists + finish) / 1e9;
            println!(
                "{name:<15} {rate:>6.1} GB/s, {:>4.0} % of the plain copy; begin and centroids {:.0} ms, lists {:.0} ms, finish {:.0} ms",
                rate / plain * 100.0,
                begin * 1e3,
                lists * 1e3,
                finish * 1e3
            );
        }
    }
    Ok(())
}
