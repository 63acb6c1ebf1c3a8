//! A server over memory of its own, and tiers to compare with.

#![allow(unsafe_code, dead_code)]

use crate::store_world::{World, vector};
use omen_gpu::batch::tuning::Tuning;
use omen_gpu::memory::Parts;
use omen_gpu::params::QueryBound;
use omen_gpu::{
    Batch, BatchFound, Copiers, Gpu, GpuError, Lists, Source, Tier, TierBuilder, TierSpec,
};
use omen_ivf::Metric;
use omen_ivf::index::read_entries;
use omen_ivf::layout::group::Filter;
use omen_service::load::{Check, Host, HostOptions, LoadRegion, Loaded, RegionError, Room, Wanted};
use omen_service::message::TierKey;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::alloc::{Layout, alloc, dealloc};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Plain memory, filled with something.
pub struct Memory {
    start: *mut u8,
    layout: Layout,
}

impl Memory {
    pub fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, 4096).unwrap();
        // SAFETY: the layout is not empty; all bytes are written.
        let start = unsafe {
            let start = alloc(layout);
            assert!(!start.is_null());
            start.write_bytes(0x5A, bytes);
            start
        };
        Self { start, layout }
    }

    pub fn check_refusals(&self) {
        let (start, len) = (self.start, self.layout.size());
        // SAFETY: the memory is there, and nobody else uses it; the other addresses are refused.
        unsafe {
            let refusal = |at: *mut u8, len: usize| LoadRegion::attach(at, len).err();
            assert_eq!(refusal(start, len), Some(RegionError::Unknown));
            let shifted = LoadRegion::create(start.add(8), 2, 4 << 20).err();
            assert_eq!(shifted, Some(RegionError::Alignment));
            LoadRegion::create(start, 2, 4 << 20).unwrap();
            let region = LoadRegion::attach(start, len).unwrap();
            assert_eq!((region.n_areas(), region.area_bytes()), (2, 4 << 20));
            assert_eq!(region.owner(), None);
            assert_eq!(refusal(start.add(8), len - 8), Some(RegionError::Alignment));
            assert_eq!(refusal(start, len - 1), Some(RegionError::Length));
            assert_eq!(refusal(start, 100), Some(RegionError::Length));
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: as it was allocated.
        unsafe { dealloc(self.start, self.layout) };
    }
}

/// A server with its region, and the region as a loader sees it.
pub struct Server {
    // First: it uses what follows.
    host: Option<Host>,
    pub region: LoadRegion,
    pub gpu: Gpu,
    pub room: Room,
    pub tiers: Receiver<Loaded>,
    sender: Sender<Loaded>,
    served: LoadRegion,
    _memory: Memory,
}

impl Server {
    pub fn new((n_areas, area_bytes): (usize, usize)) -> Self {
        let memory = Memory::new(LoadRegion::bytes(n_areas, area_bytes));
        // SAFETY: the memory lives as long as server and loaders, and is theirs alone.
        let (served, region) = unsafe {
            (
                LoadRegion::create(memory.start, n_areas, area_bytes).unwrap(),
                LoadRegion::attach(memory.start, memory.layout.size()).unwrap(),
            )
        };
        let room = Room {
            limit: 8 << 30,
            used: 1 << 30,
        };
        served.set_room(room);
        let (sender, tiers) = channel();
        let mut server = Self {
            host: None,
            region,
            gpu: Gpu::open_simulated(),
            room,
            tiers,
            sender,
            served,
            _memory: memory,
        };
        server.start(HostOptions::default());
        server
    }

    pub fn start(&mut self, options: HostOptions) {
        let (gpu, sender) = (self.gpu.clone(), self.sender.clone());
        self.host = Some(Host::start(self.served, gpu, sender, options).unwrap());
    }

    /// The tier that was loaded.
    pub fn tier(&self) -> (TierKey, Tier) {
        match self.tiers.try_recv() {
            Ok(Loaded::Tier(key, tier)) => (key, *tier),
            _ => panic!("no tier"),
        }
    }

    pub fn stop(&mut self) {
        self.host = None;
    }

    pub fn host(&self) -> &Host {
        self.host.as_ref().unwrap()
    }
}

/// Never interrupted.
pub fn go_on() -> Check {
    Box::new(|| Ok(()))
}

/// Waits until something is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(5), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a tier of an index with such codes can hold.
pub fn choices(filter: Filter) -> &'static [Parts] {
    match filter {
        Filter::OneBit => &[Parts::Rows, Parts::RowsAndCodes, Parts::Codes],
        _ => &[Parts::Rows],
    }
}

