//! `select_probes` and `select_probes_wide` against `twin::probes`.

use crate::arrays::OnDevice;
use crate::common::{METRICS, normal, rng};
use crate::device::Device;
use crate::real_gpu::{gpu, small};
use omen_gpu::launch::probes::{MAX_PROBES, select_probes};
use omen_gpu::params::{OVERFLOW_QUERY, ProbeParams, QueryConsts};
use omen_gpu::twin::probes::{Choice, select_probes as twin_select_probes};
use omen_ivf::Metric;
use rand::Rng;

/// The ranks of a query: all different, with many ties, all the same, or in order.
fn ranks_of(rng: &mut impl Rng, metric: Metric, n_lists: usize) -> Vec<f32> {
    let kind = rng.random_range(0..5);
    let mut ranks: Vec<f32> = (0..n_lists)
        .map(|i| match kind {
            0 => normal(rng) * 100.0,
            1 => rng.random_range(-2..3) as f32,
            2 => 4.0,
            3 => 1.0 + f32::EPSILON * rng.random_range(0..n_lists as u32 / 2 + 1) as f32,
            _ => (n_lists - i) as f32,
        })
        .collect();
    if metric == Metric::NegIp {
        ranks
            .iter_mut()
            .filter(|x| **x == 0.0)
            .for_each(|x| *x = [0.0, -0.0][rng.random_range(0..2)]);
    } else {
        ranks.iter_mut().for_each(|x| *x = x.abs());
    }
    ranks
}

/// A spread that leaves out nothing, nearly everything, or ends exactly at one of the lists of the first query.
fn spread_of(rng: &mut impl Rng, metric: Metric, consts: &QueryConsts, ranks: &[f32]) -> f32 {
    let nearest = ranks.iter().copied().fold(f32::INFINITY, f32::min);
    let rank = ranks[rng.random_range(0..ranks.len())];
    match rng.random_range(0..4) {
        0 => f32::INFINITY,
        1 => 0.0,
        _ if metric == Metric::NegIp => (rank - nearest) / consts.norm_up.max(f32::MIN_POSITIVE),
        _ => rank.sqrt() - nearest.sqrt(),
    }
}

struct Case {
    n_queries: usize,
    n_lists: usize,
    probes: usize,
}

