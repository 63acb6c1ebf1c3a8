//! `prepare_queries` against `query::prepare`.

use crate::arrays::{OnDevice, OnHost};
use crate::common::{BIT_METRICS, METRICS, normal, rng};
use crate::device::Device;
use crate::real_gpu::{gpu, small};
use half::f16;
use omen_gpu::TierQuery;
use omen_gpu::launch::prepare::prepare_queries;
use omen_gpu::memory::pitch_of;
use omen_gpu::params::{OVERFLOW_QUERY, PrepareParams, QueryBound, QueryConsts};
use omen_gpu::query::{prepare, prepare_bits};
use omen_ivf::Metric;
use rand::Rng;

/// Queries of every kind: of many sizes, zero, hardly more than zero, as large as is allowed, and some that must be refused.
fn raw_queries(rng: &mut impl Rng, dim: usize, n: usize) -> Vec<f32> {
    let largest = 2f32.powi(56);
    let mut raw = vec![0f32; n * dim];
    for query in raw.chunks_exact_mut(dim) {
        let kind = rng.random_range(0..12);
        let scale = match kind {
            0 => 0.0,
            1 => 1e-42,
            2 => 1e-20,
            3 => 1e15,
            _ => 10f32.powi(rng.random_range(-6..8)),
        };
        query.iter_mut().for_each(|x| *x = scale * normal(rng));
        let at = rng.random_range(0..dim);
        match kind {
            4 => query[at] = f32::NAN,
            5 => query[at] = [f32::INFINITY, f32::NEG_INFINITY][rng.random_range(0..2)],
            6 => query[at] = -largest.next_up(),
            7 => query[at] = largest,
            8 => query[at] = -0.0,
            _ => {}
        }
    }
    raw
}

/// Whether a constant of the keys is the twin's, up to rounding, which must not take much from a bound.
fn near(ours: f32, twin: f32) -> bool {
    let tiny = f32::MIN_POSITIVE;
    (ours - twin).abs() <= 1e-6 * twin.abs() + tiny && ours >= twin * (1.0 - 3e-7) - tiny
}

fn check_consts(ours: &QueryConsts, twin: &QueryConsts, what: &str) {
    let pairs = [
        ("norm_sq", ours.norm_sq, twin.norm_sq),
        ("slack", ours.slack, twin.slack),
        ("slack_high", ours.slack_high, twin.slack_high),
        ("norm_up", ours.norm_up, twin.norm_up),
        ("norm", ours.norm, twin.norm),
    ];
    for (name, a, b) in pairs {
        assert!(near(a, b), "{what}: {name} {a:e}, twin {b:e}");
    }
    assert_eq!(
        (ours.dot_scale, ours.err, ours.reserved),
        (twin.dot_scale, twin.err, 0),
        "{what}: dot_scale, err, reserved"
    );
}

fn check_bits<T: Copy>(ours: &[T], twin: &[T], bits: impl Fn(T) -> u32, what: &str) {
    for (at, (&a, &b)) in ours.iter().zip(twin).enumerate() {
        let (a, b) = (bits(a), bits(b));
        assert!(a == b, "{what} {at}: bits {a:x}, twin {b:x}");
    }
}

