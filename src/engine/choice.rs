//! Which engine answers a round or a batch when `omen.engine` is auto: what both have cost so far, per index and number of
//! lists.
//!
//! Without a hot tier the GPU is chosen once this session has spent as much time searching the index on the CPU as loading
//! is predicted to take: at worst, twice the time of the better choice. With a hot tier the cheaper engine by running average
//! is chosen; now and then the other is tried, so that the averages do not grow old. Of a batch what is still to come counts
//! as spent, by what its first queries took.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use omen_ivf::index::Index;

use crate::compat::FileId;

/// Creating a context and loading the kernels.
const OPEN_TIME: Duration = Duration::from_millis(300);
/// Reading pages and copying them to the device, bytes a second, before anything was measured.
const LOAD_RATE: f64 = 5e9;
/// Weight of a new measurement in a running average.
const WEIGHT: f64 = 0.2;
/// The dearer engine is tried once in so many rounds, times how much dearer it is, if that is not more than `MAX_DEARER` times.
const TRY_EVERY: f64 = 64.0;
const MAX_DEARER: f64 = 8.0;
/// A search on the CPU, of which none was measured, is guessed to take so many seconds, and more by the entry and its dimensions; if that is
/// not so many times what the GPU takes, it is tried.
const GUESS: f64 = 20e-6;
const GUESS_ENTRY: f64 = 3e-9;
const GUESS_DIMENSION: f64 = 30e-12;
const WORTH_A_TRY: f64 = 2.0;
/// Sessions remember so many files.
const MAX_FILES: usize = 1024;

/// Classes of lists searched: 2^16 lists by 2^14 queries are more than there are.
const N_CLASSES: usize = 31;

/// A running average of seconds. The first measurement finds everything cold: it goes when the second comes.
#[derive(Default, Clone, Copy)]
struct Average {
    seconds: f64,
    n_measured: u32,
}

impl Average {
    fn add(&mut self, seconds: f64) {
        let weight = if self.n_measured < 2 { 1.0 } else { WEIGHT };
        self.seconds += weight * (seconds - self.seconds);
        self.n_measured = self.n_measured.saturating_add(1);
    }
}

/// Average seconds of a round, by the binary logarithm of the number of lists, those of all its queries together.
#[derive(Default, Clone, Copy)]
struct Averages([Average; N_CLASSES]);

impl Averages {
    fn add(&mut self, n_lists: usize, seconds: f64) {
        self.0[size_class(n_lists)].add(seconds);
    }

    /// The average of this class, or of the nearest one in proportion; `None` without one that counts.
    fn predict(&self, n_lists: usize) -> Option<f64> {
        self.of_measured(n_lists, 2)
    }

    /// The same, of classes with so many measurements.
    fn of_measured(&self, n_lists: usize, least: u32) -> Option<f64> {
        let class = size_class(n_lists);
        let known = (0..self.0.len()).filter(|&c| self.0[c].n_measured >= least);
        let nearest = known.min_by_key(|&c| c.abs_diff(class))?;
        Some(self.0[nearest].seconds * 2f64.powi(class as i32 - nearest as i32))
    }
}

fn size_class(n_lists: usize) -> usize {
    (n_lists.max(1).ilog2() as usize).min(N_CLASSES - 1)
}

#[derive(Default, Clone, Copy)]
struct Costs {
    cpu: Averages,
    gpu: Averages,
    /// Of batches, whose queries share the work.
    gpu_batch: Averages,
    /// CPU time spent on what the GPU could have done: without a tier, or with one that is out of date.
    unserved: Duration,
    since_try: u32,
}

thread_local! {
    static COSTS: RefCell<HashMap<FileId, Costs>> = RefCell::default();
}

fn with<R>(file: FileId, f: impl FnOnce(&mut Costs) -> R) -> R {
    COSTS.with_borrow_mut(|costs| {
        if costs.len() >= MAX_FILES && !costs.contains_key(&file) {
            costs.clear();
        }
        f(costs.entry(file).or_default())
    })
}

/// A whole round over so many lists took so long on the CPU.
pub(super) fn note_cpu(file: FileId, n_lists: usize, elapsed: Duration) {
    with(file, |costs| {
        costs.cpu.add(n_lists, elapsed.as_secs_f64());
        costs.unserved += elapsed;
    });
}

/// A round with the hot tier took so long, vectors included that the CPU read where the tier has codes alone; of which `stale` went to
/// lists that are out of date there.
pub(super) fn note_gpu(file: FileId, n_lists: usize, elapsed: Duration, stale: Duration) {
    with(file, |costs| {
        costs.gpu.add(n_lists, elapsed.as_secs_f64());
        costs.unserved += stale;
    });
}

/// As [`note_gpu`], of a batch whose queries have so many lists together.
pub(super) fn note_gpu_batch(file: FileId, n_lists: usize, elapsed: Duration, stale: Duration) {
    with(file, |costs| {
        costs.gpu_batch.add(n_lists, elapsed.as_secs_f64());
        costs.unserved += stale;
    });
}

/// The shared service is asked to load the tier: it is not asked again before that would pay again.
pub(super) fn note_asked(file: FileId) {
    with(file, |costs| costs.unserved = Duration::ZERO);
}

