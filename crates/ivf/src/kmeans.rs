//! Trains the centroids: plain k-means (Lloyd) over a sample.
//!
//! Plain, not balanced: balancing costs recall. Starts from random distinct rows; a list that loses all its rows takes a row
//! of the list that has most. On threads the result depends on the sample and the seed alone, not on their number; a device
//! that assigns the sample rounds otherwise.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use omen_distance::Panels;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::Result;

/// Lloyd iterations at most.
const ITERATIONS: usize = 10;
/// Training ends when fewer rows than one in so many change their list.
const SETTLED: usize = 1000;
/// Rows a task takes at a time.
const TASK_ROWS: usize = 256;
/// Multiplications between two looks for interrupts: some tens of milliseconds.
const BLOCK_WORK: usize = 4_000_000_000;

/// Finds the nearest centroids of the rows of a sample: the part of training that takes its time.
pub trait AssignSample {
    /// Writes to `lists` (`[n]`) which of `centroids` (`[lists, dim]`) is nearest to each row of the sample. `interrupt` is called on the
    /// calling thread every few tens of milliseconds; its error ends this.
    fn assign_sample(
        &mut self,
        centroids: &[f32],
        lists: &mut [u32],
        interrupt: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()>;
}

/// [`AssignSample`] by the threads of a pool.
pub struct OnThreads<'a> {
    /// `[n, dim]`
    pub sample: &'a [f32],
    /// Dimension.
    pub dim: usize,
    /// The threads.
    pub pool: &'a ThreadPool,
}

