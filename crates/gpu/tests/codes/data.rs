//! Clustered rows with codes as the index makes them, and queries near the rows.

use crate::common::normal;
use half::f16;
use omen_gpu::TierQuery;
use omen_gpu::memory::pitch_of;
use omen_gpu::params::{CodeConsts, QueryConsts};
use omen_gpu::query::prepare;
use omen_gpu::twin::prepare_codes::prepare_codes;
use omen_gpu::twin::scan_codes::{CodeEstimate, estimate, level_sum};
use omen_ivf::layout::group::{Filter, GROUP, GroupHeader, GroupShape};
use omen_ivf::rabitq::{Encoder, epsilon};
use omen_ivf::rotation::Rotation;
use omen_ivf::{Metric, Tid};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

pub const LIST_ROWS: usize = 200;

/// Lists of clustered rows with their codes, and queries near the rows.
pub struct Data {
    pub metric: Metric,
    pub dim: usize,
    pub rotation: Rotation,
    pub code_pitch: usize,
    /// `[n_lists, dim]`
    pub centroids: Vec<Vec<f16>>,
    /// `[n_lists * LIST_ROWS, dim]`
    pub rows: Vec<Vec<f16>>,
    /// `[n_rows, code_pitch]`
    pub codes: Vec<u32>,
    /// `[3, n_rows]`
    pub factors: Vec<f32>,
    pub err: Vec<f32>,
    /// `[n_queries, dim]`
    pub queries: Vec<Vec<f32>>,
}

fn scaled(metric: Metric, mut v: Vec<f32>) -> Vec<f32> {
    if metric == Metric::Cosine {
        let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
        v.iter_mut().for_each(|x| *x /= norm);
    }
    v
}

impl Data {
    pub fn random(
        rng: &mut ChaCha8Rng,
        metric: Metric,
        dim: usize,
        n_lists: usize,
        n_queries: usize,
    ) -> Self {
        let code_dim = dim.next_multiple_of(64);
        let rotation = Rotation::new(rng.random(), dim, code_dim);
        let mut data = Self {
            metric,
            dim,
            code_pitch: (code_dim / 32).next_multiple_of(8),
            rotation,
            centroids: Vec::new(),
            rows: Vec::new(),
            codes: Vec::new(),
            factors: vec![0.0; 3 * n_lists * LIST_ROWS],
            err: vec![1e-3; n_lists * LIST_ROWS],
            queries: Vec::new(),
        };
        // Some dimensions matter more than others, and all rows share an offset: as embeddings do.
        let scales: Vec<f32> = (0..dim).map(|_| normal(rng).exp()).collect();
        let offset: Vec<f32> = scales.iter().map(|s| 0.5 * s * normal(rng)).collect();
        let near = |rng: &mut ChaCha8Rng, middle: &[f32], width: f32| -> Vec<f32> {
            let pairs = middle.iter().zip(&scales);
            pairs.map(|(m, s)| m + width * s * normal(rng)).collect()
        };
        let half = |v: &[f32]| -> Vec<f16> { v.iter().map(|&x| f16::from_f32(x)).collect() };
        for list in 0..n_lists {
            let middle = near(rng, &offset, 1.0);
            let rows: Vec<Vec<f16>> = (0..LIST_ROWS)
                .map(|_| half(&scaled(metric, near(rng, &middle, 0.7))))
                .collect();
            let mut mean = vec![0f32; dim];
            for row in &rows {
                mean.iter_mut()
                    .zip(row)
                    .for_each(|(m, x)| *m += x.to_f32() / LIST_ROWS as f32);
            }
            data.centroids.push(half(&mean));
            data.encode(list, &rows);
            data.rows.extend(rows);
        }
        for _ in 0..n_queries {
            let row = &data.rows[rng.random_range(0..data.rows.len())];
            let size = row.iter().map(|x| x.to_f32().powi(2)).sum::<f32>().sqrt();
            let spread = scales.iter().map(|s| s * s).sum::<f32>().sqrt();
            let row: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
            let width = 0.3 * size / spread;
            data.queries.push(scaled(metric, near(rng, &row, width)));
        }
        data
    }

