//! `select_smallest` and `select_smallest_wide` against `twin::select`, with survivors that stand for nothing.

use crate::arrays::OnDevice;
use crate::common::{normal, rng};
use crate::device::Device;
use crate::real_gpu::{gpu, small};
use omen_gpu::launch::select::select;
use omen_gpu::params::{NOTHING, SelectParams, ordered_bits};
use omen_gpu::twin::select::select_smallest;
use rand::Rng;
use rand::seq::SliceRandom;

/// A batch's survivors.
#[derive(Clone)]
struct State {
    cap: usize,
    keep: usize,
    survivors: Vec<u64>,
    counts: Vec<u32>,
    thresholds: Vec<f32>,
    overflows: Vec<u32>,
}

/// A survivor, of a key with many ties or few.
fn survivor(rng: &mut impl Rng, slot: usize, ties: bool) -> u64 {
    let key = if ties {
        rng.random_range(-1..3) as f32
    } else {
        normal(rng)
    };
    u64::from(ordered_bits(key)) << 32 | slot as u64
}

impl State {
    fn random(rng: &mut impl Rng, n_queries: usize, cap: usize, keep: usize) -> Self {
        let mut state = Self {
            cap,
            keep,
            survivors: vec![NOTHING; n_queries * cap],
            counts: vec![0; n_queries],
            thresholds: vec![f32::INFINITY; n_queries],
            overflows: vec![0; n_queries],
        };
        for (q, survivors) in state.survivors.chunks_exact_mut(cap).enumerate() {
            let count = match rng.random_range(0..5) {
                0 => cap,
                1 => cap + 3,
                2 => keep,
                _ => rng.random_range(0..=cap),
            };
            let n = count.min(cap);
            // How many of them are something: none, fewer than are kept, as many, more, all.
            let there = match q % 6 {
                0 => 0,
                1 => keep - 1,
                2 => keep,
                3 => keep + 1,
                4 => n,
                _ => rng.random_range(0..=n),
            };
            let ties = rng.random();
            for (slot, x) in survivors[..there.min(n)].iter_mut().enumerate() {
                *x = survivor(rng, slot * 7919 % 1_000_003, ties);
            }
            survivors[..n].shuffle(rng);
            state.counts[q] = count as u32;
        }
        state
    }

    /// Adds survivors below the thresholds, as a second round does.
    fn add(&mut self, rng: &mut impl Rng) {
        for (q, survivors) in self.survivors.chunks_exact_mut(self.cap).enumerate() {
            let n = self.counts[q] as usize;
            let more = rng.random_range(0..=self.cap - n);
            for (i, x) in survivors[n..n + more].iter_mut().enumerate() {
                let key = self.thresholds[q].min(5.0) - rng.random_range(0.01..2.0);
                *x = u64::from(ordered_bits(key)) << 32 | (2_000_000 + i as u64);
            }
            self.counts[q] += more as u32;
        }
    }

    fn select_by_twin(&mut self) {
        for (q, survivors) in self.survivors.chunks_exact_mut(self.cap).enumerate() {
            select_smallest(
                survivors,
                &mut self.counts[q],
                &mut self.thresholds[q],
                &mut self.overflows[q],
                self.keep,
            );
        }
    }

    /// The survivors a query has, in order.
    fn sorted(&self, q: usize) -> Vec<u64> {
        let mut of_query = self.survivors[q * self.cap..][..self.counts[q] as usize].to_vec();
        of_query.sort_unstable();
        of_query
    }

    /// Runs the kernel on a copy of this.
    fn selected(&self, device: &Device, what: &str) -> Self {
        let survivors = OnDevice::new(device, &self.survivors);
        let counts = OnDevice::new(device, &self.counts);
        let thresholds = OnDevice::new(device, &self.thresholds);
        let overflows = OnDevice::new(device, &self.overflows);
        let params = SelectParams {
            survivors: survivors.address(),
            counts: counts.address(),
            thresholds: thresholds.address(),
            overflows: overflows.address(),
            cap: self.cap as u32,
            keep: self.keep as u32,
        };
        select(&device.ctx, &device.stream, params, self.counts.len()).unwrap();
        Self {
            cap: self.cap,
            keep: self.keep,
            survivors: survivors.get(device, &format!("{what}: survivors")),
            counts: counts.get(device, &format!("{what}: counts")),
            thresholds: thresholds.get(device, &format!("{what}: thresholds")),
            overflows: overflows.get(device, &format!("{what}: overflows")),
        }
    }
}

fn compare(before: &State, ours: &State, twin: &State, what: &str) {
    for q in 0..ours.counts.len() {
        let survivors = &before.survivors[q * before.cap..][..before.cap];
        let n = (before.counts[q] as usize).min(before.cap);
        let nothing = survivors[..n].iter().filter(|&&x| x == NOTHING).count();
        let what = format!("{what}: query {q} of {n} survivors, {nothing} of them nothing");
        assert_eq!(
            (ours.counts[q], ours.overflows[q]),
            (twin.counts[q], twin.overflows[q]),
            "{what}: count, overflow"
        );
        assert!(
            ours.thresholds[q] == twin.thresholds[q],
            "{what}: threshold {:e}, twin {:e}",
            ours.thresholds[q],
            twin.thresholds[q]
        );
        let (ours, twin) = (ours.sorted(q), twin.sorted(q));
        if let Some(at) = (0..ours.len()).find(|&at| ours[at] != twin[at]) {
            panic!("{what}: number {at}: {:x}, twin {:x}", ours[at], twin[at]);
        }
    }
}

#[test]
fn select_leaves_nothing_out() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("select_leaves_nothing_out");
    let mut shapes = vec![(1, 1), (2, 1), (40, 7), (257, 256), (900, 26)];
    if !small() {
        shapes.extend([
            (1024, 1024),
            (4096, 26),
            (5000, 2048),
            (32_768, 26),
            (32_769, 26),
            (60_000, 1141),
        ]);
    }
    for (cap, keep) in shapes {
        // Few queries have wide blocks, many have narrow ones, unless there is room for many survivors.
        for n_queries in [12, device.ctx.multiprocessors() + 7] {
            let mut state = State::random(&mut rng, n_queries, cap, keep);
            for round in 0..2 {
                let what = format!("{n_queries} queries, cap {cap}, keep {keep}, round {round}");
                let ours = state.selected(&device, &what);
                let mut twin = state.clone();
                twin.select_by_twin();
                compare(&state, &ours, &twin, &what);
                state = ours;
                state.add(&mut rng);
            }
        }
    }
}
