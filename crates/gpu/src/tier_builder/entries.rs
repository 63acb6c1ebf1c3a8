//! Building a tier entry by entry: groups are made here as they would lie on pages.

use super::TierBuilder;
use crate::engine::TierWriter;
use crate::error::GpuError;
use crate::memory::TierPlan;
use crate::staging::{Part, Staging};
use crate::tier::TierList;
use half::f16;
use omen_ivf::Tid;
use omen_ivf::layout::group::{GROUP, GroupHeader};
use omen_ivf::list_reader::AppendedTo;
use omen_ivf::rabitq::Encoder;

/// Entries on their way to the tier.
#[derive(Default)]
pub(crate) struct Entries {
    /// `[n, row_words]`
    rows: Vec<f16>,
    errs: Vec<f32>,
    tids: Vec<Tid>,
    live: Vec<bool>,
}

impl Entries {
    pub(crate) fn push(&mut self, tid: Tid, live: bool, err: f32, row: &[f16]) {
        self.rows.extend_from_slice(row);
        self.errs.push(err);
        self.tids.push(tid);
        self.live.push(live);
    }

    pub(crate) fn n(&self) -> usize {
        self.errs.len()
    }

    /// As groups (`[ceil(n / 32), group_bytes]`), as they would lie on pages; with codes if there is an `encoder`. `row_words`: of a row.
    pub(crate) fn groups(
        &self,
        row_words: usize,
        group_bytes: usize,
        encoder: Option<&Encoder<'_>>,
    ) -> Vec<u8> {
        let mut groups = vec![0u8; self.n().div_ceil(GROUP) * group_bytes];
        let each = groups.chunks_exact_mut(group_bytes);
        for (first, group) in (0..self.n()).step_by(GROUP).zip(each) {
            let range = first..self.n().min(first + GROUP);
            let rows = &self.rows[range.start * row_words..range.end * row_words];
            let rows: Vec<&[f16]> = rows.chunks_exact(row_words).collect();
            let (errs, tids) = (&self.errs[range.clone()], &self.tids[range.clone()]);
            match encoder {
                Some(encoder) => encoder.encode_group(&rows, errs, tids, group),
                None => group.copy_from_slice(bytemuck::bytes_of(&header(errs, tids))),
            }
            let live = &self.live[range];
            let mask = (0..live.len()).fold(0u32, |mask, j| mask | u32::from(live[j]) << j);
            let at = std::mem::offset_of!(GroupHeader, live);
            group[at..at + 4].copy_from_slice(&mask.to_ne_bytes());
        }
        groups
    }

    /// Keeps the first `n`.
    fn truncate(&mut self, n: usize, dim: usize) {
        self.rows.truncate(n * dim);
        self.errs.truncate(n);
        self.tids.truncate(n);
        self.live.truncate(n);
    }
}

/// A list that is given entry by entry.
pub(super) struct OpenList {
    list: u32,
    entries: Entries,
    failed: Option<GpuError>,
}

impl<W: TierWriter + ?Sized> TierBuilder<W> {
    /// Starts a list (number below `n_lists`, not loaded before).
    pub fn begin_list(&mut self, list: u32) {
        self.open = Some(OpenList {
            list,
            entries: Entries::default(),
            failed: None,
        });
    }

    /// Adds the list's entry number `slot`. As from `omen_ivf::export::export_list`: a slot that is not the successor of
    /// the last one means that all slots from it on are void. Failures are kept and come out of `end_list`.
    /// `row`: as stored, `[row_words]`; `err`: its radius.
    pub fn push(&mut self, slot: u32, tid: Tid, live: bool, err: f32, row: &[f16]) {
        let dim = self.spec.row_words;
        let open = self.open.get_or_insert_with(|| OpenList {
            list: u32::MAX,
            entries: Entries::default(),
            failed: Some(GpuError::Other("entry outside a list".into())),
        });
        let at = slot as usize;
        if at > open.entries.n() || row.len() != dim {
            let error = format!("slot {slot} of {} dimensions out of place", row.len());
            open.failed.get_or_insert(GpuError::Other(error));
            return;
        }
        open.entries.truncate(at, dim);
        open.entries.push(tid, live, err, row);
    }

    /// Ends the list: its first `n_slots` slots count, read from the index at these generations. On failure the list is not in
    /// the tier, and the builder goes on with the next one, except after `Lost` and `TimedOut`. For tiers without codes.
    pub fn end_list(
        &mut self,
        n_slots: u32,
        layout_gen: u32,
        delete_gen: u32,
    ) -> Result<(), GpuError> {
        self.end_open(n_slots, layout_gen, delete_gen, None)
    }

    /// As `end_list`, with codes that `encoder` makes of the list's entries (one-bit codes, by the list's centroid).
    pub fn end_list_encoded(
        &mut self,
        n_slots: u32,
        layout_gen: u32,
        delete_gen: u32,
        encoder: &Encoder<'_>,
    ) -> Result<(), GpuError> {
        self.end_open(n_slots, layout_gen, delete_gen, Some(encoder))
    }

