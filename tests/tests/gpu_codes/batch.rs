//! A random batch of the code scan: codes, planes, items; in host memory.

use crate::common::normal;
use omen_gpu::params::{CodeConsts, QueryConsts, ScanItem, from_ordered_bits};
use omen_gpu::twin::scan_codes::{CodeArrays, CodeScanArrays, scan_codes_item};
use omen_ivf::Metric;
use rand::Rng;

/// Survivors beyond the last query's; no kernel may touch them.
const GUARD: usize = 512;
const UNTOUCHED: u64 = 0xA5A5_A5A5_A5A5_A5A5;
pub const LOOSE_SCALE: f32 = 1.0 - 1e-5;
pub const EPSILON: f32 = 4.0;

#[derive(Clone)]
pub struct Batch {
    pub metric: Metric,
    pub n_slots: usize,
    pub code_pitch: usize,
    pub codes: Vec<u32>,
    pub factors: Vec<f32>,
    pub err: Vec<f32>,
    pub live: Vec<u32>,
    pub planes: Vec<u32>,
    pub code_consts: Vec<CodeConsts>,
    pub consts: Vec<QueryConsts>,
    pub items: Vec<ScanItem>,
    pub group: Vec<u32>,
    pub pair: Vec<u32>,
    pub add: Vec<f32>,
    pub distance: Vec<f32>,
    pub pair_base: Vec<u32>,
    pub thresholds: Vec<f32>,
    pub counts: Vec<u32>,
    pub survivors: Vec<u64>,
    pub cap: usize,
}

/// Mostly a number of the range, now and then the special one.
fn mostly(rng: &mut impl Rng, range: std::ops::Range<f32>, special: f32) -> f32 {
    if rng.random_range(0..20) == 0 {
        special
    } else {
        rng.random_range(range)
    }
}

impl Batch {
    /// Random codes and queries; items of up to `max_rows` rows, each against 0 to all queries, that cover every slot once.
    pub fn random(
        rng: &mut impl Rng,
        metric: Metric,
        code_dim: usize,
        n_slots: usize,
        n_queries: usize,
        max_rows: usize,
    ) -> Self {
        let words = code_dim / 32;
        let code_pitch = words.next_multiple_of(8);
        // Words, zero beyond the code.
        let mut bits = |n: usize| -> Vec<u32> {
            (0..n * code_pitch)
                .map(|i| {
                    if i % code_pitch < words {
                        rng.random()
                    } else {
                        0
                    }
                })
                .collect()
        };
        let (codes, planes) = (bits(n_slots), bits(4 * n_queries));
        // Sums of levels have a mean of -code_dim / 4, which base takes back, and a standard deviation of about 3 root(code_dim).
        let step = 3.0 / (code_dim as f32).sqrt();
        let mut batch = Self {
            metric,
            n_slots,
            code_pitch,
            codes,
            factors: Vec::new(),
            err: (0..n_slots)
                .map(|_| mostly(rng, 0.0..0.1, f32::INFINITY))
                .collect(),
            live: (0..n_slots.div_ceil(32))
                .map(|_| rng.random::<u32>() | rng.random::<u32>())
                .collect(),
            planes,
            code_consts: (0..n_queries)
                .map(|_| CodeConsts {
                    step,
                    base: step * code_dim as f32 / 4.0 + normal(rng),
                    slack: mostly(rng, 0.0..2.0, 0.0),
                    reserved: 0,
                })
                .collect(),
            consts: (0..n_queries)
                .map(|_| {
                    let norm = mostly(rng, 0.0..3.0, 0.0);
                    QueryConsts {
                        norm,
                        norm_up: norm * 1.001,
                        err: rng.random_range(0.0..0.1),
                        ..QueryConsts::default()
                    }
                })
                .collect(),
            items: Vec::new(),
            group: Vec::new(),
            pair: Vec::new(),
            add: Vec::new(),
            distance: Vec::new(),
            pair_base: Vec::new(),
            thresholds: vec![f32::INFINITY; n_queries],
            counts: Vec::new(),
            survivors: Vec::new(),
            cap: n_slots + 3,
        };
        batch
            .factors
            .extend((0..n_slots).map(|_| mostly(rng, 0.0..200.0, 0.0)));
        batch
            .factors
            .extend((0..n_slots).map(|_| mostly(rng, -3.0..-0.1, 0.0)));
        batch
            .factors
            .extend((0..n_slots).map(|_| mostly(rng, 0.0..2.0, 0.0)));
        batch.add_items(rng, max_rows);
        batch.clear();
        batch
    }

