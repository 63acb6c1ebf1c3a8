//! What is measured, and in which order. Every result is one line of JSON.

use crate::folder::Folder;
use crate::tier::{Lists, Searcher};
use omen_gpu::GpuError;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

/// Searches before those that are timed.
const WARM_UP: usize = 3;
/// Fewest and most timed searches of a point.
const REPEATS: (usize, usize) = (3, 5_000);
/// Width of the latency histogram's bins, microseconds, and how many there are.
const BIN_US: f64 = 5.0;
const BINS: usize = 200;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Batch sizes; those beyond the number of queries are cut to it. At least 1 each.
    pub batches: Vec<usize>,
    /// Batch sizes of the exact searches.
    pub exact: Vec<usize>,
    /// (k, recall) to be reached by the fewest probes.
    pub targets: Vec<(usize, f64)>,
    /// Probes of further points for the curve, k = 10.
    pub curve: Vec<usize>,
    /// Time for each point.
    pub seconds: f64,
    /// Time for everything; what does not fit is left out, and a line says so.
    pub limit: Duration,
}

/// One run over one folder.
pub struct Run<'a, W: Write> {
    folder: &'a Folder,
    searcher: &'a Searcher,
    options: &'a Options,
    out: W,
    until: Instant,
    /// Recall by k and probes, as found with all queries.
    known: BTreeMap<(usize, usize), f64>,
    /// First query of the next batch: batches go round through all queries, so that none finds its rows in a cache.
    next: usize,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

impl<'a, W: Write> Run<'a, W> {
    /// Nothing is measured yet.
    pub fn new(folder: &'a Folder, searcher: &'a Searcher, options: &'a Options, out: W) -> Self {
        Self {
            folder,
            searcher,
            options,
            out,
            until: Instant::now() + options.limit,
            known: BTreeMap::new(),
            next: 0,
        }
    }

    /// Everything, the most important first.
    pub fn all(mut self) -> Outcome<W> {
        let mut targets = self.options.targets.iter();
        let first = targets.next().copied();
        if let Some((k, recall)) = first {
            self.target(k, recall)?;
        }
        for batch in self.sizes(&self.options.exact) {
            if self.time_left("exact search") {
                let line = self.point(batch, Lists::All, 10)?;
                self.line("exact", line)?;
            }
        }
        if let Some((k, recall)) = first {
            self.latency(k, recall)?;
        }
        for &(k, recall) in targets {
            self.target(k, recall)?;
        }
        for &probes in &self.options.curve {
            if probes <= self.searcher.max_probes() && self.time_left("curve") {
                let batch = self.folder.n_queries().min(10_000);
                let line = self.point(batch, Lists::Nearest(probes), 10)?;
                self.line("curve", line)?;
            }
        }
        let bytes = self.searcher.bytes();
        let line = json!({"bytes_with_scratch": bytes, "bytes_per_vector_with_scratch": bytes as f64 / self.folder.n as f64});
        self.line("memory", line)?;
        Ok(self.out)
    }

    /// All batch sizes at the fewest probes that reach this recall.
    fn target(&mut self, k: usize, recall: f64) -> Outcome<()> {
        if !self.time_left("a target") {
            return Ok(());
        }
        let Some(probes) = self.fewest_probes(k, recall)? else {
            return self.line(
                "note",
                json!({"text": format!("recall@{k} {recall} is out of reach")}),
            );
        };
        for batch in self.sizes(&self.options.batches) {
            if self.time_left("a batch size") {
                let mut line = self.point(batch, Lists::Nearest(probes), k)?;
                line["target"] = json!(recall);
                self.line("point", line)?;
            }
        }
        Ok(())
    }

    /// These batch sizes, cut to the number of queries, each once.
    fn sizes(&self, sizes: &[usize]) -> Vec<usize> {
        let mut cut: Vec<usize> = sizes
            .iter()
            .map(|&size| size.min(self.folder.n_queries()))
            .collect();
        cut.dedup();
        cut
    }

