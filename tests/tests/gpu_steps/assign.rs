//! `assign_rows` against its twin: the same numbers, bit for bit.

use crate::common::{normal, rng};
use crate::device::Device;
use crate::real_gpu::gpu;
use omen_gpu::launch::assign::assign_rows;
use omen_gpu::params::AssignParams;
use omen_gpu::twin::assign::assign_rows as twin;
use rand::Rng;

#[test]
fn assign_rows_matches_its_twin() {
    let mut rng = rng("assign_rows_matches_its_twin");
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    for (n_centroids, n_rows) in [
        (1, 1),
        (7, 31),
        (8, 32),
        (9, 33),
        (100, 1000),
        (1037, 257),
        (5000, 64),
    ] {
        // Few different numbers make ties; some are none.
        let coarse = rng.random_bool(0.5);
        let number = |rng: &mut _| {
            let x = normal(rng);
            if coarse { x.round() } else { x }
        };
        let mut ranks: Vec<f32> = (0..n_centroids * n_rows)
            .map(|_| number(&mut rng))
            .collect();
        for _ in 0..n_rows / 3 {
            let at = rng.random_range(0..ranks.len());
            ranks[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][rng.random_range(0..3)];
        }
        for row in ranks.iter_mut().step_by(n_rows) {
            *row = f32::INFINITY;
        }
        let offsets: Vec<f32> = (0..n_centroids).map(|_| number(&mut rng).abs()).collect();
        let (on_ranks, on_offsets) = (device.put(&ranks), device.put(&offsets));
        let lists = device.put(&vec![u32::MAX; n_rows]);
        let params = AssignParams {
            ranks: on_ranks.address(),
            offsets: on_offsets.address(),
            lists: lists.address(),
            n_centroids: n_centroids as u32,
            n_rows: n_rows as u32,
        };
        assign_rows(&device.ctx, &device.stream, params).unwrap();
        let found: Vec<u32> = device.get(&lists);
        assert_eq!(
            found,
            twin(&ranks, &offsets, n_rows),
            "{n_centroids} centroids, {n_rows} rows"
        );
    }
}
