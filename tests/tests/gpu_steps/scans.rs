//! The scans in modes `Place` and `Rank`, every width, against `twin::scan`.

use crate::arrays::OnDevice;
use crate::common::{BIT_METRICS, METRICS, rng};
use crate::device::Device;
use crate::queries::Queries;
use crate::real_gpu::{gpu, small};
use crate::tier_arrays::{DeviceTier, HostTier};
use omen_gpu::Gpu;
use omen_gpu::context::Scans;
use omen_gpu::launch::scan::{Width, scan_planned};
use omen_gpu::params::{ListSlots, NOTHING, ScanMode, ScanParams, TierView, from_ordered_bits};
use omen_gpu::twin::plan::{Round, plan_round};
use omen_gpu::twin::scan::{ScanArrays, centroid_rank, scan_item};
use omen_ivf::Metric;
use rand::Rng;
use rand::seq::index::sample;

/// All scan kernels the device runs for a metric, with the halves of the queries that they can take.
pub fn scans(gpu: &Gpu, metric: Metric) -> Vec<(Width, u32)> {
    if let Some(only) = Width::of_metric(metric) {
        return vec![(only, 2)];
    }
    let scans = gpu.context().map_or(Scans::Fma, |ctx| ctx.scans);
    let mut all = vec![(Width::Fma, 2)];
    if scans >= Scans::Mma {
        all.extend(Width::all(metric, true).iter().map(|&width| (width, 2)));
    }
    if scans == Scans::Wgmma {
        all.extend([(Width::Wgmma, 1), (Width::Wgmma, 2)]);
    }
    all
}

pub fn dims() -> &'static [usize] {
    if small() {
        &[1, 33, 300]
    } else {
        &[1, 31, 32, 33, 64, 65, 100, 768, 1000, 1536, 4096, 16_000]
    }
}

/// Rows and queries of a case: few where there are many dimensions, for the twin's sake.
pub fn sizes(rng: &mut impl Rng, width: Width, dim: usize) -> (usize, usize) {
    let (rows, pairs) = if small() {
        (150, 3000)
    } else {
        (700, 100_000_000 / dim)
    };
    let n_rows = rng.random_range(1..=rows.min(pairs));
    let queries = 2 * width.queries() + 3;
    (
        n_rows,
        rng.random_range(1..=queries).min(pairs / n_rows).max(1),
    )
}

/// Queries by list, and where the rows of each pair's list go.
struct Lists {
    probes: usize,
    slots: Vec<ListSlots>,
    lists: Vec<u32>,
    /// `[n_queries, probes]`
    places: Vec<u32>,
    /// Rows of the longest answer.
    most: usize,
}

impl Lists {
    fn random(rng: &mut impl Rng, n_slots: usize, n_queries: usize) -> Self {
        let mut slots = Vec::new();
        let mut first_slot = 0;
        while first_slot < n_slots as u32 {
            let n_slots = rng.random_range(1..300).min(n_slots as u32 - first_slot);
            slots.push(ListSlots {
                first_slot,
                n_slots,
            });
            first_slot += n_slots;
        }
        let probes = rng.random_range(1..=slots.len());
        let (mut lists, mut places, mut most) = (Vec::new(), Vec::new(), 0);
        for _ in 0..n_queries {
            let mut rows = 0;
            for list in sample(rng, slots.len(), probes) {
                lists.push(list as u32);
                places.push(rows);
                rows += slots[list].n_slots;
            }
            most = most.max(rows as usize);
        }
        Self {
            probes,
            slots,
            lists,
            places,
            most,
        }
    }

    fn round(&self, width: Width) -> Round {
        let (rows, queries) = (width.rows() as u32, width.queries() as u32);
        plan_round(
            &self.lists,
            self.probes,
            &self.slots,
            rows,
            queries,
            |_, _| true,
        )
    }
}

