//! What only shows behind the builder: commands of any content, servers that die, waits that end.

#![allow(unsafe_code)]

use super::callee::Callee;
use super::caller::Caller;
use super::command::{Command, Wanted};
use super::region::{LoadRegion, Room};
use super::{Host, HostOptions};
use crate::message::TierKey;
use bytemuck::Zeroable;
use omen_gpu::context::Wait;
use omen_gpu::memory::Parts;
use omen_gpu::{Gpu, GpuError, TierSpec};
use omen_ivf::Metric;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
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
        spec: TierSpec {
            metric: Metric::L2,
            dim: 40,
            n_lists: 4,
        },
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
}

const LONG: Duration = Duration::from_secs(10);

fn any_command(rng: &mut ChaCha8Rng) -> Command {
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
    match rng.random_range(0..20) {
        0 => Command::EndWrites,
        1 => Command::Rotation { seed: at as u64 },
        2 => Command::Finish {
            which,
            has_centroids: true,
        },
        3..8 => Command::Write {
            which,
            start,
            len: if rng.random() { len } else { len >> 4 },
            at,
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
    }
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
    let host = Host::start(region, gpu.clone(), sender, HostOptions::default()).unwrap();
    let (mut fine, mut refused) = (0, 0);
    for _ in 0..400 {
        let mut caller = Caller::open(region, 1, &mut || Ok(())).unwrap();
        if rng.random_bool(0.95) {
            caller.post(&Command::Begin(wanted())).unwrap();
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
            let command = any_command(&mut rng);
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
    assert!(refused > 200 && fine > 0);
    assert_eq!(host.lost(), None);
    while tiers.try_recv().is_ok() {}
    drop(host);
    assert_eq!(gpu.allocated(), 0);
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
