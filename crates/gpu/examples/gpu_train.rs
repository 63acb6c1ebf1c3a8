//! Times the training of centroids and the assignment of all rows, from memory, without a server.
//!
//!     gpu_train FOLDER [--lists N] [--threads N] [--cpu] [--rows N] [--simulated]
//!
//! FOLDER is made by `benches/gpu/data.py`; of it only the rows are used. `--lists`: by default what an index of so many rows gets; `--rows`: the first
//! so many. `--cpu`: also on threads alone, for comparison. `--simulated`: the device in host memory (feature `simulated`), to try the program itself. Prints lines of JSON: `train` with seconds of each step and the mean squared distance of
//! a thousandth of the rows to their centroids.

use half::f16;
use omen_gpu::assign::{Failure, RowAssigner, SampleAssigner};
use omen_gpu::{Gpu, GpuAssigner};
use omen_ivf::assign::Assign;
use omen_ivf::kmeans::{OnThreads, train_by};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Rows of the sample per list, as the build of an index takes.
const PER_LIST: usize = 64;
/// Rows handed over at a time.
const CHUNK: usize = 16_384;

fn rows_of(folder: &Path, most: usize) -> Outcome<(Vec<f16>, usize)> {
    let meta: Value = serde_json::from_reader(File::open(folder.join("meta.json"))?)?;
    let size = |name: &str| meta[name].as_u64().unwrap_or(0) as usize;
    let (n, dim) = (size("n").min(most), size("dim"));
    let mut rows = vec![f16::ZERO; n * dim];
    File::open(folder.join("rows.f16"))?.read_exact(bytemuck::cast_slice_mut(&mut rows))?;
    Ok((rows, dim))
}

/// Trains and assigns; prints what each step took.
fn run(rows: &[f16], dim: usize, lists: usize, threads: usize, gpu: Option<&Gpu>) -> Outcome<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let pool = Arc::new(pool.build()?);
    let (n, began) = (rows.len() / dim, Instant::now());
    // Rows are sorted by list: every so many of them are as good as random ones.
    let n_sampled = (lists * PER_LIST).min(n);
    let mut sample = vec![0f32; n_sampled * dim];
    pool.install(|| {
        sample
            .par_chunks_exact_mut(dim)
            .enumerate()
            .for_each(|(i, to)| {
                omen_distance::f32_from_f16(&rows[i * n / n_sampled * dim..][..dim], to);
            });
    });
    let sampled = began.elapsed();
    let failure = Failure::default();
    let device: Option<GpuAssigner> = gpu
        .map(|gpu| gpu.assigner(dim, lists, n_sampled, u64::MAX))
        .transpose()?;
    let threads_of = OnThreads {
        sample: &sample,
        dim,
        pool: &pool,
    };
    let mut assigner = SampleAssigner::new(device, failure.clone(), threads_of);
    let centroids = train_by(&mut assigner, &sample, dim, lists, 7, &pool, &mut || Ok(()))?;
    let trained = began.elapsed();
    let mut stored = vec![f16::ZERO; centroids.len()];
    omen_distance::f16_from_f32(&centroids, &mut stored);
    let mut by_row = RowAssigner::new(
        assigner.into_device(),
        failure.clone(),
        &stored,
        dim,
        pool.clone(),
    );
    let mut found: Vec<u32> = Vec::with_capacity(n);
    for chunk in rows.chunks(CHUNK * dim) {
        found.extend(by_row.assign(chunk));
    }
    let assigned = began.elapsed();
    let (mut sum, mut n_looked) = (0f64, 0);
    for (row, list) in rows.chunks_exact(dim).zip(&found).step_by(1000) {
        let centroid = &centroids[*list as usize * dim..][..dim];
        sum += f64::from(omen_distance::l2sq_f16(centroid, row));
        n_looked += 1;
    }
    let line = json!({
        "part": "train", "rows": n, "dim": dim, "lists": lists, "threads": threads, "sampled": n_sampled,
        "engine": if gpu.is_some() { "gpu" } else { "cpu" },
        "sample_s": sampled.as_secs_f64(),
        "train_s": (trained - sampled).as_secs_f64(),
        "assign_s": (assigned - trained).as_secs_f64(),
        "total_s": assigned.as_secs_f64(),
        "mean_l2sq": sum / f64::from(n_looked),
        "failure": failure.get().map(|error| error.to_string()),
    });
    println!("{line}");
    Ok(())
}

fn open(simulated: bool) -> Outcome<Gpu> {
    if !simulated {
        return Ok(Gpu::open(0)?);
    }
    #[cfg(feature = "simulated")]
    return Ok(Gpu::open_simulated());
    #[cfg(not(feature = "simulated"))]
    Err("built without the feature `simulated`".into())
}

fn main() -> Outcome<()> {
    let mut words = std::env::args().skip(1);
    let folder = words.next().ok_or("which folder?")?;
    let (mut lists, mut threads, mut with_cpu, mut most) = (0, 0, false, usize::MAX);
    let mut simulated = false;
    while let Some(word) = words.next() {
        let mut number = || words.next().unwrap_or_default().parse::<usize>();
        match word.as_str() {
            "--lists" => lists = number()?,
            "--threads" => threads = number()?,
            "--rows" => most = number()?,
            "--cpu" => with_cpu = true,
            "--simulated" => simulated = true,
            other => return Err(format!("no option {other}").into()),
        }
    }
    let (rows, dim) = rows_of(Path::new(&folder), most)?;
    if lists == 0 {
        lists = omen_ivf::coarse::default_lists((rows.len() / dim) as u64) as usize;
    }
    let began = Instant::now();
    let gpu = open(simulated)?;
    println!(
        "{}",
        json!({"part": "train_open", "seconds": began.elapsed().as_secs_f64()})
    );
    // Once to warm up.
    for _ in 0..2 {
        run(&rows, dim, lists, threads, Some(&gpu))?;
    }
    if with_cpu {
        run(&rows, dim, lists, threads, None)?;
    }
    Ok(())
}
