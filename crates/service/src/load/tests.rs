//! What only shows behind the builder: commands of any content, servers that die, waits that end.

#![allow(unsafe_code)]

use super::callee::Callee;
use super::caller::Caller;
use super::command::{Command, Wanted};
use super::region::{LoadRegion, Room};
use super::{Host, HostOptions, Loaded};
use crate::message::TierKey;
use bytemuck::Zeroable;
use half::f16;
use omen_gpu::context::Wait;
use omen_gpu::engine::WritePart;
use omen_gpu::memory::{Parts, TierPlan};
use omen_gpu::tier_image::TierImage;
use omen_gpu::{Copiers, Gpu, GpuError, Tier, TierBuilder, TierList, TierSpec};
use omen_ivf::layout::group::{Filter, GroupShape};
use omen_ivf::rabitq::Encoder;
use omen_ivf::rotation::Rotation;
use omen_ivf::{Metric, Tid};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// A region in memory that is never freed.
fn region() -> LoadRegion {
    let bytes = LoadRegion::bytes(2, 1 << 20);
    let memory = vec![Line([0xA5; 64]); bytes.div_ceil(64)].leak();
    // SAFETY: so many bytes, leaked.
    let region = unsafe { LoadRegion::create(memory.as_mut_ptr().cast(), 2, 1 << 20) };
    let region = region.expect("aligned");
    region.set_room(Room {
        limit: 1 << 30,
        used: 0,
    });
    region
}

fn wanted() -> Wanted {
    Wanted {
        key: TierKey::zeroed(),
        spec: TierSpec::of_vectors(Metric::L2, 40, 4),
        parts: Parts::RowsAndCodes,
        n_slots: 1000,
        byte_limit: 1 << 30,
        displaces_last: false,
    }
}

/// Waits so long for the outcome of the last command.
fn outcome(caller: &Caller, time: Duration) -> Result<(), GpuError> {
    let mut wait = Wait {
        until: Instant::now() + time,
        poll: &mut || Ok(()),
    };
    caller
        .outcome(&mut wait, &mut || Ok(()))
        .expect("nobody interrupts")
        .map(|_| ())
}

const LONG: Duration = Duration::from_secs(10);

/// A tier of random entries, with slots that are free between its lists and after them.
fn tier(rng: &mut ChaCha8Rng, gpu: &Gpu) -> Tier {
    let spec = wanted().spec;
    let mut builder = TierBuilder::with_parts(
        gpu,
        spec,
        Parts::RowsAndCodes,
        1000,
        1 << 30,
        Copiers::none(),
    )
    .unwrap();
    let shape = GroupShape::new(Filter::OneBit, spec.dim as u32);
    let rotation = Rotation::new(3, spec.dim, shape.code_dim as usize);
    let centroid = vec![f16::ZERO; spec.dim];
    let encoder = Encoder::new(spec.metric, Filter::OneBit, &rotation, &centroid);
    for list in [0, 1, 3] {
        builder.begin_list(list);
        for slot in 0..150 {
            let row: Vec<f16> = (0..spec.dim).map(|_| f16::from_f32(rng.random())).collect();
            builder.push(slot, Tid::new(slot, 1), rng.random(), 0.0, &row);
        }
        builder.end_list_encoded(150, 1, 1, &encoder).unwrap();
    }
    let mut tier = builder.finish().unwrap();
    let mut lists = tier.lists().to_vec();
    lists[1] = None;
    tier.end_refresh(lists).unwrap();
    tier
}

