//! What the device knows of a tier's lists in order to choose among them: centroids and where the lists are.

use crate::memory::{Layout, pitch_of};
use crate::params::ListSlots;
use crate::tier::TierList;
use half::f16;

/// The lists of an index as the device sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct Directory {
    /// Halves per centroid.
    pub pitch: usize,
    /// `[n_lists, pitch]`: the centroids as stored, padded with zeroes.
    pub centroids: Vec<f16>,
    /// `[n_lists]`: their squared norms.
    pub norms: Vec<f32>,
    /// `[n_lists]`: slots; none for lists that are not in the tier or must not be used.
    pub slots: Vec<ListSlots>,
}

/// Offsets of a directory's arrays in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryPlan {
    /// f16 `[n_lists, pitch]`.
    pub centroids: usize,
    /// f32 `[n_lists]`.
    pub norms: usize,
    /// [`ListSlots`] `[n_lists]`.
    pub slots: usize,
    /// u32 `[n_lists]`: slots of each list.
    pub rows: usize,
    /// Bytes in all.
    pub bytes: usize,
}

impl DirectoryPlan {
    /// The plan for `n_lists` lists of vectors of `dim` dimensions.
    pub fn new(dim: usize, n_lists: usize) -> Self {
        let mut layout = Layout::default();
        Self {
            centroids: layout.take(n_lists * pitch_of(dim) * 2),
            norms: layout.take(n_lists * 4),
            slots: layout.take(n_lists * size_of::<ListSlots>()),
            rows: layout.take(n_lists * 4),
            bytes: layout.end(),
        }
    }
}

impl Directory {
    /// The directory of lists with these centroids (`[n_lists, dim]`, as stored).
    pub fn new(dim: usize, centroids: &[f16], lists: &[Option<TierList>]) -> Self {
        let pitch = pitch_of(dim);
        let mut padded = vec![f16::ZERO; lists.len() * pitch];
        let mut norms = Vec::with_capacity(lists.len());
        for (row, centroid) in padded
            .chunks_exact_mut(pitch)
            .zip(centroids.chunks_exact(dim))
        {
            row[..dim].copy_from_slice(centroid);
            let square = |x: &f16| x.to_f64() * x.to_f64();
            norms.push(centroid.iter().map(square).sum::<f64>() as f32);
        }
        Self {
            pitch,
            centroids: padded,
            norms,
            slots: slots_of(lists, &[]),
        }
    }

    /// The same with other slots, in device layout: `slots` and `rows`, from `plan.slots` on.
    pub fn slot_bytes(slots: &[ListSlots], plan: &DirectoryPlan) -> Vec<u8> {
        let mut bytes = vec![0; plan.bytes - plan.slots];
        bytes[..size_of_val(slots)].copy_from_slice(bytemuck::cast_slice(slots));
        let rows: Vec<u32> = slots.iter().map(|s| s.n_slots).collect();
        let at = plan.rows - plan.slots;
        bytes[at..at + rows.len() * 4].copy_from_slice(bytemuck::cast_slice(&rows));
        bytes
    }

    /// All of it in device layout.
    pub fn bytes(&self, plan: &DirectoryPlan) -> Vec<u8> {
        let mut bytes = vec![0; plan.slots];
        let centroids: &[u8] = bytemuck::cast_slice(&self.centroids);
        bytes[plan.centroids..plan.centroids + centroids.len()].copy_from_slice(centroids);
        let norms: &[u8] = bytemuck::cast_slice(&self.norms);
        bytes[plan.norms..plan.norms + norms.len()].copy_from_slice(norms);
        bytes.extend(Self::slot_bytes(&self.slots, plan));
        bytes
    }
}

/// The slots of lists, none for those of `skipped` (list numbers) and those that are not there.
pub fn slots_of(lists: &[Option<TierList>], skipped: &[u32]) -> Vec<ListSlots> {
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