    /// Codes and factors as the index has them.
    fn encode(&mut self, list: usize, rows: &[Vec<f16>]) {
        let n_rows = self.err.len();
        let code_dim = self.rotation.code_dim();
        let encoder = Encoder::new(
            self.metric,
            Filter::OneBit,
            &self.rotation,
            &self.centroids[list],
        );
        let shape = GroupShape::new(Filter::OneBit, self.dim as u32);
        for (group, rows) in rows.chunks(GROUP).enumerate() {
            let refs: Vec<&[f16]> = rows.iter().map(Vec::as_slice).collect();
            let tids = vec![Tid::new(0, 1); rows.len()];
            let mut bytes = vec![0u8; shape.bytes()];
            encoder.encode_group(&refs, &vec![0.0; rows.len()], &tids, &mut bytes);
            let (head, packed) = bytes.split_at(size_of::<GroupHeader>());
            let header: GroupHeader = bytemuck::pod_read_unaligned(head);
            let words = code_dim / 64;
            let mut bits = vec![0u64; GROUP * words];
            omen_distance::unpack_codes(packed, words, code_dim, &mut bits);
            for i in 0..rows.len() {
                let slot = list * LIST_ROWS + group * GROUP + i;
                self.factors[slot] = header.f_add[i];
                self.factors[n_rows + slot] = header.f_rescale[i];
                self.factors[2 * n_rows + slot] = header.f_error[i];
                let mut code: Vec<u32> = bits[i * words..(i + 1) * words]
                    .iter()
                    .flat_map(|word| [*word as u32, (word >> 32) as u32])
                    .collect();
                code.resize(self.code_pitch, 0);
                self.codes.extend(code);
            }
        }
    }

    pub fn factors(&self, slot: usize) -> [f32; 3] {
        [0, 1, 2].map(|column| self.factors[column * self.rows.len() + slot])
    }

    pub fn code(&self, slot: usize) -> &[u32] {
        &self.codes[slot * self.code_pitch..][..self.code_pitch]
    }

    /// `|q-h|^2` or `-<q,h>`.
    pub fn truth(&self, query: &[f32], row: &[f16]) -> f64 {
        let pairs = query
            .iter()
            .zip(row)
            .map(|(q, h)| (f64::from(*q), h.to_f64()));
        match self.metric {
            Metric::NegIp => -pairs.map(|(q, h)| q * h).sum::<f64>(),
            _ => pairs.map(|(q, h)| (q - h) * (q - h)).sum(),
        }
    }

    /// `add` and `distance` of a query and a list.
    pub fn pair(&self, query: &[f32], list: usize) -> (f32, f32) {
        let centroid = &self.centroids[list];
        let pairs = || {
            query
                .iter()
                .zip(centroid)
                .map(|(q, c)| (f64::from(*q), c.to_f64()))
        };
        let square: f64 = pairs().map(|(q, c)| (q - c) * (q - c)).sum();
        let add = match self.metric {
            Metric::NegIp => -pairs().map(|(q, c)| q * c).sum::<f64>(),
            _ => square,
        };
        (add as f32, square.sqrt() as f32)
    }

    fn consts(&self, query: &[f32]) -> QueryConsts {
        let pitch = pitch_of(self.dim);
        let norm = query.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let prepared = TierQuery {
            q: query,
            q_norm: norm.sqrt() as f32,
            q_err: 0.0,
            lists: &[],
            k: 1,
        };
        let (mut padded, mut halves) = (vec![0.0; pitch], vec![f16::ZERO; 2 * pitch]);
        prepare(
            self.metric,
            &prepared,
            omen_ivf::bound::rounding(self.dim as u32),
            &mut padded,
            &mut halves,
        )
        .unwrap()
    }

    pub fn estimate(
        &self,
        slot: usize,
        planes: &[u32],
        codes: &CodeConsts,
        (add, distance): (f32, f32),
    ) -> CodeEstimate {
        estimate(
            self.factors(slot),
            level_sum(self.code(slot), planes),
            codes,
            add,
            distance,
            epsilon(Filter::OneBit),
        )
    }
}

/// A prepared query.
pub struct Prepared {
    pub planes: Vec<u32>,
    pub codes: CodeConsts,
    pub rotated: Vec<f32>,
    pub consts: QueryConsts,
}

pub fn prepared(data: &Data, query: &[f32]) -> Prepared {
    let mut planes = vec![0; 4 * data.code_pitch];
    let (codes, rotated) =
        prepare_codes(&data.rotation, query, epsilon(Filter::OneBit), &mut planes);
    Prepared {
        planes,
        codes,
        rotated,
        consts: data.consts(query),
    }
}
