//! Times the kernels of the code scan on random codes on the first GPU: microseconds a launch, and what that is of the device's limits.
//!
//!     cargo run --release -p omen_gpu --example code_timings [-- rows dim multiprocessors]      (default 1000000 768 132)
//!
//! Every list of 768 rows is scanned for the same number of queries. "GB/s" counts codes and factors once a list; "Gpairs/s" pairs of a row
//! and a query. Next to no row passes the threshold.

use bytemuck::Pod;
use omen_gpu::buffers::{DeviceBuffer, PinnedBuffer};
use omen_gpu::context::{Context, Stream, Wait};
use omen_gpu::launch::prepare_codes::prepare_codes;
use omen_gpu::launch::rerank_survivors::rerank_survivors;
use omen_gpu::launch::scan_codes::{CodeScan, ITEM_ROWS, scan_codes};
use omen_gpu::memory::pitch_of;
use omen_gpu::params::{
    CodeConsts, CodeView, PrepareCodesParams, QueryConsts, RerankSurvivorsParams, ScanCodesParams,
    ScanItem,
};
use omen_gpu::{Gpu, GpuError};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIST_ROWS: usize = 768;
const LAUNCHES: u32 = 50;
const N_QUERIES: usize = 256;
const N_SURVIVORS: usize = 512;

struct Device {
    ctx: Arc<Context>,
    stream: Stream,
}

impl Device {
    fn wait(&self) -> Result<(), GpuError> {
        self.stream.wait(&mut Wait {
            until: Instant::now() + Duration::from_secs(60),
            poll: &mut || Ok(()),
        })
    }

    fn put<T: Pod>(&self, items: &[T]) -> Result<DeviceBuffer, GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(items);
        let mut pinned = PinnedBuffer::new(&self.ctx, bytes.len())?;
        pinned.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let buffer = DeviceBuffer::new(&self.ctx, bytes.len())?;
        self.stream.upload(&buffer, 0, &pinned, 0..bytes.len())?;
        self.wait()?;
        Ok(buffer)
    }

    /// Microseconds a launch, of many.
    fn time(&self, launch: impl Fn() -> Result<(), GpuError>) -> Result<f64, GpuError> {
        launch()?;
        self.wait()?;
        let start = Instant::now();
        for _ in 0..LAUNCHES {
            launch()?;
        }
        self.wait()?;
        Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(LAUNCHES))
    }
}

fn random_words(n: usize) -> Vec<u32> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as u32
    };
    (0..n).map(next).collect()
}

fn time_scans(device: &Device, n_rows: usize, dim: usize, processors: u32) -> Result<(), GpuError> {
    let (n_rows, code_pitch) = (
        n_rows / LIST_ROWS * LIST_ROWS,
        dim.div_ceil(32).next_multiple_of(8),
    );
    let codes = device.put(&random_words(n_rows * code_pitch))?;
    let planes = device.put(&random_words(N_QUERIES * 4 * code_pitch))?;
    let factors: Vec<f32> = [100.0, -0.1, 0.1]
        .iter()
        .flat_map(|&x| vec![x; n_rows])
        .collect();
    let factors = device.put(&factors)?;
    let err = device.put(&vec![1e-3f32; n_rows])?;
    let live = device.put(&vec![u32::MAX; n_rows.div_ceil(32)])?;
    let code_consts = CodeConsts {
        step: 0.01,
        slack: 0.1,
        ..CodeConsts::default()
    };
    let code_consts = device.put(&vec![code_consts; N_QUERIES])?;
    let consts = device.put(&vec![QueryConsts::default(); N_QUERIES])?;
    let thresholds = device.put(&vec![1f32; N_QUERIES])?;
    let counts = device.put(&vec![0u32; N_QUERIES])?;
    let survivors = device.put(&vec![0u64; N_QUERIES * 64])?;
    for n_queries in [1, 2, 4, 8, 16, 32] {
        let n_lists = n_rows / LIST_ROWS;
        let mut items = Vec::new();
        for list in 0..n_lists {
            for part in 0..LIST_ROWS / ITEM_ROWS {
                items.push(ScanItem {
                    first_slot: (list * LIST_ROWS + part * ITEM_ROWS) as u32,
                    first_row: 0,
                    n_rows: ITEM_ROWS as u16,
                    first_query: (list * n_queries) as u32,
                    n_queries: n_queries as u16,
                });
            }
        }
        let n_pairs = n_lists * n_queries;
        let group: Vec<u32> = (0..n_pairs).map(|i| (i % N_QUERIES) as u32).collect();
        let pair: Vec<u32> = (0..n_pairs as u32).collect();
        let count = device.put(&[items.len() as u32])?;
        let (items, group, pair) = (device.put(&items)?, device.put(&group)?, device.put(&pair)?);
        let ones = device.put(&vec![1f32; n_pairs])?;
        let params = ScanCodesParams {
            tier: CodeView {
                codes: codes.address(),
                factors: factors.address(),
                err: err.address(),
                live: live.address(),
                n_slots: n_rows as u32,
                code_pitch: code_pitch as u32,
                metric: omen_ivf::Metric::L2 as u32,
                reserved: 0,
            },
            planes: planes.address(),
            codes: code_consts.address(),
            consts: consts.address(),
            items: items.address(),
            n_items: count.address(),
            group: group.address(),
            pair: pair.address(),
            add: ones.address(),
            distance: ones.address(),
            thresholds: thresholds.address(),
            counts: counts.address(),
            survivors: survivors.address(),
            pair_base: 0,
            cap: 64,
            upper: 0,
            loose_scale: 1.0 - 1e-5,
            epsilon: 4.0,
        };
        for scan in [CodeScan::Popc, CodeScan::Mma4, CodeScan::Mma16] {
            let blocks = scan.blocks_per_multiprocessor() * processors;
            let us =
                device.time(|| scan_codes(&device.ctx, &device.stream, scan, params, blocks))?;
            let bytes = n_rows * (code_pitch * 4 + 16);
            println!(
                "scan_codes {scan:<7} {n_queries:>3} queries a list {us:>9.1} us {:>7.0} GB/s {:>7.1} Gpairs/s",
                bytes as f64 / us / 1e3,
                (n_rows * n_queries) as f64 / us / 1e3,
                scan = format!("{scan:?}"),
            );
        }
    }
    Ok(())
}

