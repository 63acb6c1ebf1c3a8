//! What holds on either device.

use crate::common::{normal, rng};
use crate::real_gpu::small;
use half::f16;
use omen_gpu::assign::{Failure, RowAssigner, SampleAssigner};
use omen_gpu::{Gpu, GpuAssigner, GpuError};
use omen_ivf::assign::Assign;
use omen_ivf::kmeans::{OnThreads, train, train_by};
use rand::Rng;
use std::sync::Arc;

/// Rows around a few places, which lie around `offset`, `[n, dim]`.
fn clustered(rng: &mut impl Rng, n: usize, dim: usize, n_places: usize, offset: f32) -> Vec<f32> {
    let places: Vec<f32> = (0..n_places * dim)
        .map(|_| offset + 2.0 * normal(rng))
        .collect();
    let mut rows = Vec::with_capacity(n * dim);
    for _ in 0..n {
        let place = rng.random_range(0..n_places);
        rows.extend(
            places[place * dim..][..dim]
                .iter()
                .map(|x| x + 0.7 * normal(rng)),
        );
    }
    rows
}

fn pool() -> Arc<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    Arc::new(pool.unwrap())
}

fn halves(rows: &[f32]) -> Vec<f16> {
    rows.iter().map(|&x| f16::from_f32(x)).collect()
}

fn l2sq(a: &[f32], b: &[f32]) -> f64 {
    let terms = a.iter().zip(b).map(|(&x, &y)| f64::from(x) - f64::from(y));
    terms.map(|d| d * d).sum()
}

/// Asserts that each row's centroid is as near as the nearest, up to `slack` of what is computed with: the squared lengths of both
/// relative to `center`.
fn assert_nearest(
    rows: &[f32],
    centroids: &[f32],
    lists: &[u32],
    center: &[f32],
    slack: f64,
    what: &str,
) {
    let dim = center.len();
    let n_other = rows.chunks_exact(dim).zip(lists).filter(|(row, list)| {
        let all: Vec<f64> = centroids.chunks_exact(dim).map(|c| l2sq(row, c)).collect();
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        let found = all[**list as usize];
        let size = l2sq(row, &vec![0.0; dim])
            .max(l2sq(&centroids[**list as usize * dim..][..dim], center));
        assert!(
            found <= least + slack * size,
            "{what}: {found} > {least}, size {size}"
        );
        found > least
    });
    let (n_other, n) = (n_other.count(), lists.len());
    assert!(
        n_other <= 1 + n / 50,
        "{what}: {n_other} of {n} rows are not at their nearest"
    );
}

fn mean(rows: &[f32], dim: usize) -> Vec<f32> {
    let n = (rows.len() / dim) as f64;
    let sum = |d: usize| {
        rows.iter()
            .skip(d)
            .step_by(dim)
            .map(|&x| f64::from(x))
            .sum::<f64>()
    };
    (0..dim).map(|d| (sum(d) / n) as f32).collect()
}

fn assigner(gpu: &Gpu, dim: usize, max: usize) -> GpuAssigner {
    gpu.assigner(dim, max, 1000, u64::MAX).unwrap()
}

fn shapes() -> Vec<(usize, usize, usize)> {
    // Dimension, centroids, rows.
    let few = vec![(1, 1, 1), (3, 2, 40), (100, 31, 300), (40, 257, 1300)];
    let more = [
        (32, 300, 20_000),
        (768, 1000, 700),
        (1000, 65, 520),
        (640, 20, 2000),
        (33, 3000, 12_000),
        (5000, 9, 300),
    ];
    if small() {
        few
    } else {
        few.into_iter().chain(more).collect()
    }
}

