//! What a staging area holds, and whether that keeps within area and tier.

use crate::error::GpuError;
use crate::launch::unpack::{ENTRIES_PER_ITEM, Items};
use crate::memory::Parts;
use crate::params::UnpackItem;
use crate::tier::TierSpec;
use half::f16;
use omen_ivf::layout::group::{Filter, GROUP, GroupShape, HEADER_LINES};
use omen_ivf::layout::page::LINE_BYTES;
use std::ops::Range;

/// Parts and items of a staging area start at multiples of this.
pub(crate) const PART_ALIGN: usize = 16;

/// What a staging area holds when it is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpack {
    /// Bytes in use, items included.
    pub used: usize,
    /// Byte where the items start, a multiple of 16.
    pub items_at: usize,
    /// Items of groups.
    pub groups: Items,
    /// Items of rows.
    pub rows: Items,
    /// How the parts look.
    pub shape: StageShape,
}

impl Unpack {
    /// Checks that this keeps within `area` and within the free slots of a tier of these parts: where it, or what is in the area, comes from
    /// another process. Errors: `Other`.
    pub fn check(
        &self,
        area: &[u8],
        parts: Parts,
        may_fill: impl Fn(&Range<usize>) -> bool,
    ) -> Result<(), GpuError> {
        let broken = |what: &str| Err(GpuError::Other(format!("staging area: {what}")));
        let n_items = self.groups.n.saturating_add(self.rows.n);
        let items_bytes = n_items.saturating_mul(size_of::<UnpackItem>());
        if self.used > area.len()
            || !self.items_at.is_multiple_of(PART_ALIGN)
            || self.items_at.checked_add(items_bytes) != Some(self.used)
            || (self.groups.first, self.rows.first) != (0, self.groups.n)
            || self.rows.n > 0 && !parts.rows()
        {
            return broken("bounds");
        }
        let (entries, items) = area[..self.used].split_at(self.items_at);
        for (i, item) in items.chunks_exact(size_of::<UnpackItem>()).enumerate() {
            let item: UnpackItem = bytemuck::pod_read_unaligned(item);
            let n = item.n as usize;
            let is_group = i < self.groups.n;
            if is_group && n > ENTRIES_PER_ITEM {
                return broken("an item of too many entries");
            }
            let bytes = if is_group {
                n.div_ceil(GROUP) * self.shape.group_bytes
            } else {
                n * 2 * self.shape.dim
            };
            let is_wide = is_group || self.shape.dim.is_multiple_of(8);
            let align = if is_wide {
                PART_ALIGN
            } else {
                size_of::<f16>()
            };
            let at = item.at as usize;
            if !at.is_multiple_of(align) || at + bytes > entries.len() {
                return broken("an item beyond the area");
            }
            let first = item.first_slot as usize;
            if !may_fill(&(first..first + n)) {
                return broken("an item for slots that are not free");
            }
        }
        Ok(())
    }
}

/// How parts of streams look in a staging area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageShape {
    /// Halves per row, or words of as many bits; rows lie back to back.
    pub dim: usize,
    /// From one group to the next.
    pub group_bytes: usize,
    /// 32-bit words per code of a group; 0: headers alone.
    pub code_words: usize,
}

impl StageShape {
    /// What a tier of these parts is loaded from.
    pub fn new(spec: &TierSpec, parts: Parts) -> Self {
        let codes = GroupShape::new(Filter::OneBit, spec.dim as u32);
        let (group_bytes, code_words) = if parts.codes() {
            (codes.bytes(), codes.code_dim as usize / 32)
        } else {
            (HEADER_LINES * LINE_BYTES, 0)
        };
        Self {
            dim: spec.row_words,
            group_bytes,
            code_words,
        }
    }
}
