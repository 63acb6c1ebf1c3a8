//! Every variant by name: time per call, inputs in the first-level cache.

#![allow(missing_docs, reason = "the macros of criterion make public items")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use omen_distance::{Estimate, GROUP, GroupFactors, Limit, Variant, f16, variants};

fn row(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.7).sin()).collect()
}

/// One variant of each instruction set: those of one set differ in `nibble_scan` alone.
fn instruction_sets() -> impl Iterator<Item = &'static Variant> {
    variants().iter().filter(|v| v.name() == v.isa().name())
}

fn distances(c: &mut Criterion) {
    for dim in [100, 128, 384, 768, 1536] {
        let (a, b) = (row(dim), row(dim + 1)[1..].to_vec());
        let h: Vec<f16> = b.iter().map(|&x| f16::from_f32(x)).collect();
        for v in instruction_sets() {
            let isa = v.name();
            let mut bench = |name: &str, f: &dyn Fn() -> f32| {
                let id = format!("{name}/{isa}/{dim}");
                c.bench_function(&id, |bencher| bencher.iter(f));
            };
            bench("l2sq", &|| v.l2sq(black_box(&a), black_box(&b)));
            bench("dot", &|| v.dot(black_box(&a), black_box(&b)));
            bench("l1", &|| v.l1(black_box(&a), black_box(&b)));
            bench("l2sq_f16", &|| v.l2sq_f16(black_box(&a), black_box(&h)));
            bench("dot_f16", &|| v.dot_f16(black_box(&a), black_box(&h)));
            bench("l2sq_halves", &|| {
                v.l2sq_halves(black_box(&h), black_box(&h))
            });
        }
    }
}

/// `n` of the bytes (64 more than that) that start at a line of the cache.
fn from_line(bytes: &[u8], n: usize) -> &[u8] {
    &bytes[bytes.as_ptr().align_offset(64)..][..n]
}

/// Time per group of 32 entries. Codes start at a line, as they do on a page.
fn scans(c: &mut Criterion) {
    for dim in [64, 128, 384, 768, 1536] {
        let bytes =
            |n: usize, m: usize| (0..n + 64).map(|i| (i * m % 251) as u8).collect::<Vec<_>>();
        let (codes, lut, nibbles) = (bytes(4 * dim, 7), bytes(4 * dim, 11), bytes(16 * dim, 7));
        let (codes, lut) = (from_line(&codes, 4 * dim), from_line(&lut, 4 * dim));
        let nibbles = from_line(&nibbles, 16 * dim);
        let query: Vec<i8> = (0..dim).map(|i| (i * 11 % 251) as u8 as i8).collect();
        for v in variants() {
            let isa = v.name();
            let mut sums = [0; GROUP];
            c.bench_function(&format!("fastscan/{isa}/{dim}"), |bencher| {
                bencher.iter(|| v.fastscan(black_box(codes), black_box(lut), &mut sums));
            });
            c.bench_function(&format!("nibble_scan/{isa}/{dim}"), |bencher| {
                bencher.iter(|| v.nibble_scan(black_box(nibbles), black_box(&query), &mut sums));
            });
        }
    }
}

fn bounds(c: &mut Criterion) {
    let rows: [[f32; GROUP]; 4] = [0, 1, 2, 3].map(|k| std::array::from_fn(|i| (i + k) as f32));
    let factors = GroupFactors {
        add: &rows[0],
        rescale: &rows[1],
        error: &rows[2],
        radius: &rows[3],
    };
    let estimate = Estimate {
        step: 0.1,
        base: -9.0,
        add: 3.0,
        spread: 0.5,
        slack: 0.01,
    };
    let sums = std::array::from_fn(|i| 100 * i as i32);
    for square in [false, true] {
        let limit = Limit {
            square,
            offset: 9.0,
            slope: 1.5,
            factor: 1.1,
        };
        for v in instruction_sets() {
            let id = format!("group_bounds/{}/square={square}", v.name());
            c.bench_function(&id, |bencher| {
                let mut bounds = [0.0; GROUP];
                bencher.iter(|| {
                    v.group_bounds(
                        black_box(&sums),
                        black_box(&factors),
                        black_box(&estimate),
                        black_box(&limit),
                        &mut bounds,
                    )
                });
            });
        }
    }
}

fn hadamard(c: &mut Criterion) {
    for n in [64, 512, 1024, 16384] {
        for v in instruction_sets() {
            let id = format!("hadamard/{}/{n}", v.name());
            c.bench_function(&id, |bencher| {
                // Zeros stay zeros: no overflow however often it runs, and the time does not depend on values.
                let mut x = vec![0.0; n];
                bencher.iter(|| v.hadamard(black_box(&mut x)));
            });
        }
    }
}

/// The rotation of codes of so many dimensions.
fn rotate(c: &mut Criterion) {
    for n in [128, 768, 1536] {
        for v in instruction_sets() {
            let id = format!("rotate/{}/{n}", v.name());
            c.bench_function(&id, |bencher| {
                let (mut x, flips) = (vec![0.0; n], vec![0; 4 * n]);
                bencher.iter(|| v.rotate(black_box(&mut x), &flips));
            });
        }
    }
}

fn convert(c: &mut Criterion) {
    let (x, mut h) = (row(768), vec![f16::ZERO; 768]);
    for v in instruction_sets() {
        let isa = v.name();
        let mut wide = vec![0.0; 768];
        c.bench_function(&format!("f16_from_f32/{isa}/768"), |bencher| {
            bencher.iter(|| v.f16_from_f32(black_box(&x), &mut h));
        });
        c.bench_function(&format!("f32_from_f16/{isa}/768"), |bencher| {
            bencher.iter(|| v.f32_from_f16(black_box(&h), &mut wide));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    targets = distances, scans, bounds, hadamard, rotate, convert
}
criterion_main!(benches);
