//! The code scan's bounds, on the kernels' CPU twins: how often they hold, how tight they are, and what a scan by them loses.

mod common;
#[path = "codes/data.rs"]
mod data;

use common::{DOT_METRICS, normal, rng};
use data::{Data, LIST_ROWS, prepared};
use omen_gpu::params::{ScanItem, from_ordered_bits};
use omen_gpu::query::scales;
use omen_gpu::twin::prepare_codes::prepare_codes;
use omen_gpu::twin::scan_codes::{
    CodeArrays, CodeScanArrays, lower_key, scan_codes_item, upper_key,
};
use omen_ivf::Metric;
use omen_ivf::layout::group::Filter;
use omen_ivf::rabitq::epsilon;
use omen_ivf::rotation::Rotation;
use rand::Rng;

fn shapes() -> impl Iterator<Item = (Metric, usize)> {
    DOT_METRICS
        .into_iter()
        .flat_map(|metric| [512, 700, 768, 1024].map(|dim| (metric, dim)))
}

#[test]
fn estimates_are_unbiased_and_bounds_hold() {
    let mut rng = rng("estimates_are_unbiased_and_bounds_hold");
    let mut all = (0u32, 0f64);
    for (metric, dim) in shapes() {
        let data = Data::random(&mut rng, metric, dim, 6, 25);
        let what = format!("{} {dim}", metric.name());
        // Errors in standard errors: of the whole estimate, and of the query's four bits alone.
        let (mut n, mut sum, mut squares, mut broken, mut bits_squares) =
            (0.0, 0.0, 0.0, 0u32, 0.0);
        let g = scales(omen_ivf::bound::rounding(dim as u32));
        for query in &data.queries {
            let q = prepared(&data, query);
            for slot in 0..data.rows.len() {
                let pair = data.pair(query, slot / LIST_ROWS);
                let guess = data.estimate(slot, &q.planes, &q.codes, pair);
                let truth = data.truth(query, &data.rows[slot]);
                let z = (f64::from(guess.estimate) - truth) * 4.0 / f64::from(guess.margin);
                n += 1.0;
                sum += z;
                squares += z * z;
                let err = data.err[slot];
                let tight = match metric {
                    Metric::NegIp => truth as f32 - err * q.consts.norm,
                    _ => ((truth.sqrt() as f32) * g.tight - err).max(0.0),
                };
                let low = lower_key(metric, &guess, g.loose, &q.consts, err);
                let high = upper_key(metric, &guess, &q.consts, err);
                broken += u32::from(low > tight) + u32::from(high < tight);

                // The index's own estimate has the exact <o, q'>.
                let [f_add, f_rescale, _] = data.factors(slot).map(f64::from);
                let code = data.code(slot);
                let inner: f64 = (q.rotated.iter().enumerate())
                    .map(|(i, &x)| {
                        let positive = code[i / 32] >> (i % 32) & 1 == 1;
                        f64::from(if positive { x } else { -x })
                    })
                    .sum();
                let exact = f_add + f64::from(pair.0) + f_rescale * inner;
                let unit = f_rescale.abs() * f64::from(q.codes.slack) / 4.0;
                bits_squares += ((exact - f64::from(guess.estimate)) / unit).powi(2);
            }
        }
        let (mean, rms) = (sum / n, (squares / n).sqrt());
        let bits_rms = (bits_squares / n).sqrt();
        println!(
            "{what}: mean {mean:.3}, rms {rms:.3}, of the four bits {bits_rms:.3}, {broken} of {n} broken"
        );
        assert!(mean.abs() < 0.15, "{what}: bias of {mean} standard errors");
        assert!((0.6..1.15).contains(&rms), "{what}: standard error {rms}");
        assert!(
            (0.7..1.3).contains(&bits_rms),
            "{what}: four bits {bits_rms}"
        );
        // A query whose direction is unlucky for a list has many of them.
        assert!(
            f64::from(broken) <= 2e-3 * n,
            "{what}: {broken} of {n} bounds broken"
        );
        all.0 += broken;
        all.1 += n;
    }
    // Two bounds of four standard errors: 6e-5 of a normal variable.
    let (broken, n) = all;
    println!("{broken} of {n} bounds broken");
    assert!(
        f64::from(broken) <= 3e-4 * n,
        "{broken} of {n} bounds broken"
    );
}