    /// The fewest probes with this recall, to a thirtieth; `None`, and a line, if not even the most reach it or time is up.
    fn fewest_probes(&mut self, k: usize, recall: f64) -> Outcome<Option<usize>> {
        let most = self.searcher.max_probes();
        let (mut low, mut high) = (0, 8.min(most));
        while self.recall(k, high)? < recall {
            if high == most {
                let text = format!("recall@{k} {recall} is out of reach");
                self.line("note", json!({"text": text}))?;
                return Ok(None);
            }
            (low, high) = (high, (2 * high).min(most));
        }
        while high - low > (high / 30).max(1) {
            if !self.time_left("the probes of a target are found") {
                return Ok(None);
            }
            let middle = (low + high) / 2;
            if self.recall(k, middle)? < recall {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(Some(high))
    }

    /// Recall of all queries, at most 10,000 a batch.
    fn recall(&mut self, k: usize, probes: usize) -> Outcome<f64> {
        if let Some(&recall) = self.known.get(&(k, probes)) {
            return Ok(recall);
        }
        let (n, mut hits) = (self.folder.n_queries(), 0);
        let start = Instant::now();
        for first in (0..n).step_by(10_000) {
            let batch = (n - first).min(10_000);
            let found = self
                .searcher
                .search(first, batch, Lists::Nearest(probes), k)?;
            hits += self.hits(first, &found, k);
        }
        let recall = hits as f64 / (n * k) as f64;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        self.line(
            "recall",
            json!({"k": k, "probes": probes, "recall": recall, "ms": ms}),
        )?;
        self.known.insert((k, probes), recall);
        Ok(recall)
    }

    /// How many of `found` (`[n, k]`, of the queries from `first` on) are among the true `k`.
    fn hits(&self, first: usize, found: &[u32], k: usize) -> usize {
        let n = self.folder.n_queries();
        let hits = found.chunks(k).enumerate().map(|(i, found)| {
            let mut truth = self.folder.neighbors[(first + i) % n * self.folder.k..][..k].to_vec();
            truth.sort_unstable();
            found
                .iter()
                .filter(|id| truth.binary_search(id).is_ok())
                .count()
        });
        hits.sum()
    }

    /// One batch of the next queries: its milliseconds, and its hits.
    fn batch(&mut self, batch: usize, lists: Lists, k: usize) -> Result<(f64, usize), GpuError> {
        let first = self.next;
        self.next = (first + batch) % self.folder.n_queries();
        let start = Instant::now();
        let found = self.searcher.search(first, batch, lists, k)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        Ok((ms, self.hits(first, &found, k)))
    }

    /// Times batches of one size: milliseconds, ascending, and their hits.
    fn times(&mut self, batch: usize, lists: Lists, k: usize) -> Outcome<(Vec<f64>, usize)> {
        for _ in 0..WARM_UP {
            // A slow search needs no warming: what it allocates first is little of it.
            if self.batch(batch, lists, k)?.0 > 1e3 * self.options.seconds {
                break;
            }
        }
        let until =
            (Instant::now() + Duration::from_secs_f64(self.options.seconds)).min(self.until);
        let (mut times, mut hits) = (Vec::new(), 0);
        while times.len() < REPEATS.1 && (times.len() < REPEATS.0 || Instant::now() < until) {
            let (ms, found) = self.batch(batch, lists, k)?;
            times.push(ms);
            hits += found;
        }
        times.sort_by(f64::total_cmp);
        Ok((times, hits))
    }

    /// One batch size with one setting.
    fn point(&mut self, batch: usize, lists: Lists, k: usize) -> Outcome<Value> {
        let (times, hits) = self.times(batch, lists, k)?;
        let p50 = percentile(&times, 50.0);
        Ok(json!({
            "k": k,
            "probes": match lists { Lists::Nearest(probes) => json!(probes), Lists::All => json!("all") },
            "batch": batch,
            "recall": hits as f64 / (times.len() * batch * k) as f64,
            "qps": batch as f64 / p50 * 1e3,
            "p50_ms": p50,
            "p95_ms": percentile(&times, 95.0),
            "least_ms": times[0],
            "repeats": times.len(),
            "split_us": self.searcher.split_us(),
        }))
    }

    /// The spread of the times of single queries.
    fn latency(&mut self, k: usize, recall: f64) -> Outcome<()> {
        if !self.time_left("latency") {
            return Ok(());
        }
        let Some(probes) = self.fewest_probes(k, recall)? else {
            return Ok(());
        };
        let (times, _) = self.times(1, Lists::Nearest(probes), k)?;
        let mut bins = vec![0u32; BINS + 1];
        for ms in &times {
            bins[((ms * 1e3 / BIN_US) as usize).min(BINS)] += 1;
        }
        let last = bins.iter().rposition(|&n| n > 0).unwrap_or(0);
        bins.truncate(last + 1);
        let at: Vec<Value> = [1.0, 5.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0]
            .map(|p| json!([p, percentile(&times, p)]))
            .into();
        let line = json!({"k": k, "probes": probes, "repeats": times.len(), "percentiles_ms": at, "bin_us": BIN_US, "histogram": bins});
        self.line("latency", line)
    }

    /// Whether there is time for one more; says what is left out if not.
    fn time_left(&mut self, what: &str) -> bool {
        let left = Instant::now() < self.until;
        if !left {
            let text = format!("time is up before {what}");
            // A line that cannot be written will fail again with the next one.
            let _ = self.line("note", json!({"text": text}));
        }
        left
    }

    fn line(&mut self, part: &str, mut line: Value) -> Outcome<()> {
        line["part"] = json!(part);
        writeln!(self.out, "{line}")?;
        Ok(self.out.flush()?)
    }
}

/// The value that `p` percent of `sorted` do not exceed.
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let rank = (p / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
