//! Measures searches of a tier, without a server: recall, queries per second, latency, exact search, device memory.
//!
//!     gpu_search FOLDER [--batches 10000,1024,128,16,1] [--exact 1,16,256,1024] [--targets 10:0.957,10:0.99,100:0.957]
//!                       [--sweep "first_rows=512;code_queries=1024,code_sharing=64"] [--points 1024:124:10,16:0:10]
//!                       [--curve 8,16,32,64,128,256,512] [--seconds 0.5] [--limit 240] [--device 0] [--no-codes] [--simulated]
//!
//! FOLDER is made by `benches/gpu/data.py`. One line of JSON a result, on standard output; `benches/gpu/report.py` reads them.
//! The tier holds one-bit codes where an index would (512 dimensions and more); `--no-codes`: rows alone. `--simulated`: the device
//! in host memory (feature `simulated`), to try the program itself.

mod folder;
mod measure;
mod sweep;
mod tier;

#[cfg(all(test, feature = "simulated"))]
mod tests;

use folder::Folder;
use measure::{Options, Run};
use omen_gpu::Gpu;
use omen_ivf::layout::group::Filter;
use serde_json::json;
use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tier::Searcher;

/// The command line.
struct Arguments {
    folder: PathBuf,
    device: i32,
    simulated: bool,
    /// Settings to compare at `points` instead of measuring all.
    sweep: Vec<String>,
    points: Vec<sweep::Point>,
    codes: bool,
    options: Options,
}

fn list<T: FromStr>(text: &str) -> Result<Vec<T>, T::Err> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect()
}

fn target(text: &str) -> Result<(usize, f64), Box<dyn Error>> {
    let (k, recall) = text.split_once(':').ok_or("a target is k:recall")?;
    Ok((k.parse()?, recall.parse()?))
}

fn point(text: &str) -> Result<sweep::Point, Box<dyn Error>> {
    let numbers: Vec<usize> = text.split(':').map(str::parse).collect::<Result<_, _>>()?;
    match numbers[..] {
        [batch, probes, k] => Ok((batch, probes, k)),
        _ => Err("a point is batch:probes:k".into()),
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, Box<dyn Error>> {
    let mut arguments = Arguments {
        folder: words.next().ok_or("which folder?")?.into(),
        device: 0,
        simulated: false,
        sweep: Vec::new(),
        points: vec![(10_000, 124, 10), (1_024, 124, 10), (128, 124, 10)],
        codes: true,
        options: Options {
            batches: vec![10_000, 1_024, 128, 16, 1],
            exact: vec![1, 16, 256, 1_024],
            targets: vec![(10, 0.957), (10, 0.99), (100, 0.957)],
            curve: vec![8, 16, 32, 64, 128, 256, 512],
            seconds: 0.5,
            limit: Duration::from_secs(240),
        },
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--simulated" => {
                arguments.simulated = true;
                continue;
            }
            "--no-codes" => {
                arguments.codes = false;
                continue;
            }
            _ => {}
        }
        let value = words.next().ok_or_else(|| format!("{word} what?"))?;
        let options = &mut arguments.options;
        match word.as_str() {
            "--device" => arguments.device = value.parse()?,
            "--batches" => options.batches = list(&value)?,
            "--exact" => options.exact = list(&value)?,
            "--curve" => options.curve = list(&value)?,
            "--targets" => {
                options.targets = list::<String>(&value)?
                    .iter()
                    .map(|text| target(text))
                    .collect::<Result<_, _>>()?;
            }
            "--sweep" => arguments.sweep = value.split(';').map(str::to_owned).collect(),
            "--points" => {
                arguments.points = list::<String>(&value)?
                    .iter()
                    .map(|text| point(text))
                    .collect::<Result<_, _>>()?;
            }
            "--seconds" => options.seconds = value.parse()?,
            "--limit" => options.limit = Duration::from_secs_f64(value.parse()?),
            _ => return Err(format!("unknown option {word}").into()),
        }
    }
    Ok(arguments)
}

fn open(arguments: &Arguments) -> Result<Gpu, Box<dyn Error>> {
    if !arguments.simulated {
        return Ok(Gpu::open(arguments.device)?);
    }
    #[cfg(feature = "simulated")]
    return Ok(Gpu::open_simulated());
    #[cfg(not(feature = "simulated"))]
    Err("built without the feature `simulated`".into())
}

/// Loads the folder into a tier of `gpu`, with or without codes, and measures.
fn run<W: Write>(
    gpu: &Gpu,
    folder: &Folder,
    codes: bool,
    options: &Options,
    mut out: W,
) -> Result<W, Box<dyn Error>> {
    let start = Instant::now();
    let tier = tier::load(gpu, folder, codes)?;
    let (seconds, bytes) = (start.elapsed().as_secs_f64(), tier.bytes());
    let [rows, both, codes_only] = tier::planned_bytes(folder)?;
    let line = json!({
        "part": "load",
        "rows": folder.n,
        "dim": folder.dim,
        "lists": folder.n_lists(),
        "seconds": seconds,
        "bytes": bytes,
        "bytes_per_vector": bytes as f64 / folder.n as f64,
        "codes": codes,
        "planned_bytes_per_vector": {
            "rows": rows as f64 / folder.n as f64,
            "rows and codes": both as f64 / folder.n as f64,
            "codes": codes_only as f64 / folder.n as f64,
        },
        "gb_per_s": bytes as f64 / seconds / 1e9,
    });
    writeln!(out, "{line}")?;
    let searcher = Searcher::new(gpu, tier, folder)?;
    Run::new(folder, &searcher, options, out).all()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments(std::env::args().skip(1))?;
    let options = &arguments.options;
    let zero = options.targets.iter().any(|(k, _)| *k == 0)
        || [&options.batches, &options.exact, &options.curve]
            .iter()
            .any(|sizes| sizes.contains(&0));
    if zero || !(0.0..1e6).contains(&options.seconds) {
        return Err("k, batch sizes and probes are at least 1, times at least 0".into());
    }
    let folder = Folder::open(&arguments.folder)?;
    let most = arguments.options.targets.iter().map(|t| t.0).max();
    if most.unwrap_or(10).max(10) > folder.k {
        return Err(format!("the folder knows {} neighbours a query", folder.k).into());
    }
    let codes = arguments.codes && Filter::for_dim(folder.dim as u32) == Filter::OneBit;
    let gpu = open(&arguments)?;
    if arguments.sweep.is_empty() {
        run(&gpu, &folder, codes, &arguments.options, std::io::stdout())?;
        return Ok(());
    }
    let mut searcher = Searcher::new(&gpu, tier::load(&gpu, &folder, codes)?, &folder)?;
    let (sweep, points) = (&arguments.sweep, &arguments.points);
    sweep::sweep(
        &folder,
        &mut searcher,
        sweep,
        points,
        &mut std::io::stdout(),
    )
}