/// Whether two loose keys agree, where rounding may change `lost` of what they are made of: a root doubles that near 0.
fn near(metric: Metric, a: f32, b: f32, lost: f32) -> bool {
    let tolerance = match metric {
        Metric::NegIp => lost,
        Metric::Hamming | Metric::Jaccard => 0.0,
        _ => (lost / b.max(1e-30)).min(lost.sqrt() * 2.0) + 1e-5 * b,
    };
    a == b || (a - b).abs() <= tolerance
}

/// What stands where no row was placed.
pub const UNTOUCHED: u64 = 0x1234_5678_9ABC_DEF0;

fn check_place(
    gpu: &Gpu,
    device: &Device,
    rng: &mut impl Rng,
    metric: Metric,
    dim: usize,
    scan: (Width, u32),
) {
    let (width, n_halves) = scan;
    let (n_slots, n) = sizes(rng, width, dim);
    let host = HostTier::random(rng, metric, dim, n_slots);
    let queries = Queries::random(rng, metric, dim, n);
    let lists = Lists::random(rng, n_slots, n);
    let round = lists.round(width);
    // Sometimes there is no room for all.
    let cap = rng
        .random_range(lists.most.div_ceil(2)..=lists.most + 5)
        .max(1);

    let tier = DeviceTier::new(gpu, &host);
    let inputs = (
        device.put(&queries.vectors),
        device.put(&queries.halves),
        device.put(&queries.consts),
        device.put(&round.items),
        device.put(&[round.items.len() as u32]),
        device.put(&round.group),
        device.put(&round.pairs),
        device.put(&lists.places),
    );
    let thresholds = device.put(&vec![f32::INFINITY; n]);
    let counts = OnDevice::new(device, &vec![77u32; n]);
    let survivors = OnDevice::new(device, &vec![UNTOUCHED; n * cap]);
    let params = ScanParams {
        tier: tier.view(),
        queries: inputs.0.address(),
        halves: inputs.1.address(),
        consts: inputs.2.address(),
        items: inputs.3.address(),
        n_items: inputs.4.address(),
        group: inputs.5.address(),
        pairs: inputs.6.address(),
        places: inputs.7.address(),
        thresholds: thresholds.address(),
        counts: counts.address(),
        survivors: survivors.address(),
        cap: cap as u32,
        loose_scale: queries.scales.loose,
        mode: ScanMode::Place as u32,
        n_queries: n as u32,
        n_halves,
        ..ScanParams::default()
    };
    scan_planned(&device.ctx, &device.stream, width, params).unwrap();

    let what = format!(
        "{width:?}, {n_halves} halves, {} dim {dim}, {n_slots} rows, {n} queries of {} lists, cap {cap}",
        metric.name(),
        lists.probes
    );
    let ours = survivors.get(device, &format!("{what}: survivors"));
    let counts = counts.get(device, &format!("{what}: counts"));
    assert_eq!(counts, vec![77; n], "{what}: counts are not this mode's");
    let mut twin = vec![UNTOUCHED; n * cap];
    let mut arrays = ScanArrays {
        queries: &queries.vectors,
        consts: &queries.consts,
        group: &round.group,
        pairs: &round.pairs,
        places: &lists.places,
        thresholds: &[],
        counts: &mut [],
        survivors: &mut twin,
        cap,
        loose_scale: queries.scales.loose,
        mode: ScanMode::Place,
        n_halves,
        row_step: 1,
    };
    for item in &round.items {
        scan_item(&host.arrays(), &mut arrays, item);
    }
    let scan = (&queries, n_halves, cap);
    check_survivors(&host, scan, &ours, &twin, &what);
}

