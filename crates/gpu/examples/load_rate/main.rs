//! How fast an index is loaded from pages in memory, beside one plain copy of page-locked memory; and where the time goes.
//!
//!     cargo run --release -p omen_gpu --example load_rate [-- rows=1000000 dim=768 lists=4096 threads=8,14 areas=4 area_kb=4096 job_kb=128 pins=512]
//!
//! Without the last five a sweep of these: each by itself, the others as usual. With them every combination of the values given.
//! A sweep ends after 36 seconds (`seconds=`). Rates are of the bytes on the pages that are copied, over loading lists and
//! finishing; the first load of a context page-locks the areas, which is told apart.

mod bounds;
mod flat;

use flat::{Flat, build};
use omen_gpu::engine::LoadShape;
use omen_gpu::memory::{Parts, with_spare};
use omen_gpu::{Copiers, Gpu, GpuError, LoadError, LoadTimes, TierBuilder, TierSpec};
use omen_ivf::index::Index;
use omen_ivf::layout::group::{Filter, GroupShape};
use std::time::{Duration, Instant};

/// Loads of one kind; the first is not counted, since its areas may have to be made.
const LOADS: usize = 4;

/// How to load.
#[derive(Clone, Copy)]
struct Way {
    threads: usize,
    shape: LoadShape,
    pins: usize,
}

/// How long a load took.
struct Took {
    begin: Duration,
    lists: Duration,
    finish: Duration,
    times: LoadTimes,
}

impl Took {
    /// Of what the rates are.
    fn seconds(&self) -> f64 {
        (self.lists + self.finish).as_secs_f64()
    }
}

/// What is loaded.
struct Source {
    store: Flat,
    index: Index,
    parts: Parts,
    bytes: usize,
}

fn load(gpu: &Gpu, source: &mut Source, way: Way) -> Result<Took, LoadError> {
    source.store.max_pins = way.pins;
    let (store, index) = (&source.store, &source.index);
    let lists: Vec<u32> = (0..index.n_lists()).collect();
    let spec = TierSpec::of_vectors(index.metric(), index.dim(), lists.len());
    let n_slots = with_spare(index.meta.built_rows);
    let start = Instant::now();
    let copiers = Copiers::with_threads(way.threads);
    let mut builder = TierBuilder::with_parts(gpu, spec, source.parts, n_slots, 1 << 38, copiers)?;
    builder.set_load_shape(way.shape);
    builder.load_centroids(store, index)?;
    let begin = start.elapsed();
    let start = Instant::now();
    builder.load_lists(store, index, &lists)?;
    let lists_took = start.elapsed();
    let times = builder.load_times();
    let start = Instant::now();
    let tier = builder.finish()?;
    let finish = start.elapsed();
    let held = tier.lists().iter().flatten().count();
    assert_eq!(held, lists.len(), "all lists are loaded");
    Ok(Took {
        begin,
        lists: lists_took,
        finish,
        times,
    })
}

fn heading() {
    println!(
        "threads areas  area    job pins |  GB/s  best (% of bus) | begin lists finish | waits: copies device areas sending, rest | busy, GB/s a thread"
    );
}

/// A line of the table: of `took` the median.
fn line(way: Way, source: &Source, plain: f64, mut took: Vec<Took>) {
    took.sort_by(|a, b| a.seconds().total_cmp(&b.seconds()));
    let rate = |took: &Took| source.bytes as f64 / took.seconds() / 1e9;
    let (best, took) = (rate(&took[0]), &took[took.len() / 2]);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let times = took.times;
    let waits = times.copies + times.device + times.areas + times.sending;
    println!(
        "{:>7} {:>5} {:>2} MB {:>3} kB {:>4} | {:>5.1} {:>5.1} ({:>3.0} %)       | {:>5.1} {:>5.1} {:>6.1} |        {:>6.1} {:>6.1} {:>5.1} {:>7.1} {:>5.1} | {:>3.0} %, {:>4.1}",
        way.threads,
        way.shape.n_areas,
        way.shape.area_bytes >> 20,
        way.shape.job_bytes >> 10,
        way.pins,
        rate(took),
        best,
        rate(took) / plain * 100.0,
        ms(took.begin),
        ms(took.lists),
        ms(took.finish),
        ms(times.copies),
        ms(times.device),
        ms(times.areas),
        ms(times.sending),
        ms(took.lists.saturating_sub(waits)),
        times.copying.as_secs_f64() / took.lists.as_secs_f64() / way.threads.max(1) as f64 * 100.0,
        source.bytes as f64 / times.copying.as_secs_f64() / 1e9,
    );
}

/// The first GPU; with the feature `simulated` and OMEN_TIMINGS_SIMULATED set, the simulated one.
fn open() -> Result<Gpu, GpuError> {
    #[cfg(feature = "simulated")]
    if std::env::var_os("OMEN_TIMINGS_SIMULATED").is_some() {
        return Ok(Gpu::open_simulated());
    }
    Gpu::open(0)
}

/// The values given for `name`.
fn values(name: &str) -> Option<Vec<usize>> {
    std::env::args().find_map(|argument| {
        let (key, value) = argument.split_once('=')?;
        (key == name).then(|| value.split(',').filter_map(|v| v.parse().ok()).collect())
    })
}