fn spec(world: &World) -> TierSpec {
    TierSpec::of_vectors(
        world.index.metric(),
        world.index.dim(),
        world.index.n_lists() as usize,
    )
}

/// An index with one-bit codes: which ones there are is left to chance.
pub fn one_bit(metric: Metric, dim: u32, lists: u32, n: u32, rng: &mut StdRng) -> World {
    loop {
        let world = World::new(metric, dim, lists, n, rng.random());
        if world.index.meta.shape().filter == Filter::OneBit {
            return world;
        }
    }
}

/// Room for all entries.
pub fn wanted(world: &World, parts: Parts, byte_limit: u64) -> Wanted {
    let lists: Vec<u32> = (0..world.index.n_lists()).collect();
    let entries = read_entries(&world.store, &world.index, &lists).unwrap();
    Wanted {
        key: TierKey {
            tablespace: 1,
            database: 2,
            number: 3,
            index: 0,
            seed: world.index.meta.rotation_seed,
            built_at: -4,
        },
        spec: spec(world),
        parts,
        n_slots: entries.iter().map(|e| u64::from(e.frozen_count)).sum(),
        byte_limit,
        displaces_last: false,
    }
}

/// The tier that a process with a device loads.
pub fn direct(gpu: &Gpu, world: &World, lists: &[u32], parts: Parts, limit: u64) -> Tier {
    let n_slots = wanted(world, parts, limit).n_slots;
    let copiers = Copiers::none();
    let mut builder =
        TierBuilder::with_parts(gpu, spec(world), parts, n_slots, limit, copiers).unwrap();
    builder.load_centroids(&world.store, &world.index).unwrap();
    builder
        .load_lists(&world.store, &world.index, lists)
        .unwrap();
    builder.finish().unwrap()
}

/// A tier of all lists, each of which may grow, loaded without a server: of so many slots, which other lists may be written to.
pub fn roomy(gpu: &Gpu, world: &World, parts: Parts, n_slots: u64, limit: u64) -> Tier {
    let spec = wanted(world, parts, limit).spec;
    let copiers = Copiers::none();
    let mut builder = TierBuilder::with_parts(gpu, spec, parts, n_slots, limit, copiers).unwrap();
    builder.align_lists();
    let lists: Vec<u32> = (0..world.index.n_lists()).collect();
    builder.load_centroids(&world.store, &world.index).unwrap();
    builder
        .load_lists(&world.store, &world.index, &lists)
        .unwrap();
    builder.finish().unwrap()
}

/// What a tier answers to some queries near the origin, of all lists.
pub fn search(tier: &Tier, world: &World, seed: u64) -> Result<BatchFound, GpuError> {
    let mut rng = StdRng::seed_from_u64(seed);
    let dim = world.index.meta.dim;
    let queries: Vec<Vec<f32>> = (0..4).map(|_| vector(&mut rng, dim)).collect();
    // Codes alone do not search exactly.
    let lists = if tier.parts().rows() {
        Lists::All
    } else {
        Lists::Nearest {
            probes: u32::MAX,
            spread: f32::INFINITY,
        }
    };
    search_for(tier, &queries, lists)
}

/// What a tier answers to queries.
pub fn search_for(tier: &Tier, queries: &[Vec<f32>], lists: Lists) -> Result<BatchFound, GpuError> {
    let dim = tier.spec().dim;
    let mut fill = |first: usize, raw: &mut [f32], bounds: &mut [QueryBound]| {
        for ((row, bound), query) in raw.chunks_exact_mut(dim).zip(bounds).zip(&queries[first..]) {
            row.copy_from_slice(query);
            let norm = query.iter().map(|x| x * x).sum::<f32>().sqrt();
            *bound = QueryBound {
                q_norm: norm * 1.001,
                q_err: 1e-6,
            };
        }
    };
    let mut batch = Batch {
        n_queries: queries.len(),
        source: Source::Fill(&mut fill),
        lists,
        skipped: &[],
        k: 10,
        want_lists: true,
        tuning: Tuning::default(),
    };
    let g = omen_ivf::bound::rounding(dim as u32);
    tier.search_batch(&mut batch, g, Duration::from_secs(60), &mut || Ok(()))
}

/// A pool of `n` threads that help with a refresh; none of none.
pub fn helpers(n: usize) -> Option<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
    (n > 0).then(|| pool.unwrap())
}
