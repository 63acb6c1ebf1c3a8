//! Training and assignment of lists.

mod common;

use common::{Clusters, normals, pool, rng, seed};
use half::f16;
use omen_ivf::IvfError;
use omen_ivf::assign::{Assign, Assigner};
use omen_ivf::coarse::nearest_list;
use omen_ivf::kmeans::train;
use omen_ivf::{Metric, mem_store::MemStore};

fn l2sq(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2))
        .sum()
}

/// Mean squared distance of the rows to their nearest centroids.
fn distortion(rows: &[f32], centroids: &[f32], dim: usize) -> f64 {
    let nearest = |row: &[f32]| {
        centroids
            .chunks_exact(dim)
            .map(|c| l2sq(row, c))
            .fold(f64::INFINITY, f64::min)
    };
    rows.chunks_exact(dim).map(nearest).sum::<f64>() / (rows.len() / dim) as f64
}

#[test]
fn finds_separate_clusters() {
    let seed = seed();
    let mut rng = rng(seed);
    let (dim, n_clusters) = (20, 8);
    let centers: Vec<f32> = normals(&mut rng, n_clusters * dim)
        .iter()
        .map(|x| x * 100.0)
        .collect();
    let noise = normals(&mut rng, 2000 * dim);
    let rows: Vec<f32> = noise
        .iter()
        .enumerate()
        .map(|(i, x)| x + centers[i % (n_clusters * dim)])
        .collect();
    // With twelve centroids a cluster the start leaves one out once in 50,000 runs.
    let centroids = train(&rows, dim, 12 * n_clusters, seed, &pool(), &mut || Ok(())).unwrap();
    assert_eq!(centroids.len(), 12 * n_clusters * dim);
    assert!(distortion(&rows, &centroids, dim) < 1.5 * dim as f64);
}

#[test]
fn beats_random_rows() {
    let seed = seed();
    let mut rng = rng(seed);
    let rows = Clusters::new(&mut rng, 30, 50).draw(&mut rng, 5000);
    let trained = train(&rows, 30, 60, seed, &pool(), &mut || Ok(())).unwrap();
    assert!(distortion(&rows, &trained, 30) < 0.8 * distortion(&rows, &rows[..60 * 30], 30));
}

#[test]
fn depends_on_the_seed_alone() {
    let seed = seed();
    let mut rng = rng(seed);
    let rows = normals(&mut rng, 3000 * 17);
    let run = |seed, threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        train(&rows, 17, 40, seed, &pool, &mut || Ok(())).unwrap()
    };
    assert_eq!(run(seed, 1), run(seed, 3));
    assert_ne!(run(seed, 1), run(seed ^ 1, 1));
}

#[test]
fn degenerate_samples() {
    let seed = seed();
    let mut rng = rng(seed);
    let pool = pool();
    let run = |rows: &[f32], lists| train(rows, 4, lists, seed, &pool, &mut || Ok(())).unwrap();
    assert_eq!(run(&[], 10), [0.0; 4]);
    let one = normals(&mut rng, 4);
    assert_eq!(run(&one.repeat(1000), 10), one);
    // Fewer rows, or fewer distinct ones, than lists: each has a centroid of its own.
    let few = normals(&mut rng, 3 * 4);
    for rows in [few.clone(), few.repeat(50)] {
        let centroids = run(&rows, 10);
        assert_eq!(
            (centroids.len(), distortion(&rows, &centroids, 4)),
            (12, 0.0)
        );
    }
    // Nearly everything in one place: no centroid may be lost to NaN, and the others must serve the rest.
    let mut rows = one.repeat(5000);
    rows.extend(normals(&mut rng, 100 * 4).iter().map(|x| x * 10.0));
    let centroids = run(&rows, 20);
    assert!(centroids.len() == 80 && centroids.iter().all(|x| x.is_finite()));
    assert!(
        distortion(&rows[20_000..], &centroids, 4) < 0.5 * distortion(&rows[20_000..], &one, 4)
    );
}

#[test]
fn stops_when_interrupted() {
    let mut calls = 0;
    let rows = normals(&mut rng(seed()), 5000 * 8);
    let cancelled = train(&rows, 8, 50, 1, &pool(), &mut || {
        calls += 1;
        if calls > 4 {
            Err(IvfError::Store("cancelled".into()))
        } else {
            Ok(())
        }
    });
    assert_eq!(cancelled.unwrap_err(), IvfError::Store("cancelled".into()));
    assert_eq!(calls, 5);
}

/// The build's way of choosing a list and the insert's agree (up to rounding of nearly equal distances).
#[test]
fn assignment_and_insert_agree() {
    let seed = seed();
    let mut rng = rng(seed);
    for (dim, lists) in [(10, 7), (100, 64), (300, 100)] {
        let clusters = Clusters::new(&mut rng, dim, 20);
        let rows = clusters.draw(&mut rng, 1500);
        for metric in [Metric::L2, Metric::NegIp] {
            let (store, index) = common::build(MemStore::new(), metric, dim, &rows, lists, seed);
            let centroids = centroids_of(&store, &index);
            let stored: Vec<f16> = clusters
                .draw(&mut rng, 300)
                .chunks_exact(dim)
                .flat_map(|v| index.to_stored(v).unwrap().unwrap().row)
                .collect();
            let assigned = Assigner::new(&centroids, dim, pool().into()).assign(&stored);
            let wide = |h: &[f16]| h.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
            for (row, &list) in stored.chunks_exact(dim).zip(&assigned) {
                let other = nearest_list(&store, &index, row).unwrap();
                let distance =
                    |list: u32| l2sq(&wide(row), &wide(&centroids[list as usize * dim..][..dim]));
                assert!(
                    (distance(list) - distance(other)).abs() <= 1e-5 * distance(list),
                    "{list} or {other}"
                );
                let least = (0..index.n_lists())
                    .map(distance)
                    .fold(f64::INFINITY, f64::min);
                assert!(distance(list) <= least * (1.0 + 1e-5));
            }
        }
    }
}

fn centroids_of(store: &MemStore, index: &omen_ivf::index::Index) -> Vec<f16> {
    let mut reader = omen_ivf::list_reader::ListReader::new();
    let slots: Vec<u32> = (0..index.n_lists()).collect();
    let mut out = Vec::new();
    let root = omen_ivf::layout::page::ROOT_LIST;
    let visit = reader.read_rows(store, index, root, &index.meta.root, &slots, |_, row| {
        out.extend_from_slice(row)
    });
    assert_eq!(visit.unwrap(), omen_ivf::list_reader::Visit::Done);
    out
}