fn check_case(device: &Device, rng: &mut impl Rng, metric: Metric, case: &Case) {
    let (n, n_lists, probes) = (case.n_queries, case.n_lists, case.probes);
    let mut ranks = Vec::with_capacity(n * n_lists);
    (0..n).for_each(|_| ranks.extend(ranks_of(rng, metric, n_lists)));
    let consts: Vec<QueryConsts> = (0..n)
        .map(|_| QueryConsts {
            norm_sq: rng.random_range(0.0..50.0),
            slack: rng.random_range(0.0..1e-3),
            norm_up: if rng.random_range(0..8) == 0 {
                0.0
            } else {
                rng.random_range(0.1..7.0)
            },
            ..QueryConsts::default()
        })
        .collect();
    let list_norms: Vec<f32> = (0..n_lists).map(|_| rng.random_range(0.0..50.0)).collect();
    let longest = [3, 60, 2000][rng.random_range(0..3)];
    let list_rows: Vec<u32> = (0..n_lists)
        .map(|_| rng.random_range(0..=longest))
        .collect();
    let choice = Choice {
        metric,
        list_norms: &list_norms,
        list_rows: &list_rows,
        probes,
        first_rows: [0, 1, 100, 5000, u32::MAX / 4][rng.random_range(0..5)],
        // Less than many a list has, so that queries overflow and first rounds end early.
        cap: [1, longest / 2 + 1, 1500, 100_000][rng.random_range(0..4)],
        spread: spread_of(rng, metric, &consts[0], &ranks[..n_lists]),
    };
    let before: Vec<u32> = (0..n)
        .map(|q| if q % 3 == 1 { OVERFLOW_QUERY } else { 0 })
        .collect();

    let pairs = n * probes;
    let inputs = (
        device.put(&ranks),
        device.put(&consts),
        device.put(&list_norms),
        device.put(&list_rows),
    );
    let lists = OnDevice::new(device, &vec![u32::MAX; pairs]);
    let places = OnDevice::new(device, &vec![u32::MAX; pairs]);
    let adds = OnDevice::new(device, &vec![f32::NAN; pairs]);
    let distances = OnDevice::new(device, &vec![f32::NAN; pairs]);
    let n_probes = OnDevice::new(device, &vec![u32::MAX; n]);
    let n_first = OnDevice::new(device, &vec![u32::MAX; n]);
    let counts = OnDevice::new(device, &vec![u32::MAX; n]);
    let overflows = OnDevice::new(device, &before);
    let params = ProbeParams {
        ranks: inputs.0.address(),
        consts: inputs.1.address(),
        list_norms: inputs.2.address(),
        list_rows: inputs.3.address(),
        lists: lists.address(),
        places: places.address(),
        adds: adds.address(),
        distances: distances.address(),
        n_probes: n_probes.address(),
        n_first: n_first.address(),
        counts: counts.address(),
        overflows: overflows.address(),
        n_lists: n_lists as u32,
        probes: probes as u32,
        first_rows: choice.first_rows,
        cap: choice.cap,
        spread: choice.spread,
        metric: metric as u32,
        ..ProbeParams::default()
    };
    select_probes(&device.ctx, &device.stream, params, n).unwrap();

    let what = format!(
        "{} {n} queries, {probes} of {n_lists} lists of up to {longest} rows, first_rows {}, cap {}, spread {:e}",
        metric.name(),
        choice.first_rows,
        choice.cap,
        choice.spread
    );
    let lists = lists.get(device, &format!("{what}: lists"));
    let places = places.get(device, &format!("{what}: places"));
    let adds = adds.get(device, &format!("{what}: adds"));
    let distances = distances.get(device, &format!("{what}: distances"));
    let n_probes = n_probes.get(device, &format!("{what}: n_probes"));
    let n_first = n_first.get(device, &format!("{what}: n_first"));
    let counts = counts.get(device, &format!("{what}: counts"));
    let overflows = overflows.get(device, &format!("{what}: overflows"));
    for q in 0..n {
        let of_query = &ranks[q * n_lists..][..n_lists];
        let twin = twin_select_probes(&choice, &consts[q], of_query);
        let what = format!("{what}: query {q}");
        let row = q * probes..(q + 1) * probes;
        for (i, (&ours, &theirs)) in lists[row.clone()].iter().zip(&twin.lists).enumerate() {
            let rank = |list: u32| of_query.get(list as usize);
            assert!(
                ours == theirs,
                "{what}: place {i}: list {ours} of rank {:?}, twin {theirs} of rank {:?}",
                rank(ours),
                rank(theirs)
            );
        }
        assert_eq!(
            (n_probes[q], n_first[q], counts[q], overflows[q]),
            (
                twin.n_probes,
                twin.n_first,
                twin.count,
                twin.overflow | before[q]
            ),
            "{what}: n_probes, n_first, count, overflow"
        );
        let first = twin.places.len();
        assert_eq!(places[row.clone()][..first], twin.places, "{what}: places");
        for (i, (ours, theirs)) in adds[row.clone()].iter().zip(&twin.adds).enumerate() {
            let size = of_query[twin.lists[i] as usize].abs() + 1e-2;
            assert!(
                (ours - theirs).abs() <= 1e-6 * size,
                "{what}: add {i}: {ours:e}, twin {theirs:e}"
            );
        }
        for (i, (ours, theirs)) in distances[row].iter().zip(&twin.distances).enumerate() {
            assert!(
                (ours - theirs).abs() <= 1e-5 * theirs + 1e-6,
                "{what}: distance {i}: {ours:e}, twin {theirs:e}"
            );
        }
    }
}

#[test]
fn select_probes_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("select_probes_matches_its_twin");
    let mut shapes = vec![(1, 1), (2, 1), (2, 2), (3, 3), (33, 5), (40, 40), (300, 64)];
    if small() {
        shapes.push((16_385, 3));
    } else {
        // Around what shared memory holds, and far beyond.
        shapes.extend([(257, 256), (1025, 1024), (4096, 128), (8192, MAX_PROBES)]);
        shapes.extend([(16_384, 100), (16_385, 100), (20_000, MAX_PROBES)]);
        shapes.extend([(70_000, 1), (70_000, 33), (70_000, MAX_PROBES)]);
        for _ in 0..10 {
            let n_lists = rng.random_range(1..30_000);
            shapes.push((n_lists, rng.random_range(1..=n_lists.min(MAX_PROBES))));
        }
    }
    for (n_lists, probes) in shapes {
        for metric in METRICS {
            // Few queries have wide blocks, many have narrow ones.
            let many = device.ctx.multiprocessors() + 1;
            for n_queries in [rng.random_range(1..5), many] {
                if small() && n_queries == many && n_lists > 300 {
                    continue;
                }
                let case = Case {
                    n_queries,
                    n_lists,
                    probes,
                };
                check_case(&device, &mut rng, metric, &case);
            }
        }
    }
}
