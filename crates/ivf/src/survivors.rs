//! Entries whose vectors are to be read.

use crate::Tid;
use crate::layout::group::{GROUP, GroupHeader};

/// An entry that the filter let through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survivor {
    /// Its place in the frozen part.
    pub(crate) slot: u32,
    /// Which of the search's lists it is in.
    pub(crate) probe: u32,
    pub(crate) tid: Tid,
    pub(crate) err: f32,
    /// The filter's bound of the raw distance; minus infinity without filter.
    pub(crate) bound: f32,
}

/// Appends the entries of `mask`.
#[inline(always)]
pub(crate) fn gather(
    survivors: &mut Vec<Survivor>,
    probe: u32,
    group: u32,
    header: &GroupHeader,
    mask: u32,
    bounds: &[f32; GROUP],
) {
    let first = group * GROUP as u32;
    let survivor = |i: usize| Survivor {
        slot: first + i as u32,
        probe,
        tid: Tid {
            block: header.tid_block[i],
            offset: u32::from(header.tid_offset[i]),
        },
        err: header.err[i],
        bound: bounds[i],
    };
    if mask == u32::MAX {
        survivors.extend(std::array::from_fn::<Survivor, GROUP, _>(survivor));
        return;
    }
    let mut rest = mask;
    while rest != 0 {
        let i = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        survivors.push(survivor(i));
    }
}

/// Leaves about `n` entries of least bound in `survivors`, in their order, and moves the others to `rest` (which is
/// emptied first).
pub(crate) fn split_nearest(survivors: &mut Vec<Survivor>, n: usize, rest: &mut Vec<Survivor>) {
    rest.clear();
    if survivors.len() <= n {
        return;
    }
    let mut bounds: Vec<f32> = survivors.iter().map(|entry| entry.bound).collect();
    let cut = *bounds.select_nth_unstable_by(n, f32::total_cmp).1;
    survivors.retain(|entry| {
        let near = entry.bound <= cut;
        if !near {
            rest.push(*entry);
        }
        near
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_and_splits_in_order() {
        let mut header: GroupHeader = bytemuck::Zeroable::zeroed();
        header.tid_block = std::array::from_fn(|i| i as u32);
        let bounds = std::array::from_fn(|i| ((i * 7) % 32) as f32);
        let (mut survivors, mut rest) = (Vec::new(), Vec::new());
        gather(&mut survivors, 0, 1, &header, u32::MAX, &bounds);
        gather(&mut survivors, 0, 3, &header, 0b1010, &bounds);
        let slots = |part: &[Survivor]| part.iter().map(|s| s.slot).collect::<Vec<u32>>();
        assert_eq!(
            slots(&survivors),
            (32..64).chain([97, 99]).collect::<Vec<u32>>()
        );
        split_nearest(&mut survivors, 5, &mut rest);
        assert_eq!((survivors.len(), rest.len()), (6, 28));
        let worst = survivors.iter().map(|s| s.bound).fold(0.0, f32::max);
        assert!(rest.iter().all(|s| s.bound > worst));
        for part in [&survivors, &rest] {
            assert!(part.windows(2).all(|w| w[0].slot < w[1].slot));
            assert!(part.iter().all(|s| s.slot % 32 == s.tid.block));
        }
        split_nearest(&mut survivors, 6, &mut rest);
        assert_eq!((survivors.len(), rest.len()), (6, 0));
    }
}