    fn add_items(&mut self, rng: &mut impl Rng, max_rows: usize) {
        let n_queries = self.consts.len();
        let mut numbers: Vec<u32> = (0..n_queries as u32).collect();
        let mut used = vec![0u32; n_queries];
        let mut first = 0;
        while first < self.n_slots {
            let n_rows = rng.random_range(1..=max_rows.min(self.n_slots - first));
            let n = rng.random_range(0..=n_queries);
            for i in 1..n_queries {
                numbers.swap(i, rng.random_range(0..=i));
            }
            self.items.push(ScanItem {
                first_slot: first as u32,
                first_row: 0,
                first_query: self.group.len() as u32,
                n_rows: n_rows as u16,
                n_queries: n as u16,
            });
            for &query in &numbers[..n] {
                self.group.push(query);
                self.add.push(rng.random_range(0.0..200.0));
                self.distance.push(mostly(rng, 0.0..5.0, 0.0));
                self.pair_base
                    .push(used[query as usize].wrapping_sub(first as u32));
                used[query as usize] += n_rows as u32;
            }
            first += n_rows;
        }
        // At least one pair, which nothing refers to, so that no array is empty; and an item without rows.
        self.add.push(0.0);
        self.distance.push(0.0);
        self.pair_base.push(0);
        self.items.push(ScanItem {
            first_slot: 0,
            first_row: 0,
            first_query: 0,
            n_rows: 0,
            n_queries: 1.min(self.group.len() as u16),
        });
        self.pair = (0..self.group.len() as u32).collect();
        for i in 1..self.pair.len() {
            let j = rng.random_range(0..=i);
            self.pair.swap(i, j);
        }
        // The pairs' numbers are shuffled, their contents with them.
        let (add, distance, base) = (
            self.add.clone(),
            self.distance.clone(),
            self.pair_base.clone(),
        );
        for (i, &pair) in self.pair.iter().enumerate() {
            self.add[pair as usize] = add[i];
            self.distance[pair as usize] = distance[i];
            self.pair_base[pair as usize] = base[i];
        }
        self.group.push(0);
        self.pair.push(0);
    }

    pub fn clear(&mut self) {
        let n_queries = self.consts.len();
        self.counts = vec![0; n_queries];
        self.survivors = vec![UNTOUCHED; n_queries * self.cap + GUARD];
    }

    /// Sets each query's threshold to the key of a random survivor of the scan before; one is NaN.
    pub fn thresholds_from_survivors(&mut self, rng: &mut impl Rng) {
        for q in 0..self.counts.len() {
            if self.counts[q] > 0 {
                let at = q * self.cap + rng.random_range(0..self.counts[q] as usize);
                self.thresholds[q] = from_ordered_bits((self.survivors[at] >> 32) as u32);
            }
        }
        self.thresholds[0] = f32::NAN;
    }

    pub fn guard_is_intact(&self) -> bool {
        let guard = &self.survivors[self.consts.len() * self.cap..];
        guard.len() == GUARD && guard.iter().all(|x| *x == UNTOUCHED)
    }

    /// What the kernels must do.
    pub fn run_twin(&mut self, upper: bool) {
        let tier = CodeArrays {
            codes: &self.codes,
            factors: &self.factors,
            err: &self.err,
            live: &self.live,
            code_pitch: self.code_pitch,
            metric: self.metric,
        };
        let mut scan = CodeScanArrays {
            planes: &self.planes,
            codes: &self.code_consts,
            consts: &self.consts,
            group: &self.group,
            pair: &self.pair,
            add: &self.add,
            distance: &self.distance,
            thresholds: &self.thresholds,
            counts: &mut self.counts,
            survivors: &mut self.survivors,
            pair_base: &self.pair_base,
            cap: self.cap,
            upper,
            loose_scale: LOOSE_SCALE,
            epsilon: EPSILON,
        };
        for item in &self.items {
            scan_codes_item(&tier, &mut scan, item);
        }
    }
}