/// Whether both placed the same rows, with the same keys up to rounding. `scan`: queries, halves of them, room.
pub fn check_survivors(
    host: &HostTier,
    (queries, n_halves, cap): (&Queries, u32, usize),
    ours: &[u64],
    twin: &[u64],
    what: &str,
) {
    for (at, (&ours, &theirs)) in ours.iter().zip(twin).enumerate() {
        let (q, place) = (at / cap, at % cap);
        let key = |x: u64| from_ordered_bits((x >> 32) as u32);
        let fixed = |x: u64| x == NOTHING || x == UNTOUCHED;
        let agree = ours == theirs
            || !fixed(ours) && !fixed(theirs) && ours as u32 == theirs as u32 && {
                let norm_sq = host.norm_sq[theirs as u32 as usize];
                let lost = queries.lost(q, n_halves, norm_sq);
                near(host.metric, key(ours), key(theirs), lost)
            };
        assert!(
            agree,
            "{what}: query {q} place {place}: {ours:x} (key {:e}, slot {}), twin {theirs:x} (key {:e}, slot {})",
            key(ours),
            ours as u32,
            key(theirs),
            theirs as u32
        );
    }
}

#[test]
fn scans_place_every_row() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("scans_place_every_row");
    for &dim in dims() {
        for metric in METRICS.into_iter().chain(BIT_METRICS) {
            for scan in scans(&gpu, metric) {
                check_place(&gpu, &device, &mut rng, metric, dim, scan);
            }
        }
    }
}

fn check_rank(
    gpu: &Gpu,
    device: &Device,
    rng: &mut impl Rng,
    metric: Metric,
    dim: usize,
    scan: (Width, u32),
) {
    let (width, n_halves) = scan;
    let (n_rows, n) = sizes(rng, width, dim);
    let host = HostTier::random(rng, metric, dim, n_rows);
    let queries = Queries::random(rng, metric, dim, n);
    let tier = DeviceTier::new(gpu, &host).view();
    let centroids = (device.put(&host.rows), device.put(&host.norm_sq));
    let inputs = (
        device.put(&queries.vectors),
        device.put(&queries.halves),
        device.put(&queries.consts),
    );
    let ranks = OnDevice::new(device, &vec![f32::NAN; n * n_rows]);
    let params = ScanParams {
        // Centroids have neither radii nor live bits.
        tier: TierView {
            rows: centroids.0.address(),
            norm_sq: centroids.1.address(),
            pitch: tier.pitch,
            metric: tier.metric,
            n_slots: tier.n_slots,
            ..TierView::default()
        },
        queries: inputs.0.address(),
        halves: inputs.1.address(),
        consts: inputs.2.address(),
        ranks: ranks.address(),
        mode: ScanMode::Rank as u32,
        n_rows: n_rows as u32,
        n_queries: n as u32,
        n_halves,
        ..ScanParams::default()
    };
    scan_planned(&device.ctx, &device.stream, width, params).unwrap();

    let what = format!(
        "{width:?}, {n_halves} halves, {} dim {dim}, {n_rows} centroids, {n} queries",
        metric.name()
    );
    let ranks = ranks.get(device, &format!("{what}: ranks"));
    let mut row = vec![0f32; host.pitch];
    for list in 0..n_rows {
        let stored = host.arrays();
        row.iter_mut()
            .zip(stored.row(list as u32))
            .for_each(|(x, h)| *x = h.to_f32());
        let norm_sq = host.norm_sq[list];
        for q in 0..n {
            let dot = dot(queries.vector(q), &row);
            let twin = centroid_rank(metric, queries.consts[q].norm_sq, dot, norm_sq);
            let ours = ranks[q * n_rows + list];
            let lost = queries.lost(q, n_halves, norm_sq);
            assert!(
                (ours - twin).abs() <= lost,
                "{what}: query {q} list {list}: rank {ours:e}, twin {twin:e}, lost {lost:e}"
            );
        }
    }
}

/// The inner product, in f64 by lanes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f64; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += f64::from(*a) * f64::from(*b);
        }
    }
    lanes.iter().sum::<f64>() as f32
}

#[test]
fn scans_rank_every_centroid() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("scans_rank_every_centroid");
    for &dim in dims() {
        for metric in METRICS {
            // Whatever the metric, by inner products.
            for scan in scans(&gpu, Metric::L2) {
                check_rank(&gpu, &device, &mut rng, metric, dim, scan);
            }
        }
    }
}