pub fn rows_go_to_their_nearest(gpu: &Gpu) {
    let pool = pool();
    let mut rng = rng("rows_go_to_their_nearest");
    for (dim, n_centroids, n) in shapes() {
        for offset in [0.0, 40.0] {
            // The simulated device is slow.
            let n = if gpu.context().is_some() {
                n
            } else {
                n.min(600)
            };
            let rows = halves(&clustered(&mut rng, n, dim, n_centroids + 3, offset));
            let wide: Vec<f32> = rows.iter().map(|x| x.to_f32()).collect();
            let centroids = clustered(&mut rng, n_centroids, dim, 5, offset);
            let mut assigner = assigner(gpu, dim, n_centroids + 5);
            let mut lists = vec![u32::MAX; n];
            // Twice: what the first call left behind does not matter.
            let others = clustered(&mut rng, n_centroids + 5, dim, 5, offset);
            assigner.set_centroids(&others, &mut || Ok(())).unwrap();
            assigner
                .assign(&rows, &mut lists, &pool, &mut || Ok(()))
                .unwrap();
            lists.fill(u32::MAX);
            assigner.set_centroids(&centroids, &mut || Ok(())).unwrap();
            assigner
                .assign(&rows, &mut lists, &pool, &mut || Ok(()))
                .unwrap();
            let what = format!("dim {dim}, {n_centroids} centroids, {n} rows around {offset}");
            assert_nearest(
                &wide,
                &centroids,
                &lists,
                &mean(&centroids, dim),
                2e-5,
                &what,
            );
        }
    }
}

pub fn rows_that_are_kept_go_to_their_nearest(gpu: &Gpu) {
    let pool = pool();
    let mut rng = rng("rows_that_are_kept_go_to_their_nearest");
    for (dim, n_centroids, n) in shapes() {
        for offset in [0.0, 1000.0] {
            let n = if gpu.context().is_some() {
                n.min(4000)
            } else {
                n.min(600)
            };
            let rows = clustered(&mut rng, n, dim, n_centroids + 3, offset);
            let centroids = clustered(&mut rng, n_centroids, dim, 5, offset);
            let mut assigner = gpu.assigner(dim, n_centroids, n, u64::MAX).unwrap();
            let mut lists = vec![u32::MAX; n];
            assigner.hold(&rows, &pool, &mut || Ok(())).unwrap();
            assigner
                .set_centroids_of_held(&centroids, &mut || Ok(()))
                .unwrap();
            assigner.assign_held(&mut lists, &mut || Ok(())).unwrap();
            // What is kept is rounded to halves, relative to the rows' mean (of more rows, to that of some).
            let center = mean(&rows, dim);
            let minus = |v: &[f32]| -> Vec<f32> {
                let relative = |v: &[f32]| {
                    v.iter()
                        .zip(&center)
                        .map(|(x, m)| x - m)
                        .collect::<Vec<f32>>()
                };
                v.chunks_exact(dim).flat_map(relative).collect()
            };
            let rounded: Vec<f32> = minus(&rows)
                .iter()
                .map(|&x| f16::from_f32(x).to_f32())
                .collect();
            let what =
                format!("kept, dim {dim}, {n_centroids} centroids, {n} rows around {offset}");
            assert_nearest(
                &rounded,
                &minus(&centroids),
                &lists,
                &vec![0.0; dim],
                2e-5,
                &what,
            );
        }
    }
}

pub fn ties_go_to_the_lower_number(gpu: &Gpu) {
    let pool = pool();
    let mut rng = rng("ties_go_to_the_lower_number");
    let dim = 40;
    let one = clustered(&mut rng, 1, dim, 1, 0.0);
    let rows = halves(&clustered(&mut rng, 300, dim, 4, 0.0));
    let mut assigner = assigner(gpu, dim, 100);
    let mut lists = vec![9; 300];
    assigner
        .set_centroids(&one.repeat(100), &mut || Ok(()))
        .unwrap();
    assigner
        .assign(&rows, &mut lists, &pool, &mut || Ok(()))
        .unwrap();
    assert!(lists.iter().all(|&list| list == 0), "{lists:?}");
}

/// Sum of the squared distances of rows to the nearest of `centroids`.
fn inertia(rows: &[f32], centroids: &[f32], dim: usize) -> f64 {
    let nearest = |row: &[f32]| {
        centroids
            .chunks_exact(dim)
            .map(|c| l2sq(row, c))
            .fold(f64::INFINITY, f64::min)
    };
    rows.chunks_exact(dim).map(nearest).sum()
}