/// The tier has been loaded.
pub(super) fn note_loaded(file: FileId) {
    with(file, |costs| {
        costs.unserved = Duration::ZERO;
        costs.gpu = Averages::default();
        costs.gpu_batch = Averages::default();
    });
}

/// Seconds that so many searches of so many lists each would take on the CPU, 0 if none was measured yet.
pub(super) fn cpu_seconds(file: FileId, n_queries: usize, n_lists: usize) -> f64 {
    with(file, |costs| costs.cpu.of_measured(n_lists, 1)).unwrap_or(0.0) * n_queries as f64
}

/// Bytes of an index that are read to load its tier, about.
pub(super) fn bytes_to_load(index: &Index) -> u64 {
    index.meta.built_rows * (2 * index.entry_words() as u64 + 16)
}

/// What it takes until the GPU can be used.
pub(super) fn open_time(is_open: bool) -> Duration {
    if is_open { Duration::ZERO } else { OPEN_TIME }
}

/// Whether loading a tier of `n_bytes` has paid by now, or will with another `to_come` seconds on the CPU. `load_time`: what it
/// took the last time, if there was one.
pub(super) fn loading_pays(
    file: FileId,
    n_bytes: u64,
    is_open: bool,
    load_time: Option<Duration>,
    to_come: f64,
) -> bool {
    let predicted =
        load_time.unwrap_or_else(|| Duration::from_secs_f64(n_bytes as f64 / LOAD_RATE));
    let open = open_time(is_open);
    let unserved = with(file, |costs| costs.unserved.as_secs_f64());
    unserved + to_come > (predicted + open).as_secs_f64()
}

/// Whether the GPU that this session shares with many others is the better choice for a round over so many lists. They fill the cores, and what it
/// takes is mostly waiting: searching on the CPU, the session would take from the others what it gains.
pub(super) fn prefers_crowded_gpu(file: FileId, n_lists: usize) -> bool {
    with(file, |costs| {
        !is_much_dearer(costs.gpu.predict(n_lists), costs.cpu.predict(n_lists))
    })
}

/// As [`prefers_crowded_gpu`], for so many queries of so many lists each.
pub(super) fn prefers_crowded_gpu_for_batch(
    file: FileId,
    n_queries: usize,
    n_lists: usize,
) -> bool {
    with(file, |costs| {
        let (gpu, cpu) = costs.of_batch(n_queries, n_lists);
        !is_much_dearer(gpu, cpu)
    })
}

/// Whether the GPU, by the seconds predicted for both, is out of the question.
fn is_much_dearer(gpu: Option<f64>, cpu: Option<f64>) -> bool {
    matches!((gpu, cpu), (Some(gpu), Some(cpu)) if cpu * MAX_DEARER < gpu)
}

/// Whether the GPU is the better choice for a round over so many lists, given a loaded tier.
pub(super) fn prefers_gpu(file: FileId, index: &Index, n_lists: usize) -> bool {
    with(file, |costs| {
        let (gpu, cpu) = (costs.gpu.predict(n_lists), costs.cpu.predict(n_lists));
        costs.prefer_gpu(gpu, cpu, cpu_guess(index, n_lists))
    })
}

/// As [`prefers_gpu`], for so many queries of so many lists each.
pub(super) fn prefers_gpu_for_batch(
    file: FileId,
    index: &Index,
    n_queries: usize,
    n_lists: usize,
) -> bool {
    with(file, |costs| {
        let (gpu, cpu) = costs.of_batch(n_queries, n_lists);
        let guess = cpu_guess(index, n_lists) * n_queries as f64;
        costs.prefer_gpu(gpu, cpu, guess)
    })
}

/// Seconds that a search of so many lists may take on the CPU, where none was measured: a session need not have searched there before the
/// tier was, as others load it too.
fn cpu_guess(index: &Index, n_lists: usize) -> f64 {
    let share = n_lists as f64 / f64::from(index.n_lists().max(1));
    let entries = index.meta.built_rows as f64 * share.min(1.0);
    GUESS + entries * (GUESS_ENTRY + GUESS_DIMENSION * index.entry_words() as f64)
}

impl Costs {
    /// Seconds predicted for so many queries of so many lists each, on the GPU together, on the CPU one after another.
    fn of_batch(&self, n_queries: usize, n_lists: usize) -> (Option<f64>, Option<f64>) {
        let gpu = self.gpu_batch.predict(n_queries * n_lists);
        let cpu = self.cpu.predict(n_lists);
        (gpu, cpu.map(|cpu| cpu * n_queries as f64))
    }

    /// Whether the GPU is to be taken, by the seconds predicted for both. What is not known yet is found out, of the CPU only if by `guess`
    /// it is worth a try.
    fn prefer_gpu(&mut self, gpu: Option<f64>, cpu: Option<f64>, guess: f64) -> bool {
        let Some(gpu) = gpu else { return true };
        let Some(cpu) = cpu else {
            return guess > gpu * WORTH_A_TRY;
        };
        self.since_try += 1;
        let (cheap, dear) = if gpu < cpu { (gpu, cpu) } else { (cpu, gpu) };
        let times = dear / cheap;
        let other = f64::from(self.since_try) >= TRY_EVERY * times && times < MAX_DEARER;
        if other {
            self.since_try = 0;
        }
        (gpu < cpu) != other
    }
}