/// A command, and the place of a part, should it be one that writes parts.
fn any_command(rng: &mut ChaCha8Rng) -> (Command, WritePart) {
    let mut size = |most: usize| match rng.random_range(0..12) {
        0 => usize::MAX,
        1 => most,
        2 => most + 1,
        3 => rng.random::<u64>() as usize,
        4 => 0,
        _ => rng.random_range(0..=most),
    };
    let (which, len, start, at) = (size(1), size(1 << 20), size(1 << 14), size(400_000));
    let (n_groups, n_rows) = (size(3), size(3));
    let mut part = WritePart {
        start: start as u64,
        len: if rng.random() { len } else { len >> 4 } as u64,
        at: at as u64,
    };
    let command = match rng.random_range(0..20) {
        0 => Command::EndWrites,
        1 => Command::Rotation { seed: at as u64 },
        2 => Command::Finish {
            which,
            has_centroids: true,
        },
        3..6 => {
            // About live bits.
            let plan = TierPlan::new(&wanted().spec, wanted().parts, 1000).unwrap();
            part.len = (len % 5 * 4) as u64;
            let byte = at % 35 * 4 + usize::from(rng.random_ratio(1, 8));
            part.at = (plan.live + byte) as u64;
            Command::Write {
                which,
                parts_at: start,
                n_parts: 1,
            }
        }
        6..9 => Command::Write {
            which,
            parts_at: start,
            n_parts: if rng.random() { 1 } else { n_rows },
        },
        _ => {
            let items_at = start / 16 * 16;
            let used = if rng.random_bool(0.9) {
                items_at.wrapping_add(n_groups.wrapping_add(n_rows).wrapping_mul(16))
            } else {
                len
            };
            Command::Unpack {
                which,
                used,
                items_at,
                n_groups,
                n_rows,
            }
        }
    };
    if let Command::Write { parts_at, .. } = command
        && rng.random_bool(0.7)
    {
        part.start = part.start.min(parts_at as u64 / 2);
        part.len = part.len.min(parts_at as u64 / 2);
    }
    (command, part)
}

#[test]
fn no_command_harms_the_host() {
    let seed = std::env::var("OMEN_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    println!("OMEN_TEST_SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (region, gpu) = (region(), Gpu::open_simulated());
    let (sender, tiers) = channel();
    let tier = Arc::new(tier(&mut rng, &gpu));
    let (refreshed, before) = (tier.clone(), tier.read_back().unwrap());
    let options = HostOptions {
        refresh: Some(Box::new(move |_| {
            Some((1, refreshed.begin_refresh().ok()?))
        })),
        ..HostOptions::default()
    };
    let host = Host::start(region, gpu.clone(), sender, options).unwrap();
    let (mut fine, mut refused) = (0, 0);
    for round in 0..600 {
        let mut caller = Caller::open(region, 1, &mut || Ok(())).unwrap();
        if rng.random_bool(0.95) {
            let first = match round % 3 {
                0 => Command::Refresh(wanted().key),
                _ => Command::Begin(wanted()),
            };
            caller.post(&first).unwrap();
            host.wake();
            outcome(&caller, LONG).unwrap();
        }
        host.wake();
        loop {
            // Small numbers, where items are expected.
            for which in 0..2 {
                // SAFETY: the area is the loader's, between its commands.
                let area = unsafe {
                    let start = region.area(which).unwrap().cast::<u32>();
                    std::slice::from_raw_parts_mut(start, 1 << 13)
                };
                for word in area {
                    let bits = rng.random_range(1..7);
                    *word = rng.random_range(0..1 << bits);
                    *word <<= if rng.random_ratio(9, 10) { 4 } else { 0 };
                }
            }
            let (command, part) = any_command(&mut rng);
            if let Command::Write {
                which: which @ 0..2,
                parts_at: parts_at @ 0..10_000,
                ..
            } = command
            {
                // SAFETY: as above; the area is larger.
                unsafe {
                    let start = region.area(which).unwrap().add(parts_at);
                    start.cast::<WritePart>().write_unaligned(part);
                }
            }
            caller.post(&command).unwrap();
            match outcome(&caller, LONG) {
                Ok(()) => fine += 1,
                Err(GpuError::Other(_)) => {
                    refused += 1;
                    break;
                }
                Err(error) => panic!("{command:?}: {error}"),
            }
            if matches!(command, Command::Finish { .. }) {
                break;
            }
        }
    }
    println!("{fine} commands were executed, {refused} refused");
    assert!(refused > 300 && fine > 0);
    assert_eq!(host.lost(), None);
    let mut n_lists = 0;
    while let Ok(loaded) = tiers.try_recv() {
        n_lists += usize::from(matches!(loaded, Loaded::Lists(..)));
    }
    println!("{n_lists} refreshes ended");
    // What was in use is as it was, but for live bits of whole lists.
    let after = tier.read_back().unwrap();
    let in_use = |image: &TierImage| -> Vec<u8> {
        let arrays = image.arrays();
        let of = |list: &TierList| {
            let slots = list.slots();
            let rows = &arrays.rows[slots.start * arrays.pitch..slots.end * arrays.pitch];
            let codes =
                &arrays.codes[slots.start * arrays.code_pitch..slots.end * arrays.code_pitch];
            let parts: [&[u8]; 4] = [
                bytemuck::cast_slice(rows),
                bytemuck::cast_slice(codes),
                bytemuck::cast_slice(&arrays.err[slots.clone()]),
                bytemuck::cast_slice(&arrays.tids[slots]),
            ];
            parts.concat()
        };
        tier.lists().iter().flatten().flat_map(of).collect()
    };
    assert!(
        in_use(&after) == in_use(&before),
        "lists in use were written to"
    );
    drop((host, tier));
    assert_eq!(gpu.allocated(), 0);
}

#[test]
fn a_refresh_writes_to_free_slots_alone() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (region, gpu) = (region(), Gpu::open_simulated());
    let tier = tier(&mut rng, &gpu);
    let plan = TierPlan::new(&wanted().spec, wanted().parts, 1000).unwrap();
    let (sender, _tiers) = channel();
    let options = HostOptions {
        refresh: Some(Box::new(move |_| Some((1, tier.begin_refresh().ok()?)))),
        ..HostOptions::default()
    };
    let host = Host::start(region, gpu, sender, options).unwrap();
    // Lists have the slots from 0 to 150, where the words are the list's alone, and from 300 to 450, where the first is not.
    for (at, len, is_free) in [
        (plan.live, 5 * 4, true),
        (plan.live, 4 * 4, true),
        (plan.live, 6 * 4, false),
        (plan.live + 9 * 4, 6 * 4, false),
        (plan.live + 5 * 4, 16, true),
        (plan.live + 15 * 4, 17 * 4, true),
        (plan.live + 4 * 4, 4, true),
        (plan.live + 9 * 4, 4, false),
        (plan.live + 14 * 4, 8, false),
        (plan.live + 5 * 4, 20, false),
        (plan.live + 5 * 4 + 1, 4, false),
        (plan.live + 5 * 4, 5, false),
        (plan.live + 15 * 4, 18 * 4, false),
        (plan.live - 4, 4, false),
        (plan.rows + 160 * 2 * plan.pitch, 2 * plan.pitch, false),
        (plan.centroids, 8, false),
    ] {
        let mut caller = Caller::open(region, 1, &mut || Ok(())).unwrap();
        caller.post(&Command::Refresh(wanted().key)).unwrap();
        host.wake();
        outcome(&caller, LONG).unwrap();
        let (which, parts_at, n_parts) = (0, 128, 1);
        let part = WritePart {
            start: 0,
            len: len as u64,
            at: at as u64,
        };
        // SAFETY: the area is the loader's, between its commands, and larger.
        unsafe {
            let start = region.area(which).unwrap().add(parts_at);
            start.cast::<WritePart>().write_unaligned(part);
        }
        let write = Command::Write {
            which,
            parts_at,
            n_parts,
        };
        caller.post(&write).unwrap();
        assert_eq!(outcome(&caller, LONG).is_ok(), is_free, "{part:?}");
    }
}