fn value(name: &str, default: usize) -> usize {
    values(name)
        .and_then(|v| v.first().copied())
        .unwrap_or(default)
}

/// The ways to compare.
fn sweep(usual: Way, cores: usize) -> Vec<Way> {
    let given = ["threads", "areas", "area_kb", "job_kb", "pins"].map(values);
    let way = |[threads, n_areas, area_kb, job_kb, pins]: [usize; 5]| Way {
        threads,
        shape: LoadShape {
            n_areas,
            area_bytes: area_kb << 10,
            job_bytes: job_kb << 10,
        }
        .within_bounds(),
        pins,
    };
    let (shape, pins) = (usual.shape, usual.pins);
    let usual = [
        usual.threads,
        shape.n_areas,
        shape.area_bytes >> 10,
        shape.job_bytes >> 10,
        pins,
    ];
    if given.iter().any(|values| values.is_some()) {
        let mut ways = vec![usual];
        for (i, values) in given.iter().enumerate() {
            if let Some(values) = values {
                let each = ways.iter().flat_map(|way| {
                    values.iter().map(move |&value| {
                        let mut way = *way;
                        way[i] = value;
                        way
                    })
                });
                ways = each.collect();
            }
        }
        return ways.into_iter().map(way).collect();
    }
    let others: [&[usize]; 5] = [
        &[2, 4, 6, 8, 10, 12, 14, cores],
        &[3, 6, 8],
        &[1 << 10, 2 << 10, 8 << 10],
        &[32, 64, 256],
        &[256, 1024, 2048],
    ];
    let mut ways = vec![usual];
    for (i, values) in others.into_iter().enumerate() {
        for &value in values {
            let mut way = usual;
            way[i] = value;
            // Of threads beyond the cores nothing is to be learnt.
            if value != usual[i] && (i != 0 || value <= cores) {
                ways.push(way);
            }
        }
    }
    ways.into_iter().map(way).collect()
}

fn main() -> Result<(), LoadError> {
    let start = Instant::now();
    let (rows, dim, lists) = (
        value("rows", 1_000_000),
        value("dim", 768),
        value("lists", 4096),
    );
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let usual = Way {
        threads: Copiers::usual_threads(),
        shape: LoadShape::DEFAULT,
        pins: 512,
    };
    let gpu = open()?;
    let (store, index) = build(rows, dim, lists)?;
    println!(
        "{rows} x {dim} in {lists} lists: {} MB of pages, built in {:.1} s; {cores} cores",
        store.bytes().len() >> 20,
        start.elapsed().as_secs_f64()
    );
    let plain = bounds::plain_copy(&gpu)? / 1e9;
    let lock = bounds::page_lock(&gpu)?;
    println!("one plain copy to the device: {plain:.1} GB/s; page-locking 16 MB: {lock:.1} ms");
    print!("threads that only copy:");
    for n in [1, 2, 4, 6, 8, 10, 12, 14, 16] {
        if n <= cores {
            let rate = bounds::copies_alone(store.bytes(), n) / 1e9;
            print!(" {n}: {rate:.1}");
        }
    }
    println!(" GB/s");

    let filter = index.meta.shape().filter;
    let group_bytes = GroupShape::new(filter, dim as u32).bytes();
    let (row_bytes, groups) = (2 * dim * rows, rows.div_ceil(32));
    let mut cases = vec![("rows", Parts::Rows, row_bytes + groups * 768)];
    if filter == Filter::OneBit {
        let bytes = groups * group_bytes;
        cases.push(("codes", Parts::Codes, bytes));
        cases.push(("rows and codes", Parts::RowsAndCodes, row_bytes + bytes));
    }
    let mut source = Source {
        store,
        index,
        parts: Parts::Rows,
        bytes: 0,
    };
    println!(
        "times in ms; \"first\": the first load of the context, else the median of later ones"
    );
    let mut is_first = true;
    for &(name, parts, bytes) in &cases {
        (source.parts, source.bytes) = (parts, bytes);
        println!(
            "{name}:{}",
            if is_first { " (first, then later)" } else { "" }
        );
        heading();
        let first = load(&gpu, &mut source, usual)?;
        if is_first {
            line(usual, &source, plain, vec![first]);
        }
        is_first = false;
        repeat(&gpu, &mut source, usual, plain)?;
    }
    println!("{}, other ways:", cases[cases.len() - 1].0);
    heading();
    let until = Duration::from_secs(value("seconds", 36) as u64);
    for way in sweep(usual, cores) {
        if start.elapsed() > until {
            println!("(time is up)");
            break;
        }
        load(&gpu, &mut source, way)?;
        repeat(&gpu, &mut source, way, plain)?;
    }
    Ok(())
}

/// Loads again and again, and prints the line.
fn repeat(gpu: &Gpu, source: &mut Source, way: Way, plain: f64) -> Result<(), LoadError> {
    let took: Result<Vec<Took>, LoadError> = (1..LOADS).map(|_| load(gpu, source, way)).collect();
    line(way, source, plain, took?);
    Ok(())
}
