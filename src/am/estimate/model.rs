//! The arithmetic of an estimate: what the phases of a build take, and how much memory.

use omen_gpu::GpuAssigner;
use omen_ivf::VectorKind;
use omen_ivf::layout::group::Filter;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::super::{build, calibration, sample};
use super::speed::{self, Speed};
use crate::engine::building::Work;
use crate::error::PgError;
use crate::threads;

/// Iterations of k-means, as training makes them mostly; at most ten.
const ITERATIONS: f64 = 8.0;
/// What a build keeps beside what is counted here: buffers of batches, the process itself.
const OTHER_BYTES: u64 = 48 << 20;
/// What the calibration keeps of pages.
const CALIBRATION_BYTES: u64 = 32 << 20;
/// Bytes of an entry beside its vector while entries are sorted.
const ENTRY_BYTES: u64 = 32;

/// Seconds for a byte: into buffers, into the WAL, into a temporary file and back. Memory is as fast on most machines.
const WRITE: f64 = 1.1e-9;
const LOG: f64 = 0.7e-9;
const SPILL: f64 = 1.2e-9;
/// Of a process that hands pages to workers; of workers, one at a time: making the file longer, writing the WAL to its files.
const HAND_OVER: f64 = 0.2e-9;
const EXTEND: f64 = 0.4e-9;
const LOG_FILE: f64 = 0.6e-9;
/// A GPU context, and seconds of training and calibrating with one, for a number of a row that comes from a worker, and for a byte of the index to
/// be searched for the calibration.
const CONTEXT_BYTES: u64 = 520 << 20;
const GPU_TRAINING: f64 = 0.25;
const TAKING: f64 = 1e-9;
const GPU_CALIBRATING: f64 = 0.1;
const GPU_SEARCHING: f64 = 0.04e-9;

/// A build, in numbers.
pub(super) struct Build {
    pub has_gpu: bool,
    /// Whether the GPU calibrates, too.
    pub is_loaded: bool,
    pub n_rows: u64,
    pub kind: VectorKind,
    pub filter: Filter,
    pub row_words: u32,
    pub input_words: u32,
    pub coarse_dim: u32,
    pub lists: u32,
    /// Workers that read, and those that write.
    pub workers: usize,
    pub writers: usize,
    pub sampled: u64,
    pub work_bytes: u64,
    pub index_bytes: u64,
    pub wal_bytes: u64,
}

