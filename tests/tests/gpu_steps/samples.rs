//! The scans in mode `Place` over a sample of the rows, as exact batches begin: no items, no lists.

use crate::arrays::OnDevice;
use crate::common::{BIT_METRICS, METRICS, rng};
use crate::device::Device;
use crate::queries::Queries;
use crate::real_gpu::gpu;
use crate::scans::{UNTOUCHED, check_survivors, dims, scans, sizes};
use crate::tier_arrays::{DeviceTier, HostTier};
use omen_gpu::Gpu;
use omen_gpu::launch::scan::{Width, scan_planned};
use omen_gpu::params::{ScanItem, ScanMode, ScanParams};
use omen_gpu::twin::scan::{ScanArrays, scan_item};
use omen_ivf::Metric;
use rand::Rng;

fn check_sample(
    gpu: &Gpu,
    device: &Device,
    rng: &mut impl Rng,
    metric: Metric,
    dim: usize,
    (width, n_halves): (Width, u32),
) {
    let (n_slots, n) = sizes(rng, width, dim);
    let row_step = rng.random_range(1..=n_slots.min(5));
    let n_rows = n_slots.div_ceil(row_step);
    let host = HostTier::random(rng, metric, dim, n_slots);
    let queries = Queries::random(rng, metric, dim, n);
    let cap = n_rows + rng.random_range(0..10);
    let tier = DeviceTier::new(gpu, &host);
    let inputs = (
        device.put(&queries.vectors),
        device.put(&queries.halves),
        device.put(&queries.consts),
    );
    let survivors = OnDevice::new(device, &vec![UNTOUCHED; n * cap]);
    let params = ScanParams {
        tier: tier.view(),
        queries: inputs.0.address(),
        halves: inputs.1.address(),
        consts: inputs.2.address(),
        survivors: survivors.address(),
        cap: cap as u32,
        loose_scale: queries.scales.loose,
        mode: ScanMode::Place as u32,
        n_rows: n_rows as u32,
        row_step: row_step as u32,
        n_queries: n as u32,
        n_halves,
        ..ScanParams::default()
    };
    scan_planned(&device.ctx, &device.stream, width, params).unwrap();

    let what = format!(
        "{width:?}, {n_halves} halves, {} dim {dim}, {n_rows} of {n_slots} rows, each {row_step}th, {n} queries, cap {cap}",
        metric.name()
    );
    let ours = survivors.get(device, &format!("{what}: survivors"));
    let mut twin = vec![UNTOUCHED; n * cap];
    let group: Vec<u32> = (0..n as u32).collect();
    let mut arrays = ScanArrays {
        queries: &queries.vectors,
        consts: &queries.consts,
        group: &group,
        pairs: &[],
        places: &[],
        thresholds: &[],
        counts: &mut [],
        survivors: &mut twin,
        cap,
        loose_scale: queries.scales.loose,
        mode: ScanMode::Place,
        n_halves,
        row_step: row_step as u32,
    };
    let all = ScanItem {
        n_rows: n_rows as u16,
        n_queries: n as u16,
        ..ScanItem::default()
    };
    scan_item(&host.arrays(), &mut arrays, &all);
    check_survivors(&host, (&queries, n_halves, cap), &ours, &twin, &what);
}

#[test]
fn scans_place_a_sample() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("scans_place_a_sample");
    for &dim in dims() {
        for metric in METRICS.into_iter().chain(BIT_METRICS) {
            for scan in scans(&gpu, metric) {
                check_sample(&gpu, &device, &mut rng, metric, dim, scan);
            }
        }
    }
}