pub fn training_is_as_good_as_on_threads(gpu: &Gpu) {
    let pool = pool();
    let mut rng = rng("training_is_as_good_as_on_threads");
    let (dim, lists, n) = (24, 60, 3000);
    for offset in [0.0, 1000.0] {
        let sample = clustered(&mut rng, n, dim, 80, offset);
        let seed = rng.random();
        let on_threads = train(&sample, dim, lists, seed, &pool, &mut || Ok(())).unwrap();
        let failure = Failure::default();
        let threads = OnThreads {
            sample: &sample,
            dim,
            pool: &pool,
        };
        let device = gpu.assigner(dim, lists, n, u64::MAX).unwrap();
        let mut by_gpu = SampleAssigner::new(Some(device), failure.clone(), threads);
        let trained = train_by(
            &mut by_gpu,
            &sample,
            dim,
            lists,
            seed,
            &pool,
            &mut || Ok(()),
        )
        .unwrap();
        assert_eq!(failure.get(), None);
        let device = by_gpu.into_device();
        assert!(device.is_some());
        let (a, b) = (
            inertia(&sample, &trained, dim),
            inertia(&sample, &on_threads, dim),
        );
        // The same start; a few rows between two centroids go the other way.
        assert!(
            (a / b - 1.0).abs() < 0.03,
            "{a} by the device, {b} on threads"
        );
        // The rows of the table, by the same device.
        let (centroids, rows) = (halves(&trained), halves(&sample));
        let wide = |v: &[f16]| v.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
        let mut assigner = RowAssigner::new(device, failure.clone(), &centroids, dim, pool.clone());
        let found = assigner.assign(&rows);
        assert_eq!(failure.get(), None);
        // Far from the origin, halves are coarser than what tells centroids apart.
        if offset == 0.0 {
            let center = mean(&wide(&centroids), dim);
            assert_nearest(
                &wide(&rows),
                &wide(&centroids),
                &found,
                &center,
                2e-5,
                "trained",
            );
        }
    }
}

pub fn interrupted_and_used_again(gpu: &Gpu) {
    let pool = pool();
    let mut rng = rng("interrupted_and_used_again");
    // On a real device several pieces, so that both lanes are at work.
    let n = if gpu.context().is_some() && !small() {
        60_000
    } else {
        3000
    };
    let (dim, n_centroids) = (32, 50);
    let rows = clustered(&mut rng, n, dim, 60, 0.0);
    let centroids = clustered(&mut rng, n_centroids, dim, 5, 0.0);
    let mut assigner = gpu.assigner(dim, n_centroids, n, u64::MAX).unwrap();
    let mut lists = vec![0; n];
    let mut left = 0;
    let mut stop_after = |polls: usize| {
        left = polls;
        move || {
            left = left.saturating_sub(1);
            if left == 0 {
                Err(GpuError::Interrupted)
            } else {
                Ok(())
            }
        }
    };
    assert!(matches!(
        assigner.hold(&rows, &pool, &mut stop_after(1)),
        Err(GpuError::Interrupted) | Ok(())
    ));
    for polls in [1, 2, 3, 5, 9] {
        let _ = assigner.hold(&rows, &pool, &mut stop_after(polls));
        let _ = assigner.set_centroids_of_held(&centroids, &mut stop_after(polls));
        // Without the rows, an interrupted `hold` gives no lists.
        let _ = assigner.assign_held(&mut lists, &mut stop_after(polls));
        let _ = assigner.set_centroids(&centroids, &mut stop_after(polls));
        assigner.set_centroids(&centroids, &mut || Ok(())).unwrap();
        let outcome = assigner.assign(&halves(&rows), &mut lists, &pool, &mut stop_after(polls));
        assert!(
            matches!(outcome, Ok(()) | Err(GpuError::Interrupted)),
            "{outcome:?}"
        );
        lists.fill(u32::MAX);
        assigner
            .assign(&halves(&rows), &mut lists, &pool, &mut || Ok(()))
            .unwrap();
        let wide: Vec<f32> = halves(&rows).iter().map(|x| x.to_f32()).collect();
        assert_nearest(
            &wide,
            &centroids,
            &lists,
            &mean(&centroids, dim),
            2e-5,
            "after an interrupt",
        );
    }
}

pub fn memory_is_asked_for(gpu: &Gpu) {
    let needed = GpuAssigner::bytes_needed(768, 4096, 100_000);
    assert!(needed > 100_000 * 768 * 2);
    match gpu.assigner(768, 4096, 100_000, needed - 1) {
        Err(GpuError::OutOfMemory {
            needed: n,
            available,
        }) => assert_eq!((n, available), (needed, needed - 1)),
        other => panic!("{:?}", other.err()),
    }
}