impl Build {
    /// Seconds, phase by phase.
    pub(super) fn seconds(&self, speed: &Speed) -> f64 {
        let (n_rows, sampled) = (self.n_rows as f64, self.sampled as f64);
        let cores = threads::cores() as f64;
        let n_threads = threads::count() as f64;
        let readers = (self.workers as f64).clamp(1.0, cores);
        let is_trained = if self.lists > 1 { ITERATIONS } else { 0.0 };
        let bytes = self.index_bytes as f64;
        let sample_bytes = sampled * f64::from(self.input_words) * size_of::<f32>() as f64;
        let is_parallel = sample_bytes >= sample::MIN_PARALLEL_BYTES as f64;
        let sampling = sampled * speed.read / if is_parallel { readers } else { 1.0 };
        let assign = if self.has_gpu { 0.0 } else { speed.assign };
        let training = is_trained * sampled * assign / n_threads
            + if self.has_gpu { GPU_TRAINING } else { 0.0 };
        // With a GPU, taking the rows from the workers is what the process does.
        let (reading, assigning) = (n_rows * speed.read, n_rows * assign);
        let taking = n_rows * f64::from(self.row_words) * TAKING;
        // What runs beside each other is bound by the slowest, and by the cores they share.
        let table = (reading / readers)
            .max(assigning / n_threads)
            .max(taking)
            .max((reading + assigning) / cores);
        let entries = n_rows * (f64::from(self.row_words) * 2.0 + ENTRY_BYTES as f64);
        let is_spilled = entries > self.sort_bytes() as f64;
        let spilling = if is_spilled { entries * SPILL } else { 0.0 };
        let queries = if self.lists > 1 {
            let wanted = sample::n_queries(self.sampled as usize);
            let n = calibration::affordable(
                wanted,
                self.n_rows,
                self.kind,
                self.row_words,
                self.filter,
            );
            n as f64
        } else {
            0.0
        };
        let meeting = n_rows * speed.compare + f64::from(self.lists) * speed.list;
        let calibrating = if self.is_loaded {
            GPU_CALIBRATING + bytes * GPU_SEARCHING
        } else {
            queries * (meeting / n_threads + speed.query) + bytes * speed.copy * queries.min(1.0)
        };
        let (writing, logging) = self.writing(n_rows * speed.encode / n_threads);
        // Workers log what is left while the process calibrates.
        let logging = (logging - calibrating).max(0.0);
        let parts = [
            ("sampling", sampling),
            ("k-means", training),
            ("reading and assigning", table),
            ("sorting in a file", spilling),
            ("writing", writing),
            ("calibrating", calibrating),
            ("logging", logging),
        ];
        let told = parts.map(|(name, seconds)| format!("{name} {seconds:.2} s"));
        PgError::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            "omen expects of a build",
        )
        .with_detail(format!("{}.", told.join(", ")))
        .report(PgLogLevel::DEBUG1);
        speed::STEADY + parts.iter().map(|part| part.1).sum::<f64>()
    }

    /// Seconds until all pages are in buffers, and from then on until they are logged, where threads need so many to encode.
    fn writing(&self, encoding: f64) -> (f64, f64) {
        let (bytes, wal) = (self.index_bytes as f64, self.wal_bytes as f64);
        if self.writers == 0 {
            // Threads encode while the process writes and logs.
            return ((bytes * WRITE + wal * LOG).max(encoding), 0.0);
        }
        let (cores, n_threads) = (threads::cores() as f64, threads::count() as f64);
        let writers = (self.writers as f64).min(cores);
        let work = bytes * WRITE + wal * LOG;
        let put = encoding
            .max(bytes * HAND_OVER)
            .max(bytes * EXTEND)
            .max(bytes * WRITE / writers);
        // One process at a time writes what is logged to its file; the cores are shared.
        let all = put
            .max(wal * LOG_FILE)
            .max(work / writers)
            .max((work + encoding * n_threads) / cores);
        (put, all - put)
    }

    /// The most bytes of device memory that a phase takes: training and assigning, or the index for the calibration.
    pub(super) fn device(&self, work: &Work) -> u64 {
        let assigning = GpuAssigner::bytes_needed(work.dim, work.lists, work.n_sampled);
        let tier = if self.is_loaded { self.index_bytes } else { 0 };
        CONTEXT_BYTES + assigning.max(tier)
    }

    /// Bytes for rows on their way, beside those that are sorted.
    fn ahead_bytes(&self) -> u64 {
        build::ahead_bytes(self.work_bytes as usize) as u64
    }

    /// Bytes for those.
    fn sort_bytes(&self) -> u64 {
        build::sort_bytes(self.work_bytes as usize, self.workers, self.has_gpu) as u64
    }

    /// The most bytes that a phase takes.
    pub(super) fn memory(&self) -> u64 {
        let bytes_of = |words: u32| u64::from(words) * size_of::<f32>() as u64;
        let (input, coarse) = (bytes_of(self.input_words), bytes_of(self.coarse_dim));
        let centroids = u64::from(self.lists) * coarse * 3;
        // The sample, and what is trained on.
        let training = self.sampled * (input + coarse) + centroids;
        let entries = self.n_rows * (bytes_of(self.row_words) / 2 + ENTRY_BYTES);
        let ahead = self.ahead_bytes();
        let sorting = entries.min(self.sort_bytes()) + ahead + centroids;
        let own = build::own_bytes(self.workers, self.has_gpu) as u64;
        let calibrating = CALIBRATION_BYTES + sample::MAX_QUERIES as u64 * (input + coarse);
        OTHER_BYTES + training.max(sorting + own).max(calibrating)
    }
}