#[test]
fn a_server_that_died_is_noticed() {
    let region = region();
    // It never looks at anything.
    let _dead = Callee::new(region);
    let mut caller = Caller::open(region, 7, &mut || Ok(())).unwrap();
    assert_eq!(region.owner(), Some(7));
    caller.post(&Command::Begin(wanted())).unwrap();
    let silent = outcome(&caller, Duration::from_millis(20));
    assert_eq!(silent, Err(GpuError::TimedOut));
    // Without a word the next server comes.
    let _next = Callee::new(region);
    assert!(matches!(outcome(&caller, LONG), Err(GpuError::Lost(_))));
    assert!(matches!(
        caller.post(&Command::EndWrites),
        Err(GpuError::Lost(_))
    ));
    let busy = Caller::open(region, 8, &mut || Ok(())).err();
    assert_eq!(busy, Some(GpuError::Busy), "the loader lives");
    drop(caller);
    assert_eq!(region.owner(), None);
    let caller = Caller::open(region, 8, &mut || Ok(())).unwrap();
    region.set_server_down();
    assert!(matches!(outcome(&caller, LONG), Err(GpuError::Lost(_))));
    assert!(matches!(region.room(), Err(GpuError::Lost(_))));
    drop(caller);
    let lost = Caller::open(region, 9, &mut || Ok(())).err();
    assert!(matches!(lost, Some(GpuError::Lost(_))));
}

#[test]
fn a_wait_for_the_clearing_can_be_interrupted() {
    let region = region();
    let _silent = Callee::new(region);
    drop(Caller::open(region, 1, &mut || Ok(())).unwrap());
    let interrupted = Caller::open(region, 2, &mut || Err(GpuError::Interrupted));
    assert_eq!(interrupted.err(), Some(GpuError::Interrupted));
}
