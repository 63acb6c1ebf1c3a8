//! The whole program over a small random folder, on the simulated device.

use crate::folder::Folder;
use crate::measure::Options;
use half::f16;
use omen_gpu::Gpu;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const K: usize = 12;

/// A folder that goes when this does.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn put<T: bytemuck::Pod>(folder: &Path, name: &str, values: &[T]) {
    std::fs::write(folder.join(name), bytemuck::cast_slice(values)).unwrap();
}

/// Random rows around random centroids, whose order is scrambled by `ids`; queries whose 10th neighbour is no tie.
fn write(folder: &Path, rng: &mut ChaCha8Rng) {
    let (lists, dim, nq) = (rng.random_range(2..20), rng.random_range(3..70), 40);
    let mut number = || rng.random_range(-1f32..1.0);
    let centroids: Vec<f16> = (0..lists * dim)
        .map(|_| f16::from_f32(3.0 * number()))
        .collect();
    let mut offsets = vec![0u64];
    let mut rows: Vec<f16> = Vec::new();
    for centroid in centroids.chunks(dim) {
        for _ in 0..40 + (number().abs() * 60.0) as usize {
            rows.extend(
                centroid
                    .iter()
                    .map(|c| f16::from_f32(c.to_f32() + number())),
            );
        }
        offsets.push((rows.len() / dim) as u64);
    }
    let n = rows.len() / dim;
    let ids: Vec<u32> = (0..n as u32).map(|i| n as u32 - 1 - i).collect();
    let (mut queries, mut neighbors) = (Vec::new(), Vec::new());
    while neighbors.len() < nq * K {
        let query: Vec<f32> = (0..dim).map(|_| 2.0 * number()).collect();
        let mut order: Vec<(f64, u32)> = rows
            .chunks(dim)
            .zip(&ids)
            .map(|(row, &id)| {
                let terms = row.iter().zip(&query);
                let square = terms.map(|(r, q)| (r.to_f64() - f64::from(*q)).powi(2));
                (square.sum::<f64>(), id)
            })
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        if order[10].0 > order[9].0 * 1.001 {
            queries.extend(query);
            neighbors.extend(order[..K].iter().map(|o| o.1));
        }
    }
    put(folder, "rows.f16", &rows);
    put(folder, "ids.u32", &ids);
    put(folder, "offsets.u64", &offsets);
    put(folder, "centroids.f16", &centroids);
    put(folder, "queries.f32", &queries);
    put(folder, "neighbors.u32", &neighbors);
    let meta = json!({"n": n, "dim": dim, "lists": lists, "nq": nq, "k": K});
    std::fs::write(folder.join("meta.json"), meta.to_string()).unwrap();
}

fn lines(folder: &Folder, codes: bool, options: &Options) -> Vec<Value> {
    let out = crate::run(&Gpu::open_simulated(), folder, codes, options, Vec::new()).unwrap();
    let text = String::from_utf8(out).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn of<'a>(lines: &'a [Value], part: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["part"] == part).collect()
}

#[test]
fn everything_is_measured_and_all_lists_find_everything() {
    let seed = std::env::var("OMEN_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random);
    println!("gpu_search: OMEN_TEST_SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let path = std::env::temp_dir().join(format!("gpu_search-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    let temporary = Temporary(path);
    write(&temporary.0, &mut rng);
    let folder = Folder::open(&temporary.0).unwrap();
    let mut options = Options {
        batches: vec![10_000, 7, 1],
        exact: vec![1, 16],
        targets: vec![(10, 1.0), (10, 0.6)],
        curve: vec![1, 2, folder.n_lists()],
        seconds: 0.01,
        limit: Duration::from_secs(600),
    };
    let full = lines(&folder, false, &options);

    let load = of(&full, "load")[0];
    assert!(
        load["rows"] == folder.n
            && load["bytes_per_vector"].as_f64().unwrap() > 2.0 * folder.dim as f64
    );
    let exact = of(&full, "exact");
    assert_eq!(exact.len(), 2);
    assert!(exact.iter().all(|line| line["recall"] == 1.0), "{exact:?}");
    let curve = of(&full, "curve");
    assert_eq!(curve[2]["recall"], 1.0);
    assert!(
        curve[0]["recall"].as_f64() <= curve[1]["recall"].as_f64(),
        "more lists find more: {curve:?}"
    );
    let points = of(&full, "point");
    assert_eq!(points.len(), 6, "two targets, three batch sizes: {full:?}");
    assert_eq!(
        points[0]["batch"],
        folder.n_queries(),
        "no more than there are"
    );
    assert_eq!(points[0]["recall"], 1.0);
    assert!(
        points[3]["recall"].as_f64().unwrap() >= 0.6
            && points[3]["probes"].as_u64() <= points[0]["probes"].as_u64()
    );
    for point in points {
        let (least, p50) = (point["least_ms"].as_f64(), point["p50_ms"].as_f64());
        assert!(least > Some(0.0) && least <= p50 && p50 <= point["p95_ms"].as_f64());
    }
    let latency = of(&full, "latency")[0];
    let counted: u64 = latency["histogram"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(counted, latency["repeats"].as_u64().unwrap());

    options.limit = Duration::ZERO;
    let none = lines(&folder, true, &options);
    assert!(of(&none, "point").is_empty() && !of(&none, "note").is_empty());
}