fn time_prepare(device: &Device, dim: usize) -> Result<(), GpuError> {
    let (pitch, code_dim) = (pitch_of(dim), dim.next_multiple_of(64));
    let code_pitch = (code_dim / 32).next_multiple_of(8);
    let queries = device.put(&vec![1f32; N_QUERIES * pitch])?;
    let flips = device.put(&random_words(4 * code_dim / 32))?;
    let rotated = device.put(&vec![0f32; N_QUERIES * code_dim])?;
    let planes = device.put(&vec![0u32; N_QUERIES * 4 * code_pitch])?;
    let codes = device.put(&vec![CodeConsts::default(); N_QUERIES])?;
    let params = PrepareCodesParams {
        queries: queries.address(),
        flips: flips.address(),
        rotated: rotated.address(),
        planes: planes.address(),
        codes: codes.address(),
        pitch: pitch as u32,
        code_dim: code_dim as u32,
        code_pitch: code_pitch as u32,
        epsilon: 4.0,
    };
    for n in [1, N_QUERIES] {
        let us = device.time(|| prepare_codes(&device.ctx, &device.stream, params, n))?;
        println!("prepare_codes {n:>4} queries {us:>7.1} us");
    }
    Ok(())
}

fn time_rerank(device: &Device, n_rows: usize, dim: usize) -> Result<(), GpuError> {
    let pitch = pitch_of(dim);
    // Zeroes will do; survivors are scattered.
    let rows = device.put(&vec![0u16; n_rows * pitch])?;
    let err = device.put(&vec![0f32; n_rows])?;
    let queries = device.put(&vec![1f32; N_QUERIES * pitch])?;
    let consts = device.put(&vec![QueryConsts::default(); N_QUERIES])?;
    let counts = device.put(&vec![N_SURVIVORS as u32; N_QUERIES])?;
    let scattered: Vec<u64> = random_words(N_QUERIES * N_SURVIVORS)
        .iter()
        .map(|x| u64::from(*x) % n_rows as u64)
        .collect();
    let survivors = device.put(&scattered)?;
    let params = RerankSurvivorsParams {
        rows: rows.address(),
        err: err.address(),
        queries: queries.address(),
        consts: consts.address(),
        base: 0,
        counts: counts.address(),
        survivors: survivors.address(),
        n_slots: n_rows as u32,
        pitch: pitch as u32,
        metric: omen_ivf::Metric::L2 as u32,
        cap: N_SURVIVORS as u32,
        tight_scale: 1.0 - 1e-5,
        reserved: 0,
    };
    for n in [1, N_QUERIES] {
        let launch = || rerank_survivors(&device.ctx, &device.stream, params, n, N_SURVIVORS);
        let us = device.time(launch)?;
        println!(
            "rerank_survivors {n:>4} queries x {N_SURVIVORS} {us:>7.1} us {:>6.0} GB/s",
            (n * N_SURVIVORS * pitch * 2) as f64 / us / 1e3
        );
    }
    Ok(())
}

fn main() -> Result<(), GpuError> {
    let mut arguments = std::env::args().skip(1).map(|x| x.parse::<usize>());
    let mut number = |default| arguments.next().and_then(Result::ok).unwrap_or(default);
    let (n_rows, dim, processors) = (number(1_000_000), number(768), number(132));
    let gpu = match Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    let Some(ctx) = gpu.context().cloned() else {
        return Ok(());
    };
    let device = Device {
        stream: Stream::new(&ctx)?,
        ctx,
    };
    println!("{n_rows} rows, {dim} dimensions");
    time_prepare(&device, dim)?;
    time_scans(&device, n_rows, dim, processors as u32)?;
    time_rerank(&device, n_rows, dim)
}
