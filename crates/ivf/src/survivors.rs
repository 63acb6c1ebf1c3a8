//! Entries of one list whose vectors are to be read, in slot order.

use crate::Tid;
use crate::layout::group::{GROUP, GroupHeader};

/// An entry that the filter let through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survivor {
    pub(crate) tid: Tid,
    pub(crate) err: f32,
    /// The filter's bound of the raw distance; minus infinity without filter.
    pub(crate) bound: f32,
}

/// Survivors with their slots, ascending.
#[derive(Debug, Default)]
pub(crate) struct Survivors {
    pub(crate) slots: Vec<u32>,
    pub(crate) entries: Vec<Survivor>,
}

impl Survivors {
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.entries.clear();
    }

    /// Appends the entries of `mask`.
    #[inline(always)]
    pub(crate) fn gather(
        &mut self,
        group: u32,
        header: &GroupHeader,
        mask: u32,
        bounds: &[f32; GROUP],
    ) {
        let first = group * GROUP as u32;
        let survivor = |i: usize| Survivor {
            tid: Tid {
                block: header.tid_block[i],
                offset: u32::from(header.tid_offset[i]),
            },
            err: header.err[i],
            bound: bounds[i],
        };
        if mask == u32::MAX {
            self.slots
                .extend(std::array::from_fn::<u32, GROUP, _>(|i| first + i as u32));
            self.entries
                .extend(std::array::from_fn::<Survivor, GROUP, _>(survivor));
            return;
        }
        let mut rest = mask;
        while rest != 0 {
            let i = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            self.slots.push(first + i as u32);
            self.entries.push(survivor(i));
        }
    }

    /// Keeps about `n` entries of least bound and moves the others to `rest` (which is emptied first).
    pub(crate) fn split_nearest(&mut self, n: usize, rest: &mut Survivors) {
        rest.clear();
        if self.entries.len() <= n {
            return;
        }
        let mut bounds: Vec<f32> = self.entries.iter().map(|entry| entry.bound).collect();
        let cut = *bounds.select_nth_unstable_by(n, f32::total_cmp).1;
        self.retain(|slot, entry| {
            let near = entry.bound <= cut;
            if !near {
                rest.slots.push(slot);
                rest.entries.push(*entry);
            }
            near
        });
    }

    /// Keeps the entries for which `keep(slot, entry)`; gives how many went.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(u32, &Survivor) -> bool) -> usize {
        let before = self.entries.len();
        let mut kept = 0;
        for i in 0..before {
            let (slot, entry) = (self.slots[i], self.entries[i]);
            if keep(slot, &entry) {
                (self.slots[kept], self.entries[kept]) = (slot, entry);
                kept += 1;
            }
        }
        self.slots.truncate(kept);
        self.entries.truncate(kept);
        before - kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_splits_and_keeps_order() {
        let mut header: GroupHeader = bytemuck::Zeroable::zeroed();
        header.tid_block = std::array::from_fn(|i| i as u32);
        let bounds = std::array::from_fn(|i| ((i * 7) % 32) as f32);
        let (mut survivors, mut rest) = (Survivors::default(), Survivors::default());
        survivors.gather(1, &header, u32::MAX, &bounds);
        survivors.gather(3, &header, 0b1010, &bounds);
        assert_eq!(
            survivors.slots,
            (32..64).chain([97, 99]).collect::<Vec<u32>>()
        );
        survivors.split_nearest(5, &mut rest);
        assert_eq!((survivors.slots.len(), rest.slots.len()), (6, 28));
        let worst = survivors
            .entries
            .iter()
            .map(|entry| entry.bound)
            .fold(0.0, f32::max);
        assert!(rest.entries.iter().all(|entry| entry.bound > worst));
        for part in [&survivors, &rest] {
            assert!(part.slots.windows(2).all(|w| w[0] < w[1]));
            assert!(
                part.slots
                    .iter()
                    .zip(&part.entries)
                    .all(|(slot, entry)| slot % 32 == entry.tid.block)
            );
        }
        assert_eq!(rest.retain(|slot, _| slot >= 60), 28 - rest.slots.len());
        assert!(rest.slots.iter().all(|&slot| slot >= 60));
    }
}
