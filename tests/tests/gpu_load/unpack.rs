//! `unpack_rows` and `unpack_groups` against their twins, on a real GPU.

use crate::small;
use crate::store_world::seed;
use bytemuck::{cast_slice, cast_slice_mut};
use half::f16;
use omen_gpu::Gpu;
use omen_gpu::buffers::{DeviceBuffer, PinnedBuffer};
use omen_gpu::context::{Context, Stream, Wait};
use omen_gpu::launch::unpack::{Items, unpack_groups, unpack_rows};
use omen_gpu::memory::{code_pitch_of, pitch_of};
use omen_gpu::params::{TierView, UnpackItem, UnpackParams};
use omen_gpu::twin::unpack::{self as twin, UnpackArrays};
use omen_ivf::Metric;
use omen_ivf::layout::group::{Filter, GROUP, GroupShape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an array holds where nothing was written.
const GUARD: u8 = 0xA5;

fn finish(stream: &Stream) {
    let mut wait = Wait {
        until: Instant::now() + Duration::from_secs(120),
        poll: &mut || Ok(()),
    };
    stream.wait(&mut wait).unwrap();
}

/// A buffer of exactly these bytes on the device.
fn upload(ctx: &Arc<Context>, stream: &Stream, bytes: &[u8]) -> DeviceBuffer {
    let mut pinned = PinnedBuffer::new(ctx, bytes.len()).unwrap();
    pinned.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    let buffer = DeviceBuffer::new(ctx, bytes.len()).unwrap();
    stream.upload(&buffer, 0, &pinned, 0..bytes.len()).unwrap();
    finish(stream);
    buffer
}

fn download(ctx: &Arc<Context>, stream: &Stream, buffer: &DeviceBuffer) -> Vec<u8> {
    let mut pinned = PinnedBuffer::new(ctx, buffer.len()).unwrap();
    stream
        .download(&mut pinned, buffer, 0..buffer.len())
        .unwrap();
    finish(stream);
    pinned.bytes()[..buffer.len()].to_vec()
}

/// The arrays of a tier, in words so that they are aligned.
struct Arrays {
    rows: Vec<u64>,
    norm_sq: Vec<u64>,
    err: Vec<u64>,
    tids: Vec<u64>,
    codes: Vec<u64>,
    factors: Vec<u64>,
}

impl Arrays {
    fn all(&mut self) -> [&mut Vec<u64>; 6] {
        [
            &mut self.rows,
            &mut self.norm_sq,
            &mut self.err,
            &mut self.tids,
            &mut self.codes,
            &mut self.factors,
        ]
    }
}

#[test]
fn unpack_matches_its_twin() {
    let gpu = match Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(error) => return println!("skipped: {error}"),
    };
    let mut rng = StdRng::seed_from_u64(seed());
    let ctx = gpu.context().expect("a real device").clone();
    let stream = Stream::new(&ctx).unwrap();
    let dims: &[usize] = if small() {
        &[1, 40, 513]
    } else {
        &[1, 7, 8, 31, 32, 100, 256, 513, 768, 1000, 4033, 16_000]
    };
    for &dim in dims {
        for (with_codes, metric) in [
            (false, Metric::L2),
            (true, Metric::L2),
            (false, Metric::Jaccard),
        ] {
            let (pitch, code_pitch) = (pitch_of(dim), code_pitch_of(dim));
            let codes = GroupShape::new(Filter::OneBit, dim as u32);
            let group_bytes = if with_codes { codes.bytes() } else { 768 };
            let code_words = if with_codes {
                codes.code_dim as usize / 32
            } else {
                0
            };
            // Parts of lists, with gaps between, in slots and in the area.
            let (mut groups, mut rows) = (Vec::new(), Vec::new());
            let (mut at, mut slot) = (0usize, 0usize);
            for _ in 0..rng.random_range(1..6) {
                let n = rng.random_range(1..=256usize);
                slot += rng.random_range(0..40);
                let item = |at: usize, n: usize| UnpackItem {
                    at: at as u32,
                    first_slot: slot as u32,
                    n: n as u32,
                    reserved: 0,
                };
                groups.push(item(at, n));
                at = (at + n.div_ceil(GROUP) * group_bytes).next_multiple_of(16);
                rows.push(item(at, n));
                at = (at + n * dim * 2).next_multiple_of(16) + 16 * rng.random_range(0..3);
                slot += n;
            }
            let n_slots = slot + rng.random_range(0..5);
            let mut area = vec![0u8; at];
            rng.fill(&mut area[..]);
            for item in rows.iter().filter(|_| !metric.is_of_bits()) {
                // Finite halves.
                for x in cast_slice_mut::<u8, f16>(
                    &mut area[item.at as usize..][..item.n as usize * dim * 2],
                ) {
                    *x = f16::from_f32(rng.random_range(-300.0..300.0));
                }
            }
            let items_at = at;
            let items: Vec<UnpackItem> = groups.iter().chain(&rows).copied().collect();
            area.extend_from_slice(cast_slice(&items));

            let guard = |bytes: usize| vec![u64::from_ne_bytes([GUARD; 8]); bytes.div_ceil(8)];
            let mut expected = Arrays {
                rows: guard(n_slots * pitch * 2),
                norm_sq: guard(n_slots * 4),
                err: guard(n_slots * 4),
                tids: guard(n_slots * 8),
                codes: guard(n_slots * code_pitch * 4),
                factors: guard(n_slots * 12),
            };
            let buffers = expected
                .all()
                .map(|array| upload(&ctx, &stream, cast_slice(array)));
            let [rows_at, norm_sq, err, tids, codes_at, factors] =
                buffers.each_ref().map(DeviceBuffer::address);
            let loaded = upload(&ctx, &stream, &area);
            let params = UnpackParams {
                tier: TierView {
                    rows: rows_at,
                    norm_sq,
                    err,
                    tids,
                    codes: codes_at,
                    factors,
                    pitch: pitch as u32,
                    metric: metric as u32,
                    code_pitch: code_pitch as u32,
                    n_slots: n_slots as u32,
                    ..TierView::default()
                },
                area: loaded.address(),
                items: loaded.address() + items_at as u64,
                dim: dim as u32,
                group_bytes: group_bytes as u32,
                code_words: code_words as u32,
                reserved: 0,
            };
            let of = |first, n| Items { first, n };
            unpack_groups(&ctx, &stream, params, of(0, groups.len())).unwrap();
            unpack_rows(&ctx, &stream, params, of(groups.len(), rows.len())).unwrap();
            unpack_rows(&ctx, &stream, params, of(0, 0)).unwrap();
            finish(&stream);

            let mut arrays = UnpackArrays {
                rows: &mut cast_slice_mut(&mut expected.rows)[..n_slots * pitch],
                norm_sq: &mut cast_slice_mut(&mut expected.norm_sq)[..n_slots],
                err: &mut cast_slice_mut(&mut expected.err)[..n_slots],
                tids: &mut cast_slice_mut(&mut expected.tids)[..n_slots],
                codes: &mut cast_slice_mut(&mut expected.codes)[..n_slots * code_pitch],
                factors: &mut cast_slice_mut(&mut expected.factors)[..3 * n_slots],
                pitch,
                code_pitch,
                metric,
            };
            for item in &groups {
                twin::unpack_groups(&mut arrays, &area, item, group_bytes, code_words);
            }
            for item in &rows {
                twin::unpack_rows(&mut arrays, &area, item, dim);
            }
            let names = ["rows", "norms", "errs", "tids", "codes", "factors"];
            for ((name, buffer), expected) in names.iter().zip(&buffers).zip(expected.all()) {
                let found = download(&ctx, &stream, buffer);
                let expected: &[u8] = cast_slice(expected);
                if *name == "norms" {
                    // Sums in f64 in another order, rounded once: the last bit may differ.
                    let bits = |bytes: &[u8]| cast_slice::<u8, u32>(bytes).to_vec();
                    for (a, b) in bits(&found).into_iter().zip(bits(expected)) {
                        assert!(a.abs_diff(b) <= 1, "dim {dim}: norm {a:x}, twin {b:x}");
                    }
                } else {
                    assert!(found == expected, "dim {dim}, codes {with_codes}: {name}");
                }
            }
        }
    }
}
