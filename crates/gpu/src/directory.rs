//! Where a tier's lists are, as the device sees them.

use crate::memory::Layout;
use crate::params::ListSlots;
use crate::tier::TierList;

/// Offsets of a directory's arrays in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirectoryPlan {
    /// [`ListSlots`] `[n_lists]`.
    pub slots: usize,
    /// u32 `[n_lists]`: slots of each list.
    pub rows: usize,
    /// Bytes in all.
    pub bytes: usize,
}

impl DirectoryPlan {
    /// The plan for `n_lists` lists.
    pub fn new(n_lists: usize) -> Self {
        let mut layout = Layout::default();
        Self {
            slots: layout.take(n_lists * size_of::<ListSlots>()),
            rows: layout.take(n_lists * 4),
            bytes: layout.end(),
        }
    }

    /// A directory in device layout.
    pub fn lay_out(&self, slots: &[ListSlots]) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        let rows: Vec<u32> = slots.iter().map(|s| s.n_slots).collect();
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(self.slots, bytemuck::cast_slice(slots));
        put(self.rows, bytemuck::cast_slice(&rows));
        bytes
    }
}

/// The slots of lists, none for those of `skipped` (list numbers) and those that are not there.
pub(crate) fn slots_of(lists: &[Option<TierList>], skipped: &[u32]) -> Vec<ListSlots> {
    let mut slots: Vec<ListSlots> = lists
        .iter()
        .map(|list| {
            list.map_or(ListSlots::default(), |l| ListSlots {
                first_slot: l.first_slot,
                n_slots: l.n_slots,
            })
        })
        .collect();
    for &list in skipped {
        slots[list as usize] = ListSlots::default();
    }
    slots
}
