//! Twin of `select_smallest`.

use crate::params::{NOTHING, OVERFLOW_SURVIVORS, from_ordered_bits};

/// What the select kernel does to one query: `survivors` (`[cap]`, all different but for [`NOTHING`]), `count`, `threshold`, `overflow`.
/// The kept survivors come in ascending order here; the kernel leaves them in any order.
pub fn select_smallest(
    survivors: &mut [u64],
    count: &mut u32,
    threshold: &mut f32,
    overflow: &mut u32,
    keep: usize,
) {
    let cap = survivors.len();
    if *count as usize > cap {
        *overflow |= OVERFLOW_SURVIVORS;
        *count = cap as u32;
    }
    let n = *count as usize;
    if n < keep {
        return;
    }
    survivors[..n].sort_unstable();
    let kept = survivors[..keep].partition_point(|&x| x != NOTHING);
    *count = kept as u32;
    if kept == keep {
        *threshold = from_ordered_bits((survivors[keep - 1] >> 32) as u32);
    }
}
