//! Changes to pages that a disk or a program could make.

use omen_ivf::layout::directory::entry_position;
use omen_ivf::layout::page::{PageKind, TAIL_START};
use omen_ivf::mem_store::MemStore;
use omen_ivf::store::{PAGE_BYTES, PageStore};

use super::super::Bytes;

/// Bytes of Postgres's page header, and the fields of it that Postgres looks at when it reads a page.
const HEADER_BYTES: usize = 24;
const PD_LOWER: usize = 12;

/// Damages a page, or two. The kind of page is drawn first, so that those that are few are not rarely hit.
pub(super) fn damage(store: &MemStore, kinds: &[(PageKind, Vec<u32>)], input: &mut Bytes) {
    let n_blocks = store.n_blocks().expect("it has pages");
    let draw = |input: &mut Bytes| {
        let blocks = &kinds[input.below(kinds.len())].1;
        blocks[input.below(blocks.len())]
    };
    let block = draw(input);
    if block >= n_blocks {
        // The file was cut off before.
        return;
    }
    let image = |block: u32| store.read(block, <[u8]>::to_vec).expect("it is there");
    match input.u8() % 12 {
        0 | 1 => {
            let (at, value) = (place(input), input.u8());
            store.damage(block, |page| page[at] = value);
        }
        2 => {
            let (at, bit) = (place(input), input.u8() % 8);
            store.damage(block, |page| page[at] ^= 1 << bit);
        }
        3 | 4 => {
            let (at, value) = (place(input) & !3, number(n_blocks, input));
            store.damage(block, |page| {
                page[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            });
        }
        5 => {
            let at = place(input);
            let bytes: [u8; 40] = input.array();
            let n = bytes.len().min(PAGE_BYTES - at);
            store.damage(block, |page| page[at..at + n].copy_from_slice(&bytes[..n]));
        }
        6 => store.damage(block, |page| page.fill(0)),
        7 => {
            // A half that was not written.
            let (start, end) = [(64, 4096), (4096, PAGE_BYTES)][input.below(2)];
            let value = [0, 0xFF][input.below(2)];
            store.damage(block, |page| page[start..end].fill(value));
        }
        8 => {
            let other = draw(input);
            if other < n_blocks {
                let copy = image(other);
                store.damage(block, |page| page.copy_from_slice(&copy));
            }
        }
        9 => {
            let other = draw(input);
            if other < n_blocks {
                let (one, two) = (image(block), image(other));
                store.damage(block, |page| page.copy_from_slice(&two));
                store.damage(other, |page| page.copy_from_slice(&one));
            }
        }
        10 => header(store, block, input),
        _ => store.truncate(input.u32() % n_blocks),
    }
}

/// Where Postgres accepts it: lower, upper and special in order, special a multiple of 8. (Other headers it refuses itself.)
fn header(store: &MemStore, block: u32, input: &mut Bytes) {
    let mut limits = [0; 3].map(|_| input.below(PAGE_BYTES + 1) as u16);
    limits[2] &= !7;
    limits.sort_unstable();
    limits[2] = limits[2].next_multiple_of(8);
    if limits[1] == 0 {
        // A new page to Postgres, which must be all zero.
        return;
    }
    store.damage(block, |page| {
        for (i, limit) in limits.into_iter().enumerate() {
            let at = PD_LOWER + 2 * i;
            page[at..at + 2].copy_from_slice(&limit.to_ne_bytes());
        }
    });
}

/// A byte offset behind Postgres's header, more often where structure is.
fn place(input: &mut Bytes) -> usize {
    let (start, end) = match input.u8() % 10 {
        0..3 => (TAIL_START, PAGE_BYTES),
        3..5 => {
            let at = entry_position(u32::from(input.u8()) % 140).1;
            (at, at + 64)
        }
        5 => (64, 64 + 232),
        6 | 7 => (64, 1024),
        _ => (HEADER_BYTES, PAGE_BYTES),
    };
    start + input.below(end - start)
}

/// Numbers that could be blocks, counts or lengths.
fn number(n_blocks: u32, input: &mut Bytes) -> u32 {
    match input.u8() % 10 {
        0 => 0,
        1 => 1,
        2 => n_blocks - 1,
        3 => n_blocks,
        4 => u32::MAX,
        5 => u32::MAX - 1,
        6 => 1 << 17,
        7 => i32::MAX as u32,
        8 => input.u32() % n_blocks,
        _ => input.u32(),
    }
}
