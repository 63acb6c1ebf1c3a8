//! The same searches with other settings of `Tuning`, side by side: where the crossovers are.

use crate::folder::Folder;
use crate::tier::{Lists, Searcher, tuning_of};
use omen_gpu::GpuError;
use serde_json::json;
use std::io::Write;
use std::time::Instant;

const WARM_UPS: usize = 3;
const RUNS: usize = 11;

/// A search to time: batch, probes (0: all), k.
pub type Point = (usize, usize, usize);

/// Times every point with every tuning (`name=number,...`): a line of JSON each, with the median of a few runs.
pub fn sweep<W: Write>(
    folder: &Folder,
    searcher: &mut Searcher,
    tunings: &[String],
    points: &[Point],
    out: &mut W,
) -> Result<(), Box<dyn std::error::Error>> {
    for &(batch, probes, k) in points {
        let batch = batch.min(folder.n_queries());
        let lists = match probes {
            0 => Lists::All,
            probes => Lists::Nearest(probes),
        };
        for text in tunings {
            searcher.set_tuning(tuning_of(text));
            let ms = median_ms(searcher, folder.n_queries(), batch, lists, k)?;
            let qps = batch as f64 / ms * 1e3;
            let line = json!({"part": "sweep", "tuning": text, "batch": batch, "probes": probes, "k": k, "ms": ms, "qps": qps, "split_us": searcher.split_us()});
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

fn median_ms(
    searcher: &Searcher,
    n_queries: usize,
    batch: usize,
    lists: Lists,
    k: usize,
) -> Result<f64, GpuError> {
    let mut times = Vec::new();
    for run in 0..WARM_UPS + RUNS {
        let start = Instant::now();
        searcher.search(run * batch % n_queries, batch, lists, k)?;
        if run >= WARM_UPS {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}