fn check_dim(device: &Device, rng: &mut impl Rng, metric: Metric, dim: usize) {
    let (pitch, n) = (pitch_of(dim), rng.random_range(1..30));
    let g = omen_ivf::bound::rounding(dim as u32);
    let vectors = raw_queries(rng, dim, n);
    // Of strings of bits, their words follow the coordinates; any pattern.
    let (bit_words, bit_pitch) = match metric.is_of_bits() {
        true => {
            let row_words = rng.random_range(1..=2 * dim + 9);
            (row_words.div_ceil(2), pitch_of(row_words) / 2)
        }
        false => (0, 0),
    };
    let words = dim + bit_words;
    let mut raw: Vec<f32> = (0..n * words)
        .map(|_| f32::from_bits(rng.random()))
        .collect();
    for (to, from) in raw.chunks_exact_mut(words).zip(vectors.chunks_exact(dim)) {
        to[..dim].copy_from_slice(from);
    }
    let bounds: Vec<QueryBound> = (0..n)
        .map(|_| QueryBound {
            q_norm: rng.random_range(0.0..100.0),
            q_err: rng.random_range(0.0..1e-3),
        })
        .collect();
    let on_host = (OnHost::new(device, &raw), OnHost::new(device, &bounds));
    let on_device = (device.put(&raw), device.put(&bounds));
    let first_count = [0, rng.random()][rng.random_range(0..2)];
    for (raw_at, bounds_at, place) in [
        (on_host.0.address(), on_host.1.address(), "page-locked"),
        (on_device.0.address(), on_device.1.address(), "device"),
    ] {
        let garbage = QueryConsts {
            reserved: 7,
            ..QueryConsts::default()
        };
        let queries = OnDevice::new(device, &vec![f32::NAN; n * pitch]);
        let halves = OnDevice::new(device, &vec![0x7E00u16; 2 * n * pitch]);
        let consts = OnDevice::new(device, &vec![garbage; n]);
        let thresholds = OnDevice::new(device, &vec![3f32; n]);
        let counts = OnDevice::new(device, &vec![99u32; n]);
        let overflows = OnDevice::new(device, &vec![99u32; n]);
        let bits = OnDevice::new(device, &vec![99f32; n * bit_pitch]);
        let params = PrepareParams {
            raw: raw_at,
            bounds: bounds_at,
            input: 0,
            queries: queries.address(),
            halves: halves.address(),
            consts: consts.address(),
            thresholds: thresholds.address(),
            counts: counts.address(),
            overflows: overflows.address(),
            n_queries: n as u32,
            dim: dim as u32,
            pitch: pitch as u32,
            metric: metric as u32,
            rounding: g,
            first_count,
            bits: if bit_pitch > 0 { bits.address() } else { 0 },
            bit_words: bit_words as u32,
            bit_pitch: bit_pitch as u32,
        };
        prepare_queries(&device.ctx, &device.stream, params).unwrap();

        let what = format!("dim {dim} {} from {place} memory", metric.name());
        let queries = queries.get(device, &format!("{what}: queries"));
        let halves = halves.get(device, &format!("{what}: halves"));
        let consts = consts.get(device, &format!("{what}: consts"));
        let overflows = overflows.get(device, &format!("{what}: overflows"));
        let bits = bits.get(device, &format!("{what}: bits"));
        let thresholds = thresholds.get(device, &format!("{what}: thresholds"));
        assert_eq!(thresholds, vec![f32::INFINITY; n], "{what}: thresholds");
        let counts = counts.get(device, &format!("{what}: counts"));
        assert_eq!(counts, vec![first_count; n], "{what}: counts");
        for q in 0..n {
            let what = format!("{what}: query {q} of {n}");
            let mut padded = vec![0f32; pitch];
            let mut twin_halves = vec![f16::ZERO; 2 * pitch];
            let mut twin = |vector: &[f32]| {
                let query = TierQuery {
                    q: vector,
                    q_norm: bounds[q].q_norm,
                    q_err: bounds[q].q_err,
                    lists: &[],
                    k: 1,
                };
                prepare(metric, &query, g, &mut padded, &mut twin_halves)
            };
            let (vector, words) = raw[q * words..][..words].split_at(dim);
            let of_query = twin(vector);
            let expected = if of_query.is_ok() { 0 } else { OVERFLOW_QUERY };
            assert_eq!(overflows[q], expected, "{what}: overflow, {of_query:?}");
            // What is refused counts as zero.
            let mut of_query = of_query.unwrap_or_else(|_| twin(&vec![0.0; dim]).unwrap());
            if metric.is_of_bits() {
                let mut padded = vec![3f32; bit_pitch];
                of_query.norm = prepare_bits(words, &mut padded);
                assert_eq!(consts[q].norm, of_query.norm, "{what}: bits set");
                let ours = &bits[q * bit_pitch..][..bit_pitch];
                check_bits(ours, &padded, f32::to_bits, &format!("{what}: bits"));
            }
            check_consts(&consts[q], &of_query, &what);
            let ours = &queries[q * pitch..][..pitch];
            check_bits(ours, &padded, f32::to_bits, &format!("{what}: coordinate"));
            let ours: Vec<f16> = halves[2 * q * pitch..][..2 * pitch]
                .iter()
                .map(|&bits| f16::from_bits(bits))
                .collect();
            let bits = |x: f16| u32::from(x.to_bits());
            check_bits(&ours, &twin_halves, bits, &format!("{what}: half"));
        }
    }
}

#[test]
fn prepare_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("prepare_matches_its_twin");
    let mut dims = vec![1, 2, 3, 4, 5, 31, 32, 33, 130, 512, 515];
    if !small() {
        dims.extend([64, 100, 127, 128, 129, 384, 511, 513, 768, 1000, 1023]);
        dims.extend([1536, 2049, 4096, 9998, 15_999, 16_000]);
        dims.extend((0..4).map(|_| rng.random_range(1..=16_000)));
    }
    for dim in dims {
        for metric in METRICS.into_iter().chain(BIT_METRICS) {
            check_dim(&device, &mut rng, metric, dim);
        }
    }
}