    fn end_open(
        &mut self,
        n_slots: u32,
        layout_gen: u32,
        delete_gen: u32,
        encoder: Option<&Encoder<'_>>,
    ) -> Result<(), GpuError> {
        let Some(mut open) = self.open.take() else {
            return Err(GpuError::Other("no list is open".into()));
        };
        if let Some(error) = open.failed.take() {
            return Err(error);
        }
        let (n, pushed) = (n_slots as usize, open.entries.n());
        if pushed < n || open.list as usize >= self.lists.len() {
            return Err(GpuError::Other(format!(
                "list {} has {pushed} entries, not {n_slots}",
                open.list
            )));
        }
        if self.plan.parts.codes() && encoder.is_none() {
            return Err(GpuError::Other("entries without codes".into()));
        }
        let Some(taken) = self.take_slots(n) else {
            let wanted = (self.free.n_slots() - self.free.n() + n) as u64;
            let needed = TierPlan::new(&self.spec, self.plan.parts, wanted)?.bytes as u64;
            return Err(GpuError::OutOfMemory {
                needed,
                available: self.plan.bytes as u64,
            });
        };
        open.entries.truncate(n, self.spec.row_words);
        let encoder = encoder.filter(|_| self.plan.parts.codes());
        let (row_words, group_bytes) = (self.spec.row_words, self.staging.shape().group_bytes);
        let groups = open.entries.groups(row_words, group_bytes, encoder);
        self.stage_entries(&open.entries, &groups, taken.start)?;
        self.lists[open.list as usize] = Some(TierList {
            first_slot: taken.start as u32,
            n_slots,
            n_live: open.entries.live.iter().map(|&live| u32::from(live)).sum(),
            n_room: taken.len() as u32,
            layout_gen,
            delete_gen,
            last_live: 0,
            appended: AppendedTo::NOTHING,
        });
        Ok(())
    }

    /// Sends entries, with the groups made of them, to the slots from `slot` on.
    pub(crate) fn stage_entries(
        &mut self,
        entries: &Entries,
        groups: &[u8],
        slot: usize,
    ) -> Result<(), GpuError> {
        let group_bytes = self.staging.shape().group_bytes;
        self.stage_groups(slot, entries.n(), |first, to| {
            to.copy_from_slice(&groups[first / GROUP * group_bytes..][..to.len()]);
            Ok(())
        })?;
        if self.plan.parts.rows() {
            let (rows, dim): (&[u8], _) =
                (bytemuck::cast_slice(&entries.rows), self.spec.row_words);
            self.stage_rows(slot, entries.n(), |first, to| {
                to.copy_from_slice(&rows[2 * first * dim..][..to.len()]);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Sends the groups of `n` entries to the slots from `slot` on: `fill(first, to)` writes those of entry `first` (whole groups come before it) and
    /// those that follow, `[to.len() / group_bytes, group_bytes]`, in order.
    pub(crate) fn stage_groups(
        &mut self,
        slot: usize,
        n: usize,
        fill: impl FnMut(usize, &mut [u8]) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let group_bytes = self.staging.shape().group_bytes;
        self.stage(
            Staging::groups,
            |n| n.div_ceil(GROUP) * group_bytes,
            slot,
            n,
            fill,
        )
    }

    /// As [`Self::stage_groups`], the rows, `[to.len() / 2 / row_words, row_words]`.
    pub(crate) fn stage_rows(
        &mut self,
        slot: usize,
        n: usize,
        fill: impl FnMut(usize, &mut [u8]) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let row_bytes = 2 * self.spec.row_words;
        self.stage(Staging::rows, |n| n * row_bytes, slot, n, fill)
    }

    /// `part` takes room for entries from a slot on, which take `bytes_of` them.
    #[allow(unsafe_code)]
    fn stage(
        &mut self,
        part: fn(&mut Staging, usize, usize) -> Option<Part>,
        bytes_of: impl Fn(usize) -> usize,
        slot: usize,
        n: usize,
        mut fill: impl FnMut(usize, &mut [u8]) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let mut first = 0;
        while first < n {
            let Some(part) = part(&mut self.staging, slot + first, n - first) else {
                self.staging.turn(self.writer.as_mut())?;
                continue;
            };
            // SAFETY: so much is taken for the entries that the part has room for; it is this part's alone, and ordinary memory of the writer, which is held.
            let to = unsafe { std::slice::from_raw_parts_mut(part.start, bytes_of(part.n)) };
            fill(first, to)?;
            first += part.n;
        }
        Ok(())
    }
}

/// The header of a group without codes.
fn header(errs: &[f32], tids: &[Tid]) -> GroupHeader {
    let mut header: GroupHeader = bytemuck::Zeroable::zeroed();
    header.err[..errs.len()].copy_from_slice(errs);
    for (i, tid) in tids.iter().enumerate() {
        header.tid_block[i] = tid.block;
        header.tid_offset[i] = tid.offset as u16;
    }
    header
}
