//! Every variant by name: time per call, inputs in the first-level cache.

#![allow(missing_docs, reason = "the macros of criterion make public items")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use omen_distance::{GROUP, f16, variants};

fn row(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.7).sin()).collect()
}

fn distances(c: &mut Criterion) {
    for dim in [128, 384, 768, 1536] {
        let (a, b) = (row(dim), row(dim + 1)[1..].to_vec());
        let h: Vec<f16> = b.iter().map(|&x| f16::from_f32(x)).collect();
        for v in variants() {
            let isa = v.isa().name();
            let mut bench = |name: &str, f: &dyn Fn() -> f32| {
                let id = format!("{name}/{isa}/{dim}");
                c.bench_function(&id, |bencher| bencher.iter(f));
            };
            bench("l2sq", &|| v.l2sq(black_box(&a), black_box(&b)));
            bench("dot", &|| v.dot(black_box(&a), black_box(&b)));
            bench("l1", &|| v.l1(black_box(&a), black_box(&b)));
            bench("l2sq_f16", &|| v.l2sq_f16(black_box(&a), black_box(&h)));
            bench("dot_f16", &|| v.dot_f16(black_box(&a), black_box(&h)));
        }
    }
}

fn fastscan(c: &mut Criterion) {
    for code_dim in [256, 768, 1536] {
        let bytes = |m: usize| {
            (0..code_dim * 4)
                .map(|i| (i * m % 251) as u8)
                .collect::<Vec<_>>()
        };
        let (codes, lut) = (bytes(7), bytes(11));
        for v in variants() {
            let id = format!("fastscan/{}/{code_dim}", v.isa().name());
            c.bench_function(&id, |bencher| {
                let mut sums = [0; GROUP];
                bencher.iter(|| v.fastscan(black_box(&codes), black_box(&lut), &mut sums));
            });
        }
    }
}

fn hadamard(c: &mut Criterion) {
    for n in [64, 512, 1024, 16384] {
        for v in variants() {
            let id = format!("hadamard/{}/{n}", v.isa().name());
            c.bench_function(&id, |bencher| {
                // Zeros stay zeros: no overflow however often it runs, and the time does not depend on values.
                let mut x = vec![0.0; n];
                bencher.iter(|| v.hadamard(black_box(&mut x)));
            });
        }
    }
}

fn convert(c: &mut Criterion) {
    let (x, mut h) = (row(768), vec![f16::ZERO; 768]);
    for v in variants() {
        let isa = v.isa().name();
        let mut wide = vec![0.0; 768];
        c.bench_function(&format!("f16_from_f32/{isa}/768"), |bencher| {
            bencher.iter(|| v.f16_from_f32(black_box(&x), &mut h));
        });
        c.bench_function(&format!("f32_from_f16/{isa}/768"), |bencher| {
            bencher.iter(|| v.f32_from_f16(black_box(&h), &mut wide));
        });
    }
}

criterion_group!(benches, distances, fastscan, hadamard, convert);
criterion_main!(benches);