/// As [`train_by`], on the threads of `pool`.
pub fn train(
    sample: &[f32],
    dim: usize,
    lists: usize,
    seed: u64,
    pool: &ThreadPool,
    interrupt: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<f32>> {
    let mut assign = OnThreads { sample, dim, pool };
    train_by(&mut assign, sample, dim, lists, seed, pool, interrupt)
}

/// Centroids of a sample, `[n_lists, dim]`.
///
/// `sample`: `[n, dim]`, finite, scaled space (see [`crate::stored::scale_sample`]). There are `lists` centroids, or as many
/// as the sample has distinct rows if those are fewer; an empty sample gives one centroid at the origin. `interrupt` is
/// called on the calling thread every few tens of milliseconds; its error ends the training. `assigner` is to know the same sample.
pub fn train_by(
    assigner: &mut dyn AssignSample,
    sample: &[f32],
    dim: usize,
    lists: usize,
    seed: u64,
    pool: &ThreadPool,
    interrupt: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<f32>> {
    assert!(
        dim > 0 && lists > 0 && sample.len().is_multiple_of(dim),
        "a sample of {dim} dimensions, {lists} lists"
    );
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut centroids = distinct_rows(sample, dim, lists, &mut rng);
    if centroids.is_empty() {
        return Ok(vec![0.0; dim]);
    }
    let lists = centroids.len() / dim;
    if lists == 1 {
        move_centroids(
            &mut centroids,
            sample,
            dim,
            &Members::new(&vec![0; sample.len() / dim], 1),
            pool,
        );
        return Ok(centroids);
    }
    let mut assigned = vec![u32::MAX; sample.len() / dim];
    let mut before = assigned.clone();
    for _ in 0..ITERATIONS {
        before.copy_from_slice(&assigned);
        assigner.assign_sample(&centroids, &mut assigned, interrupt)?;
        let changed = before.iter().zip(&assigned).filter(|(a, b)| a != b).count();
        let members = Members::new(&assigned, lists);
        move_centroids(&mut centroids, sample, dim, &members, pool);
        interrupt()?;
        let reseeded = reseed(&mut centroids, sample, dim, &members, &mut rng);
        if changed * SETTLED <= assigned.len() && !reseeded {
            break;
        }
    }
    Ok(centroids)
}

/// Up to `n` rows, drawn at random, all different.
fn distinct_rows(sample: &[f32], dim: usize, n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut order: Vec<u32> = (0..(sample.len() / dim) as u32).collect();
    let hasher = BuildHasherDefault::<DefaultHasher>::new();
    let mut seen: HashSet<u64> = HashSet::with_capacity(n);
    let mut rows = Vec::with_capacity(n * dim);
    // Shuffled as far as needed. A collision of 64 bits costs a start row, no more.
    let len = order.len();
    for i in 0..len {
        order.swap(i, rng.random_range(i..len));
        let row = &sample[order[i] as usize * dim..][..dim];
        if seen.insert(hasher.hash_one(bytemuck::cast_slice::<f32, u32>(row))) {
            rows.extend_from_slice(row);
            if rows.len() == n * dim {
                break;
            }
        }
    }
    rows
}

impl AssignSample for OnThreads<'_> {
    fn assign_sample(
        &mut self,
        centroids: &[f32],
        lists: &mut [u32],
        interrupt: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let (dim, pool) = (self.dim, self.pool);
        let panels = Panels::new(centroids, dim);
        let tasks = (BLOCK_WORK / centroids.len() / TASK_ROWS).max(2 * pool.current_num_threads());
        let block_rows = tasks * TASK_ROWS;
        let blocks = self.sample.chunks(block_rows * dim);
        for (rows, lists) in blocks.zip(lists.chunks_mut(block_rows)) {
            interrupt()?;
            pool.install(|| {
                rows.par_chunks(TASK_ROWS * dim)
                    .zip(lists.par_chunks_mut(TASK_ROWS))
                    .for_each(|(rows, lists)| panels.nearest(rows, lists));
            });
        }
        Ok(())
    }
}

/// The rows of each list, in the sample's order.
struct Members {
    rows: Vec<u32>,
    /// `[lists + 1]`: list l has `rows[starts[l]..starts[l + 1]]`.
    starts: Vec<usize>,
}

impl Members {
    fn new(assigned: &[u32], lists: usize) -> Self {
        let mut starts = vec![0; lists + 1];
        for &list in assigned {
            starts[list as usize + 1] += 1;
        }
        for list in 0..lists {
            starts[list + 1] += starts[list];
        }
        let mut next = starts.clone();
        let mut rows = vec![0; assigned.len()];
        for (row, &list) in assigned.iter().enumerate() {
            rows[next[list as usize]] = row as u32;
            next[list as usize] += 1;
        }
        Self { rows, starts }
    }

    fn of(&self, list: usize) -> &[u32] {
        &self.rows[self.starts[list]..self.starts[list + 1]]
    }
}

/// Moves each centroid to the mean of its rows, summed in the sample's order. Those of empty lists stay.
fn move_centroids(
    centroids: &mut [f32],
    sample: &[f32],
    dim: usize,
    members: &Members,
    pool: &ThreadPool,
) {
    pool.install(|| {
        centroids
            .par_chunks_exact_mut(dim)
            .enumerate()
            .for_each(|(list, centroid)| {
                let rows = members.of(list);
                if rows.is_empty() {
                    return;
                }
                let mut sums = vec![0f64; dim];
                for &row in rows {
                    for (sum, &x) in sums.iter_mut().zip(&sample[row as usize * dim..][..dim]) {
                        *sum += f64::from(x);
                    }
                }
                for (mean, sum) in centroid.iter_mut().zip(sums) {
                    *mean = (sum / rows.len() as f64) as f32;
                }
            });
    });
}

/// Puts the centroid of each empty list on a random row of the list that has most rows (counting what earlier ones took).
/// Gives whether there were any.
fn reseed(
    centroids: &mut [f32],
    sample: &[f32],
    dim: usize,
    members: &Members,
    rng: &mut ChaCha8Rng,
) -> bool {
    let lists = centroids.len() / dim;
    let mut empty: Vec<usize> = (0..lists)
        .filter(|&list| members.of(list).is_empty())
        .collect();
    if empty.is_empty() {
        return false;
    }
    empty.shuffle(rng);
    // Lists with rows only: of equal loads an empty list could come first.
    let mut load: std::collections::BinaryHeap<(usize, usize)> = (0..lists)
        .map(|list| (members.of(list).len(), list))
        .filter(|&(rows, _)| rows > 0)
        .collect();
    for list in empty {
        let Some((rows, from)) = load.pop() else {
            break;
        };
        let of = members.of(from);
        let row = of[rng.random_range(0..of.len())] as usize;
        centroids[list * dim..][..dim].copy_from_slice(&sample[row * dim..][..dim]);
        load.push((rows / 2, from));
    }
    true
}