#[test]
fn a_scan_keeps_the_nearest_and_drops_most() {
    let mut rng = rng("a_scan_keeps_the_nearest_and_drops_most");
    let k = 10;
    for (metric, dim) in shapes() {
        let data = Data::random(&mut rng, metric, dim, 8, 60);
        let n_rows = data.rows.len();
        let g = scales(omen_ivf::bound::rounding(dim as u32));
        let live = vec![u32::MAX; n_rows.div_ceil(32)];
        let tier = CodeArrays {
            codes: &data.codes,
            factors: &data.factors,
            err: &data.err,
            live: &live,
            code_pitch: data.code_pitch,
            metric,
        };
        let (mut lost, mut wanted, mut passed, mut by_upper) = (0, 0, 0, 0);
        for query in &data.queries {
            let q = prepared(&data, query);
            let pairs: Vec<(f32, f32)> = (0..8).map(|list| data.pair(query, list)).collect();
            let mut keys: Vec<(f32, u32)> = (0..n_rows)
                .map(|slot| {
                    let truth = data.truth(query, &data.rows[slot]);
                    let key = match metric {
                        Metric::NegIp => truth as f32 - data.err[slot] * q.consts.norm,
                        _ => ((truth.sqrt() as f32) * g.tight - data.err[slot]).max(0.0),
                    };
                    (key, slot as u32)
                })
                .collect();
            keys.sort_by(|a, b| a.0.total_cmp(&b.0));
            let run = |upper: bool, threshold: f32| -> Vec<u64> {
                let (mut counts, mut survivors) = (vec![0], vec![u64::MAX; n_rows]);
                let mut scan = CodeScanArrays {
                    planes: &q.planes,
                    codes: &[q.codes],
                    consts: &[q.consts],
                    group: &[0; 8],
                    pair: &[0, 1, 2, 3, 4, 5, 6, 7],
                    add: &pairs.iter().map(|p| p.0).collect::<Vec<f32>>(),
                    distance: &pairs.iter().map(|p| p.1).collect::<Vec<f32>>(),
                    thresholds: &[threshold],
                    counts: &mut counts,
                    survivors: &mut survivors,
                    pair_base: &[0; 8],
                    cap: n_rows,
                    upper,
                    loose_scale: g.loose,
                    epsilon: epsilon(Filter::OneBit),
                };
                for list in 0..8 {
                    let item = ScanItem {
                        first_slot: (list * LIST_ROWS) as u32,
                        first_row: 0,
                        n_rows: LIST_ROWS as u16,
                        first_query: list as u32,
                        n_queries: 1,
                    };
                    scan_codes_item(&tier, &mut scan, &item);
                }
                if !upper {
                    survivors.truncate(counts[0] as usize);
                }
                survivors
            };
            // The threshold just above the k-th: all k pass unless a bound is broken.
            let survivors = run(false, keys[k].0);
            passed += survivors.len();
            wanted += keys[..k].iter().filter(|x| x.0 < keys[k].0).count();
            lost += keys[..k]
                .iter()
                .filter(|x| x.0 < keys[k].0)
                .filter(|x| !survivors.iter().any(|s| *s as u32 == x.1))
                .count();
            // The k-th upper bound is a threshold that no row of the k nearest exceeds.
            let mut uppers: Vec<f32> = run(true, 0.0)
                .iter()
                .map(|x| from_ordered_bits((x >> 32) as u32))
                .collect();
            uppers.sort_by(f32::total_cmp);
            by_upper += usize::from(uppers[k - 1] >= keys[k - 1].0);
        }
        let n = data.queries.len();
        let what = format!("{} {dim}", metric.name());
        println!(
            "{what}: {lost} of {wanted} lost, {passed} of {} passed",
            n * n_rows
        );
        assert!(lost <= 2, "{what}: {lost} of {wanted} lost");
        assert!(
            passed < n * n_rows / 2,
            "{what}: {passed} of {} passed",
            n * n_rows
        );
        assert_eq!(by_upper, n, "{what}: thresholds from upper bounds");
    }
}

#[test]
fn special_queries_have_harmless_planes() {
    let mut rng = rng("special_queries_have_harmless_planes");
    let rotation = Rotation::new(rng.random(), 512, 512);
    for (scale, zero) in [(0.0f32, true), (1e-30, true), (1e-18, false), (1e16, false)] {
        let query: Vec<f32> = (0..512).map(|_| scale * normal(&mut rng)).collect();
        let mut planes = vec![u32::MAX; 4 * 16];
        let (codes, rotated) = prepare_codes(&rotation, &query, 4.0, &mut planes);
        assert_eq!(planes.iter().all(|word| *word == 0), zero, "scale {scale}");
        for x in [codes.step, codes.base, codes.slack] {
            assert!(x.is_finite(), "scale {scale}: {codes:?}");
        }
        // The slack is what it says: four times the norm of what the levels lose.
        let lost: f64 = (0..512)
            .map(|i| {
                let bit = |plane: usize| (planes[plane * 16 + i / 32] >> (i % 32) & 1) as i32;
                let level = bit(0) + 2 * bit(1) + 4 * bit(2) - 8 * bit(3);
                let kept = f64::from(codes.step) / 2.0 * f64::from(level);
                (f64::from(rotated[i]) - kept).powi(2)
            })
            .sum();
        if !zero {
            let ratio = f64::from(codes.slack) / (4.0 * lost.sqrt());
            assert!((0.999..1.01).contains(&ratio), "scale {scale}: {ratio}");
        }
    }
}
