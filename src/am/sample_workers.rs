//! Parallel workers take the sample of a build: they look at its blocks and fetch the vectors.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use omen_ivf::Tid;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::heap_rows::{HeapRows, HeapValue};
use super::parallel::{self, Member, SEND_BYTES};
use super::random::Random;
use super::sample::{Reservoir, Values, check_dim};
use super::sample_blocks::Plan;
use crate::error::Result;

/// Blocks that a worker takes at a time.
const BLOCKS: u64 = 16;
/// Bytes of block and offset before a row's numbers.
const HEAD_BYTES: usize = 8;

/// What workers are told, and what they tell.
#[repr(C)]
struct Sampling {
    plan: Plan,
    values: Values,
    seed: u64,
    /// Blocks of the plan that workers have taken.
    next: AtomicU64,
    /// Rows come across, by workers that have ended.
    n_seen: AtomicU64,
}

/// Has up to `n_workers` workers take the sample of `plan`. Returns the rows come across, and the number of
/// workers; `None` if no worker could be started. Errors: those
/// of reading; a row of another dimension.
///
/// # Safety
/// `rows` is what `ambuild` was called with.
pub(super) unsafe fn fill(
    reservoir: &mut Reservoir,
    rows: &HeapRows,
    plan: Plan,
    n_workers: usize,
    random: &mut Random,
) -> Result<Option<(u64, usize)>> {
    let values = reservoir.values();
    let told = Sampling {
        plan,
        values,
        seed: random.next(),
        next: AtomicU64::new(0),
        n_seen: AtomicU64::new(0),
    };
    let mut receive = |_: &Sampling, message: Option<&[u8]>| {
        let row_bytes = HEAD_BYTES + values.words() * size_of::<f32>();
        for row in message.unwrap_or_default().chunks_exact(row_bytes) {
            let (words, _) = row.as_chunks::<4>();
            let [block, offset] = [words[0], words[1]].map(u32::from_ne_bytes);
            if let Some(place) = reservoir.place(Tid { block, offset }, random) {
                for (x, &bytes) in place.iter_mut().zip(&words[2..]) {
                    *x = f32::from_ne_bytes(bytes);
                }
            }
        }
        Ok(())
    };
    // SAFETY: by this function's contract.
    let run = unsafe { parallel::run(rows, n_workers, c"omen_sample_worker", told, &mut receive)? };
    Ok(run.map(|(n_launched, told)| (told.n_seen.into_inner(), n_launched)))
}

/// A worker's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn omen_sample_worker(
    seg: *mut pg_sys::dsm_segment,
    toc: *mut pg_sys::shm_toc,
) {
    // SAFETY: Postgres calls this in a worker that `fill` has launched, with the memory it has filled.
    let outcome = unsafe { parallel::serve(seg, toc, work) };
    if let Err(error) = outcome {
        error.raise();
    }
}

/// Takes some of the plan's blocks after the other, as long as there are.
fn work(member: &mut Member<Sampling>) -> Result<()> {
    let (rows, told, queue) = (&member.rows, member.told, &mut member.queue);
    // Neighbouring seeds give generators apart: a seed's first number is well mixed.
    let seed = Random::new(told.seed.wrapping_add(member.number as u64)).next();
    let mut random = Random::new(seed);
    let mut message: Vec<u8> = Vec::with_capacity(2 * SEND_BYTES);
    let mut n_seen = 0;
    let mut blocks = told.plan.blocks();
    let mut passed = 0;
    let mut visit = |tid: Tid, value: &HeapValue| {
        n_seen += 1;
        if !told.plan.takes(&mut random) {
            return Ok(());
        }
        value.with(|v| {
            check_dim(told.values.kind, told.values.dim, v)?;
            let at = message.len();
            message.resize(at + HEAD_BYTES + size_of_val(v), 0);
            let (words, _) = message[at..].as_chunks_mut::<4>();
            (words[0], words[1]) = (tid.block.to_ne_bytes(), tid.offset.to_ne_bytes());
            for (bytes, x) in words[2..].iter_mut().zip(v) {
                *bytes = x.to_ne_bytes();
            }
            if message.len() >= SEND_BYTES {
                queue.send(&message)?;
                message.clear();
            }
            Ok(())
        })?
    };
    loop {
        let first = told.next.fetch_add(BLOCKS, Ordering::Relaxed);
        if first >= u64::from(told.plan.n_visited) {
            break;
        }
        let skipped = (first - passed) as usize;
        passed = first + BLOCKS;
        for block in blocks.by_ref().skip(skipped).take(BLOCKS as usize) {
            pgrx::check_for_interrupts!();
            rows.for_each_in_block(block, &mut visit);
        }
    }
    if !message.is_empty() {
        queue.send(&message)?;
    }
    told.n_seen.fetch_add(n_seen, Ordering::Relaxed);
    Ok(())
}
